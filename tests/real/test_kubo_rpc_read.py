"""Kubo's RPC: files, folders, listings and references are read as Kubo gives them."""

from __future__ import annotations

import gzip

from tests.support.kubo_and_ours import BIG, HELLO, NOBODY_HAS, OLD_CLIENTS, same, unpacked
from tests.support.kubo_rpc import FILE, FOLDER, SYMLINK, Server

pytestmark = OLD_CLIENTS


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
