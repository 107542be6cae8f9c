"""Kubo's RPC: clients that other people wrote are told the same by Kubo and by us."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.kubo_and_ours import (
    BIG,
    HELLO,
    MIB,
    NOBODY_HAS,
    OLD_CLIENTS,
    random_bytes,
    same,
)
from tests.support.kubo_rpc import (
    ANSWER_S,
    Cid,
    JsClient,
    Server,
    aioipfs,
    ipfshttpclient,
    js_client,
    told,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = OLD_CLIENTS


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
