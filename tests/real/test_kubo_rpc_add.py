"""Kubo's RPC: who may call, and what `add` makes of a body, as Kubo tells it."""

from __future__ import annotations

from typing import Any

from tests.support.kubo_and_ours import HELLO, MID, OLD_CLIENTS, random_bytes, same
from tests.support.kubo_rpc import FILE, FOLDER, SYMLINK, Server

pytestmark = OLD_CLIENTS


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
