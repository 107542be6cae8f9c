"""Kubo's RPC: the same calls by other people's clients against Kubo and against us give the same.

Every scenario runs on both servers, and what each was told is compared step by step. What differs
by nature is not told: ids, ports, sizes of stores, the words of errors that come from Go.
"""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import random
import re
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.kubo_daemon import kubo_daemon
from tests.support.kubo_rpc import (
    ANSWER_S,
    FILE,
    FOLDER,
    SYMLINK,
    Cid,
    JsClient,
    Server,
    aioipfs,
    ipfshttpclient,
    js_client,
    told,
)
from tests.support.rpc_server import rpc_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # ipfshttpclient uses old urllib3 words
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

HELLO = "bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq"  # b"hello"
NOBODY_HAS = "bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yea"
MIB = 1 << 20


def random_bytes(count: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(count)


BIG = random_bytes(3 * MIB + 17, 1)
MID = BIG[: MIB + 1000]


@pytest.fixture(scope="module")
def servers(tmp_path_factory) -> Iterator[tuple[Server, Server]]:
    """Kubo, and us."""
    folder = tmp_path_factory.mktemp("rpc")
    (folder / "kubo").mkdir()
    with (
        kubo_daemon(folder / "kubo", None, profile="unixfs-v1-2025") as kubo,
        rpc_server(folder / "ours") as ours,
    ):
        host, port = kubo.api.split(":")
        yield Server(host, int(port), folder), ours


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Files of several kinds, to be added."""
    top = tmp_path_factory.mktemp("files") / "top"
    (top / "sub" / "deep").mkdir(parents=True)
    (top / "empty").mkdir()
    (top / "a.txt").write_bytes(b"hello")
    (top / "ü ñ.bin").write_bytes(random_bytes(MIB + 1, 2))
    (top / "sub" / "b.txt").write_bytes(b"")
    (top / "sub" / "deep" / "c.bin").write_bytes(random_bytes(2 * MIB, 3))
    (top / "link").symlink_to("sub/b.txt")
    return top


def same(servers: tuple[Server, Server], scenario: Callable[[Server], Iterator[Any]]) -> list[Any]:
    """What both were told, step by step."""
    kubo, ours = servers
    expected = list(scenario(kubo))
    for step, (theirs, got) in enumerate(zip(expected, scenario(ours), strict=True)):
        assert got == theirs, f"step {step} of {scenario.__name__}"
    return expected


def unpacked(archive: bytes) -> dict[str, Any]:
    """What a tar holds: bytes, a symlink's target, None for a folder."""
    found: dict[str, Any] = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            if member.isfile():
                content = tar.extractfile(member)
                assert content is not None
                found[member.name] = content.read()
            else:
                found[member.name.rstrip("/")] = member.linkname or None
    return found


# -- the wire ------------------------------------------------------------------------------------


def test_who_may_call_and_what_is_malformed(servers):
    def scenario(server: Server):
        yield server.post("version", method="GET").plain
        yield server.post("version", headers={"Origin": "http://evil.example"}).plain
        yield server.post("version", headers={"Referer": "http://evil.example/x"}).plain
        yield server.post("version", headers={"User-Agent": "Mozilla/5.0"}).plain
        yield server.post("version", headers={"Origin": server.url}).status
        yield server.post("version", ("unknown", "option")).status
        yield server.post("nonsense").plain
        yield server.post("cat").plain
        yield server.post(f"cat?arg={HELLO}&offset=x").plain
        yield server.post(f"cat?arg={HELLO}&offset=1&offset=2").plain
        yield server.post("cat?arg=zzz").plain
        yield server.post("add").plain
        yield server.post("add", body=b"hello").plain
        yield server.upload("add?pin=maybe", ("a", b"hello", FILE)).plain
        yield server.upload("add?cid-version=x", ("a", b"hello", FILE)).plain
        yield server.post("block/put").plain

    same(servers, scenario)


def test_an_add_may_be_chunked_and_tell_booleans_as_python_does(servers):
    def scenario(server: Server):
        body = b'--XX\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\nhello'
        pieces = (bytes([byte]) for byte in body + b"\r\n--XX--\r\n")
        headers = {"Content-Type": "multipart/form-data; boundary=XX"}
        yield server.post("add?pin=False&raw-leaves=True", body=pieces, headers=headers).plain

    same(servers, scenario)


def test_adding_under_every_option(servers):
    def scenario(server: Server):
        hello, big = ("d/h.txt", b"hello", FILE), ("big", MID, FILE)
        for options in (
            "", "?pin=false", "?raw-leaves=False", "?cid-version=0", "?cid-version=1",
            "?cid-version=0&raw-leaves=false", "?chunker=size-100000", "?chunker=default",
            "?trickle=true", "?trickle=true&raw-leaves=false", "?only-hash=True",
            "?wrap-with-directory=true", "?chunker=size-65536&max-file-links=4", "?quieter=true",
            "?silent=true", "?hash=sha2-256", "?w=true&n=true&s=size-200000",
        ):  # fmt: skip
            said = server.upload(f"add{options}", hello, ("top.txt", b"", FILE))
            yield options, said.plain
            yield options, server.upload(f"add{options}", big).plain
        for options in (
            "?chunker=what",
            "?chunker=size-0",
            "?cid-version=2",
            "?chunker=size-9999999",
        ):
            yield options, server.upload(f"add{options}", hello).plain

    same(servers, scenario)


def test_adding_trees_as_bodies_tell_them(servers):
    def scenario(server: Server):
        hello = b"hello"
        yield server.upload("add", ("", hello, FILE)).plain
        yield server.upload("add", ("dd", b"", FOLDER)).plain
        yield server.upload("add?wrap-with-directory=true", ("dd", b"", FOLDER)).plain
        yield server.upload("add", ("%C3%A9%2Fx+y.txt", hello, FILE)).plain
        yield server.upload("add", ("../x", hello, FILE)).plain
        yield server.upload("add", ("/abs//./x", hello, FILE)).plain
        parts = [("dd", b"", FOLDER), ("dd/ln", b"h.txt", SYMLINK), ("dd/z", hello, FILE)]
        yield server.upload("add", *parts, ("ee", hello, FILE), ("dd/y", hello, FILE)).plain
        many = [(f"m/{number:03}", b"%d" % number, FILE) for number in range(300)]
        yield server.upload("add", ("m", b"", FOLDER), *many).plain

    same(servers, scenario)


def test_what_an_add_pins_and_only_hash_does_not_keep(servers):
    def scenario(server: Server):
        def pins(kind: str) -> dict[str, Any]:
            return server.post(f"pin/ls?type={kind}").lines[0].get("Keys", {})

        before = pins("recursive")
        file, unpinned = random_bytes(100, 5), random_bytes(100, 6)
        root = server.upload("add", ("d/one", file, FILE)).lines[-1]["Hash"]
        server.upload("add?pin=false", ("d/two", unpinned, FILE))
        yield sorted(set(pins("recursive")) - set(before)), root
        yield server.post(f"pin/ls?arg={root}/one").plain
        gone = server.upload("add?only-hash=true", ("x", random_bytes(99, 7), FILE)).lines[0][
            "Hash"
        ]
        yield server.post(f"block/get?arg={gone}&offline=true").plain
        server.post(f"pin/rm?arg={root}")

    same(servers, scenario)


def test_reading_files_and_ranges(servers):
    def scenario(server: Server):
        root = server.upload(
            "add?chunker=size-65536", ("d/big", BIG, FILE), ("d/h", b"hello", FILE)
        )
        big, _, top = (row["Hash"] for row in root.lines)
        for path in (big, f"/ipfs/{big}", f"{top}/big", f"/ipfs/{top}/h"):
            yield server.post("cat", ("arg", path)).plain
        for options in (
            "offset=1&length=2", "offset=65535&length=2", "offset=3000000", "offset=99999999",
            "length=0", "offset=-1", "length=-1", "o=5&l=10",
        ):  # fmt: skip
            yield options, server.post(f"cat?arg={big}&{options}").plain
        yield server.post(f"cat?arg={HELLO}&arg={top}/h&offset=3&length=4").plain
        yield server.post(f"cat?arg={top}").plain
        yield server.post(f"cat?arg={top}/nothing").plain
        yield server.post(f"cat?arg={top}/h/below").status
        yield server.post(f"cat?arg={NOBODY_HAS}&offline=true").plain
        yield server.post(f"block/stat?arg={NOBODY_HAS}&offline=true").plain

    same(servers, scenario)


def test_get_is_a_tar_or_gzip_of_the_same_content(servers):
    def scenario(server: Server):
        parts = [
            ("t/a.txt", b"hello", FILE), ("t/s/big", BIG, FILE), ("t/s/ln", b"../a.txt", SYMLINK),
            ("t/e", b"", FOLDER), ("t/" + "n" * 120, b"", FILE),
        ]  # fmt: skip
        top = server.upload("add", *parts).lines[-1]["Hash"]
        for path in (top, f"{top}/a.txt", f"{top}/s"):
            said = server.post(f"get?arg={path}")
            yield said.status, said.headers["content-type"], unpacked(said.body)
            yield unpacked(server.post(f"get?arg={path}&archive=true").body)
            packed = server.post(f"get?arg={path}&archive=true&compress=true")
            yield packed.headers["content-type"], unpacked(gzip.decompress(packed.body))
        plain = server.post(f"get?arg={top}/s/big&compress=true&compression-level=1")
        yield plain.headers["content-type"], gzip.decompress(plain.body)
        yield server.post(f"get?arg={top}/none").plain
        yield server.post(f"get?arg={top}&compression-level=99&compress=true").status

    same(servers, scenario)


def test_blocks(servers):
    def scenario(server: Server):
        one, two = ("a", b"hello", FILE), ("b", b"other", FILE)
        for options in (
            "", "?pin=true", "?cid-codec=dag-pb", "?cid-codec=dag-cbor", "?format=v0",
            "?format=protobuf", "?format=raw", "?mhtype=sha2-512", "?mhtype=blake3",
            "?mhtype=sha2-256&mhlen=-1", "?cid-codec=nope", "?mhtype=nope",
        ):  # fmt: skip
            yield options, server.upload(f"block/put{options}", one, two).plain
        yield server.upload("block/put", ("a", bytes(2 * MIB), FILE)).plain
        yield server.upload("block/put", ("a", bytes(2 * MIB + 1), FILE)).plain
        yield server.post(f"block/get?arg={HELLO}").plain
        yield server.post(f"block/get?arg=/ipfs/{HELLO}").plain
        yield server.post(f"block/stat?arg={HELLO}").plain
        yield server.post(f"block/rm?arg={NOBODY_HAS}").plain
        yield server.post(f"block/rm?arg={NOBODY_HAS}&force=true").plain
        loose = server.upload("block/put", ("a", b"loose", FILE)).lines[0]["Key"]
        yield server.post(f"block/rm?arg={loose}").plain
        yield server.post(f"block/get?arg={loose}&offline=true").plain

    same(servers, scenario)


def test_values_in_dags(servers):
    def scenario(server: Server):
        value = {
            "a": 1, "l": {"/": HELLO}, "b": {"/": {"bytes": "aGk"}}, "list": [None, True, "ü<&>"],
            "deep": {"m": {"n": [1, 2, {"x": -5}]}}, "f": 1.5,
        }  # fmt: skip
        body = ("v", json.dumps(value).encode(), FILE)
        keys = []
        for options in (
            "", "?store-codec=dag-json", "?pin=true", "?hash=sha2-512",
            "?store-codec=dag-cbor&input-codec=dag-json", "?input-codec=nope", "?store-codec=nope",
        ):  # fmt: skip
            said = server.upload(f"dag/put{options}", body)
            yield options, said.plain
            keys += [row["Cid"]["/"] for row in said.lines if "Cid" in row]
        yield server.upload("dag/put?store-codec=raw&input-codec=raw", ("r", b"hello", FILE)).plain
        yield server.upload("dag/put", ("r", b"no JSON", FILE)).status
        for key in keys:
            for below in ("", "/l", "/a", "/b", "/list", "/list/2", "/deep/m/n/2/x"):
                yield below, server.post(f"dag/get?arg={key}{below}").plain
            yield server.post(f"dag/get?arg={key}/nothing").status
            yield server.post(f"dag/get?arg={key}&output-codec=dag-cbor").plain
            for below in ("", "/l", "/a", "/deep/m"):
                yield server.post(f"dag/resolve?arg={key}{below}").plain
        node = {
            "Data": {"/": {"bytes": "CAE"}},
            "Links": [{"Hash": {"/": HELLO}, "Name": "h", "Tsize": 5}],
        }
        part = ("n", json.dumps(node).encode(), FILE)
        folder = server.upload("dag/put?store-codec=dag-pb", part)
        yield folder.plain
        top = folder.lines[0]["Cid"]["/"]
        yield server.post(f"dag/get?arg={top}").plain
        yield server.post(f"dag/get?arg={top}/h").plain
        yield server.post(f"dag/get?arg={top}&output-codec=nope").plain
        yield server.post(f"dag/stat?arg={top}&progress=false").plain

    same(servers, scenario)


def test_cars_out_and_in(servers):
    def scenario(server: Server):
        parts = [("t/a.txt", b"hello", FILE), ("t/s/big", BIG, FILE), ("t/same", b"hello", FILE)]
        top = server.upload("add?pin=false", *parts).lines[-1]["Hash"]
        car = server.post(f"dag/export?arg={top}")
        yield car.plain
        part = ("c", car.body, FILE)
        yield server.upload("dag/import", part).plain
        yield server.upload("dag/import?stats=true&pin-roots=false", part).plain
        yield server.upload("dag/import?stats=true", part, part).plain
        yield server.post(f"pin/ls?arg={top}").plain
        yield server.post(f"pin/rm?arg={top}").plain
        yield server.upload("dag/import", ("c", b"no CAR", FILE)).status
        yield server.upload("dag/import", ("c", car.body[:-1], FILE)).status
        wrong = bytearray(car.body)
        wrong[-1] ^= 1
        yield server.upload("dag/import", ("c", bytes(wrong), FILE)).status
        yield server.post(f"dag/stat?arg={top}&progress=false").plain
        yield server.post(f"dag/export?arg={NOBODY_HAS}&offline=true").status

    same(servers, scenario)


def test_listing_folders(servers):
    def scenario(server: Server):
        parts = [
            ("t/b.txt", b"hello", FILE), ("t/a/big", BIG, FILE), ("t/ln", b"b.txt", SYMLINK),
            ("t/e", b"", FOLDER),
        ]  # fmt: skip
        rows = server.upload("add", *parts).lines
        top = rows[-1]["Hash"]
        big = next(row["Hash"] for row in rows if row["Name"] == "t/a/big")
        for path in (top, f"/ipfs/{top}", f"{top}/a", f"{top}/b.txt", big, HELLO):
            yield server.post(f"ls?arg={path}").plain
            yield server.post(f"ls?arg={path}&stream=true").plain
            yield server.post(f"ls?arg={path}&size=false&resolve-type=false").plain
        yield server.post(f"ls?arg={top}&arg={HELLO}").plain
        yield server.post(f"ls?arg={top}/nothing").plain
        many = [(f"m/{number:05}-{'x' * 200}", b"", FILE) for number in range(1500)]
        shards = server.upload("add", *many).lines[-1]["Hash"]
        yield shards, server.post(f"ls?arg={shards}").plain
        listed = server.post(f"ls?arg={shards}&stream=true").lines
        yield sorted(row["Objects"][0]["Links"][0]["Name"] for row in listed)
        yield server.post(f"cat?arg={shards}/00777-{'x' * 200}").plain

    same(servers, scenario)


def test_pins(servers):
    def scenario(server: Server):
        server.upload("block/put", ("a", b"hello", FILE))
        server.post(f"pin/rm?arg={HELLO}")
        parts = [("t/a.txt", b"hello", FILE), ("t/s/b", random_bytes(2000, 9), FILE)]
        top = server.upload("add?pin=false", *parts).lines[-1]["Hash"]
        yield server.post(f"pin/ls?arg={top}").plain
        yield server.post(f"pin/rm?arg={top}").plain
        yield server.post(f"pin/add?arg={top}").plain
        yield server.post(f"pin/ls?arg={top}").plain
        yield server.post(f"pin/ls?arg={top}/s").plain
        yield server.post(f"pin/ls?arg={top}/s&type=recursive").plain
        yield server.post(f"pin/ls?arg={top}&type=indirect").status
        for kind in ("all", "recursive", "direct", "indirect"):
            keys = server.post(f"pin/ls?type={kind}").lines[0].get("Keys", {})
            yield kind, keys.get(top), keys.get(HELLO)
        rows = server.post("pin/ls?stream=true&type=recursive").lines
        yield [row for row in rows if row["Cid"] == top]
        yield server.post("pin/ls?type=what").plain
        yield server.post(f"pin/rm?arg={top}&recursive=false").plain
        yield server.post(f"pin/add?arg={top}&recursive=false").plain
        yield server.post(f"pin/add?arg={HELLO}&recursive=False").plain
        yield server.post(f"pin/ls?arg={HELLO}&type=direct").plain
        yield server.post(f"pin/update?arg={HELLO}&arg={top}").plain
        yield server.post(f"pin/add?arg={HELLO}&recursive=True").plain
        yield server.post(f"pin/update?arg={HELLO}&arg={top}").plain
        other = server.upload("add?pin=false", ("o", b"other one", FILE)).lines[0]["Hash"]
        yield server.post(f"pin/update?arg={top}&arg={other}").plain
        yield server.post(f"pin/ls?arg={top}").plain
        yield server.post(f"pin/rm?arg={HELLO}&arg={other}").plain
        yield server.post(f"pin/add?arg={NOBODY_HAS}&offline=true").plain
        yield server.post("pin/add?arg=zzz").plain
        yield server.post(f"pin/update?arg={top}").status

    same(servers, scenario)


def test_refs_and_resolve(servers):
    def scenario(server: Server):
        parts = [("t/a.txt", b"hello", FILE), ("t/s/big", BIG, FILE), ("t/s/same", b"hello", FILE)]
        top = server.upload("add", *parts).lines[-1]["Hash"]
        for options in (
            "", "&recursive=true", "&recursive=true&unique=true", "&edges=true&r=true",
            "&format=%3Csrc%3E+%3Clinkname%3E+%3Cdst%3E&recursive=true",
            "&recursive=true&max-depth=1", "&recursive=true&max-depth=2", "&max-depth=0&r=true",
        ):  # fmt: skip
            yield options, server.post(f"refs?arg={top}{options}").plain
        yield server.post(f"refs?arg={top}/s&arg={HELLO}").plain
        yield server.post(f"refs?arg={top}&edges=true&format=x").status
        for path in (top, f"/ipfs/{top}/s/big", f"{top}/a.txt"):
            yield server.post(f"resolve?arg={path}").plain
        yield server.post(f"resolve?arg={top}/nothing").plain

    same(servers, scenario)


def test_the_files_api(servers):
    def scenario(server: Server):
        top = server.upload("add", ("d/a.txt", b"hello", FILE), ("d/s/b", b"", FILE)).lines[-1][
            "Hash"
        ]
        for call in (
            "rm?arg=/t&recursive=true&force=true",
            "stat?arg=/nope", "ls?arg=/nope", "read?arg=/nope", "mkdir?arg=rel", "ls?arg=rel",
            "mkdir?arg=/t/x/y", "mkdir?arg=/t/x/y&parents=true", "mkdir?arg=/t/x/y",
            "mkdir?arg=/t/x/y&p=true", "ls?arg=/t", "ls?arg=/t/x/y",
            f"cp?arg=/ipfs/{top}&arg=/t/d", f"cp?arg=/ipfs/{top}&arg=/t/d",
            f"cp?arg=/ipfs/{HELLO}&arg=/t/", f"cp?arg=/ipfs/{HELLO}&arg=/t/q/w/e&parents=true",
            "cp?arg=/t/d&arg=/t/again", "ls?arg=/t", "ls?arg=/t&long=true",
            "ls?arg=/t&l=true&U=true",
            "ls?arg=/t/d/a.txt", "ls?arg=/t/d/a.txt&long=true", "stat?arg=/t/d", "stat?arg=/t",
            "stat?arg=/t/d/a.txt", f"stat?arg=/ipfs/{top}", f"stat?arg=/ipfs/{top}&with-local=true",
            "read?arg=/t/d/a.txt", "read?arg=/t/d/a.txt&offset=1&count=2", "read?arg=/t/d",
            "read?arg=/t/d/a.txt&offset=10", f"read?arg=/ipfs/{top}/a.txt", "flush?arg=/t",
            "mv?arg=/t/d/a.txt&arg=/t/moved", "stat?arg=/t/moved", "ls?arg=/t/d",
            "mv?arg=/t/moved&arg=/t/x", "ls?arg=/t/x", "mv?arg=/t/none&arg=/t/x",
            "rm?arg=/t/x", "rm?arg=/t/none", "rm?arg=/", "rm?arg=/t/none&force=true",
            "rm?arg=/t/x&recursive=true", "ls?arg=/t", "stat?arg=/t",
        ):  # fmt: skip
            yield call, server.post(f"files/{call}").plain

    same(servers, scenario)


def test_writing_into_files(servers):
    def scenario(server: Server):
        hello, big = ("x", b"hello", FILE), ("x", BIG, FILE)
        server.post("files/rm?arg=/w&recursive=true&force=true")
        for call, part in (
            ("arg=/w/a", hello), ("arg=/w/a&create=true", hello),
            ("arg=/w/a&create=true&parents=true", hello), ("arg=/w/a&offset=3", hello),
            ("arg=/w/a&truncate=true&count=4", hello), ("arg=/w/a&offset=-1", hello),
            ("arg=/w/big&e=true&raw-leaves=true", big), ("arg=/w/big&offset=2000000", hello),
            ("arg=/w/a&offset=100", hello), ("arg=/w", hello),
        ):  # fmt: skip
            yield call, server.upload(f"files/write?{call}", part).status
            for name in ("a", "big"):
                yield call, server.post(f"files/read?arg=/w/{name}").body
        yield [row["Size"] for row in server.post("files/ls?arg=/w&long=true").lines[0]["Entries"]]

    same(servers, scenario)


def test_shapes_of_what_differs_by_nature(servers):
    def shape(value: Any) -> Any:
        match value:
            case dict():
                return {key: shape(one) for key, one in value.items()}
            case list():
                return [shape(one) for one in value[:1]]
        return type(value).__name__

    def scenario(server: Server):
        for call in (
            "version", "id", "swarm/peers", "repo/stat", "stats/repo", "repo/version", "stats/bw",
            "repo/stat?size-only=true", f"routing/findprovs?arg={NOBODY_HAS}",
        ):  # fmt: skip
            said = server.post(call)
            rows = [{k: v for k, v in row.items() if k != "Addresses"} for row in said.lines]
            yield call, said.status, said.headers, shape(rows)
        for call in ("swarm/connect?arg=foo", "swarm/connect?arg=/ip4/127.0.0.1/tcp/1"):
            yield call, server.post(call).status

    same(servers, scenario)


# -- other people's clients ----------------------------------------------------------------------


def test_ipfshttpclient(servers, folder, tmp_path):
    def scenario(server: Server):
        out = tmp_path / str(server.port)
        out.mkdir()
        with ipfshttpclient.Client(f"{server.api}/http") as client:
            yield sorted(client.version())
            yield client.add_bytes(b"hello"), client.add_str("hello"), client.add_json({"a": [1]})
            yield client.get_json(client.add_json({"a": [1]}))
            for options in (
                {}, {"raw_leaves": True}, {"only_hash": True}, {"pin": False}, {"trickle": True},
                {"chunker": "size-100000", "raw_leaves": True}, {"wrap_with_directory": True},
            ):  # fmt: skip
                yield options, _rows(client.add(str(folder / "ü ñ.bin"), **options))
                yield options, _rows(client.add(str(folder), recursive=True, **options))
            top = client.add(str(folder), recursive=True, raw_leaves=True)[-1]["Hash"]
            yield client.cat(f"{top}/a.txt"), client.cat(f"{top}/a.txt", offset=1, length=2)
            client.get(top, str(out))
            yield _tree(out / top)
            yield _rows(client.ls(top)["Objects"][0]["Links"])
            block = client.block.put(io.BytesIO(b"hello"))
            yield dict(block), client.block.get(block["Key"]), dict(client.block.stat(HELLO))
            yield dict(client.pin.ls(HELLO)) if HELLO in client.pin.ls(type="all")["Keys"] else None
            yield told(lambda: dict(client.pin.add(top)))
            yield told(lambda: dict(client.pin.rm(top)))
            yield told(client.pin.rm, top)
            yield client.resolve(f"/ipfs/{top}/sub")["Path"]
            stored = client.dag.put(io.BytesIO(json.dumps({"x": {"/": top}}).encode()))
            yield stored["Cid"]["/"], dict(client.dag.get(stored["Cid"]["/"]))
            car = client.dag.export(top)
            yield car
            yield told(lambda: [dict(row) for row in client.dag.imprt(io.BytesIO(car))])
            client.files.mkdir("/ihc/x", parents=True)
            client.files.cp(f"/ipfs/{top}", "/ihc/top")
            client.files.write("/ihc/w", io.BytesIO(b"written"), create=True)
            yield client.files.read("/ihc/w"), client.files.read("/ihc/top/a.txt", offset=1)
            yield dict(client.files.stat("/ihc/top")), _rows(client.files.ls("/ihc")["Entries"])
            client.files.rm("/ihc", recursive=True)
            yield told(client.files.stat, "/ihc")
            yield sorted(client.repo.stat()), client.swarm.peers()
            yield told(client.cat, "zzz"), told(client.cat, top), told(client.cat, f"{top}/none")

    same(servers, scenario)


def _rows(rows: Any) -> list[Any]:
    found = rows if isinstance(rows, list) else [rows]
    return [{key: value for key, value in row.items() if key != "ModTime"} for row in found]


def _tree(top: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in sorted(top.rglob("*")):
        name = str(path.relative_to(top))
        if path.is_symlink():
            found[name] = str(path.readlink())
        else:
            found[name] = path.read_bytes() if path.is_file() else None
    return found


def test_aioipfs(servers, folder, tmp_path):
    async def calls(server: Server) -> list[Any]:
        out = tmp_path / str(server.port)
        out.mkdir()
        async with aioipfs.AsyncIPFS(host=server.host, port=server.port) as client:
            said: list[Any] = []
            for options in (
                {}, {"raw_leaves": False}, {"only_hash": True}, {"cid_version": 0},
                {"chunker": "size-100000"}, {"wrap_with_directory": True}, {"trickle": True},
            ):  # fmt: skip
                rows = [row async for row in client.add(str(folder), recursive=True, **options)]
                said.append((options, sorted(_rows(rows), key=lambda row: row["Name"])))
            top = [row async for row in client.add(str(folder), recursive=True)][-1]["Hash"]
            said.append(await client.add_bytes(b"hello"))
            said.append(await client.add_json({"a": 1}))
            said.append(await client.cat(f"{top}/a.txt"))
            said.append(await client.cat(f"{top}/a.txt", offset=1, length=3))
            await client.get(top, dstdir=str(out))
            said.append(_tree(out / top))
            said.append(await client.core.ls(top))
            said.append(await client.block.put(str(folder / "a.txt")))
            said.append(await client.block.get(HELLO))
            said.append(await client.block.stat(HELLO))
            said.append([row["Pins"] async for row in client.pin.add(top) if "Pins" in row])
            said.append(await client.pin.ls(path=top))
            said.append(await client.pin.rm(top))
            (out / "value.json").write_text(json.dumps({"x": {"/": top}}))
            stored = await client.dag.put(str(out / "value.json"))
            said.append(stored)
            said.append(await client.dag.get(stored["Cid"]["/"]))
            said.append(await client.dag.resolve(f"{stored['Cid']['/']}/x/sub"))
            said.append(await client.refs.refs(f"{top}/sub/deep"))  # it reads one row alone
            said.append(await client.core.resolve(f"/ipfs/{top}/sub"))
            await client.files.mkdir("/aio", parents=True)
            await client.files.cp(f"/ipfs/{top}", "/aio/top")
            await client.files.write("/aio/w", b"written", create=True, raw_leaves=True)
            said.append(await client.files.read("/aio/w"))
            said.append(await client.files.stat("/aio/top"))
            said.append(await client.files.ls("/aio", long=True))
            await client.files.rm("/aio", recursive=True)
            said.append(sorted(await client.repo.stat()))
            said.append([row async for row in client.routing.findprovs(NOBODY_HAS)])
            for call in (client.cat("zzz"), client.cat(top), client.pin.rm(top)):
                try:
                    said.append(await call)
                except aioipfs.APIError as exc:
                    said.append((exc.code, exc.message, exc.http_status))
            return said

    def scenario(server: Server):
        yield from asyncio.run(asyncio.wait_for(calls(server), ANSWER_S))

    same(servers, scenario)


def test_kubo_rpc_client_of_javascript(servers):
    def scenario(server: Server):
        with js_client(server) as client:
            yield from _js_calls(client)

    same(servers, scenario)


def _js_calls(js: JsClient) -> Iterator[Any]:
    tree = [{"path": "t/a.txt", "content": b"hello"}, {"path": "t/s/big", "content": BIG}]
    for options in (
        {}, {"rawLeaves": False}, {"cidVersion": 0}, {"chunker": "size-100000"}, {"onlyHash": True},
        {"wrapWithDirectory": True}, {"pin": False}, {"trickle": True},
    ):  # fmt: skip
        yield options, js.ask("addAll", tree, options)
        yield options, js.ask("add", b"hello", options)
    rows = js.ask("addAll", tree)["result"]
    top = rows[-1]["cid"]
    for call, *args in (
        ("cat", f"{top}/a.txt"), ("cat", f"{top}/a.txt", {"offset": 1, "length": 2}),
        ("ls", top), ("ls", f"{top}/s"), ("ls", f"{top}/a.txt"), ("cat", "zzz"), ("cat", top),
        ("block.put", b"hello"), ("block.put", b"x", {"format": "dag-pb", "mhtype": "sha2-512"}),
        ("block.get", Cid(HELLO)), ("block.stat", Cid(HELLO)), ("pin.add", Cid(top)),
        ("pin.ls", {"paths": [top]}), ("pin.rm", Cid(top)), ("pin.rm", Cid(top)),
        ("dag.put", {"a": 1, "l": Cid(top)}), ("dag.get", Cid(top), {"path": "/a.txt"}),
        ("refs", top, {"recursive": True}), ("refs", top, {"recursive": True, "edges": True}),
        ("resolve", f"/ipfs/{top}/s"), ("dag.export", Cid(top)),
        ("files.mkdir", "/js/x", {"parents": True}), ("files.cp", f"/ipfs/{top}", "/js/top"),
        ("files.write", "/js/w", b"written", {"create": True}),
        ("files.read", "/js/w"), ("files.stat", "/js/top"), ("files.ls", "/js"),
        ("files.mv", "/js/w", "/js/v"), ("files.ls", "/js/x"),
        ("files.rm", "/js", {"recursive": True}),
        ("files.stat", "/js"), ("swarm.peers",), ("routing.findProvs", Cid(NOBODY_HAS)),
        ("get", f"{top}/a.txt", {"archive": True, "compress": True, "compressionLevel": 1}),
    ):  # fmt: skip
        said = js.ask(call, *args)
        if call == "get":  # an archive's own dates and order of header fields differ
            said = len(said["result"]) > 0
        if call == "dag.export":  # in pieces as they came
            said = b"".join(_bytes(part) for part in said["result"])
        yield call, said
    value = js.ask("dag.put", {"a": [1, "x"], "l": Cid(top)})["result"]
    yield js.ask("dag.get", Cid(value))
    car = js.ask("dag.export", Cid(top))["result"]
    yield js.ask("dag.import", [b"".join(_bytes(part) for part in car)])


def _bytes(part: dict[str, str]) -> bytes:
    import base64

    return base64.b64decode(part["$bytes"])


def test_the_command_line(servers, folder, tmp_path):
    def scenario(server: Server):
        out = tmp_path / str(server.port)
        out.mkdir()
        run = server.command
        yield run("add", "-q", "-r", "--pin=false", str(folder))
        for options in (
            (), ("-Q",), ("-w",), ("--cid-version=0",), ("--raw-leaves=false",), ("-n",),
            ("--chunker=size-100000",), ("--trickle",), ("-H",),
        ):  # fmt: skip
            yield options, _quiet(run("add", "-r", "--progress=false", *options, str(folder)))
        top = run("add", "-r", "-Q", str(folder))[1].decode().strip()
        yield run("add", "-Q", stdin=b"from a pipe")
        yield run("cat", f"/ipfs/{top}/a.txt"), run("cat", "-o", "1", "-l", "2", f"{top}/a.txt")
        yield run("get", "--progress=false", "-o", str(out / "got"), top)[0]
        yield _tree(out / "got")
        yield run("ls", top), run("ls", "-v", f"{top}/sub"), run("ls", f"{top}/none")
        yield run("refs", "-r", top), run("refs", "-r", "-e", top), run("refs", "-u", "-r", top)
        yield run("block", "put", stdin=b"hello"), run("block", "get", HELLO)
        yield run("block", "stat", HELLO)
        yield run("dag", "put", stdin=b'{"a":1}'), run("dag", "get", f"{top}/a.txt")
        yield run("dag", "stat", "--progress=false", top)
        car = run("dag", "export", "--progress=false", top)
        yield car
        (out / "x.car").write_bytes(car[1])
        yield run("dag", "import", "--stats", str(out / "x.car"))
        yield (
            run("pin", "ls", "--type=recursive", top),
            run("pin", "rm", top),
            run("pin", "rm", top),
        )
        yield run("pin", "add", "--progress=false", top)
        yield run("resolve", f"/ipfs/{top}/sub")
        yield run("files", "mkdir", "-p", "/cli/x"), run("files", "cp", f"/ipfs/{top}", "/cli/top")
        yield (
            run("files", "write", "-e", "/cli/w", stdin=b"written"),
            run("files", "read", "/cli/w"),
        )
        yield run("files", "ls", "/cli"), run("files", "ls", "-l", "/cli/top")
        yield run("files", "stat", "/cli/top"), run("files", "rm", "/cli/x")[0]
        yield run("files", "rm", "-r", "/cli"), run("files", "stat", "/cli")
        yield run("swarm", "peers"), run("routing", "findprovs", NOBODY_HAS)
        yield run("cat", "zzz"), run("nonsense")[0]
        yield re.sub(rb"\d+", b"N", run("repo", "stat", "--size-only")[1])

    same(servers, scenario)


def _quiet(said: Any) -> Any:
    status, out, _ = said
    return status, out


def test_what_we_do_not_support_says_so(servers):
    _, ours = servers
    for call in ("name/publish?arg=x", "key/list", "pubsub/ls", "swarm/filters", "config/show"):
        said = ours.post(call)
        assert said.status == 501
        assert "does not support" in said.lines[0]["Message"]
    for call in (
        "add?inline=true",
        "add?nocopy=true",
        "add?chunker=rabin-1-2-3",
        "add?hash=blake3",
    ):
        said = ours.upload(call, ("x", b"hello", FILE))
        assert said.status == 500
        assert "p2pcache" in said.lines[0]["Message"]
    status, _, complaint = ours.command("key", "list")
    assert status == 1
    assert "does not support" in complaint
