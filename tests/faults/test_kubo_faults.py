"""A Kubo that misbehaves, without one: scripted answers of its RPC and its gateway."""

from __future__ import annotations

import hashlib
import json
import random
import tracemalloc
from typing import TYPE_CHECKING

import pytest
import trio
import trio.lowlevel

from p2pcache import errors
from p2pcache.content import cid as cids
from p2pcache.content.dag import fsdata, node
from p2pcache.content.dag.fsdata import FsData, Kind
from p2pcache.content.refs import CidRef
from p2pcache.content.unixfs import file_root
from p2pcache.lanes.orders import FetchLimits, Location
from p2pcache.sources.kubo import KuboOptions, KuboSource
from p2pcache.sources.kubo_calls import MAX_ANSWER_BYTES, MAX_BLOCK_BYTES, KuboCalls
from p2pcache.sources.kubo_place import KuboPlace
from p2pcache.sources.port import Credentials, SourceKind
from p2pcache.store.layout import StoreOptions
from p2pcache.store.store import Store
from p2pcache.transfer.by_blocks import ByBlocks, bring_by_blocks
from p2pcache.transfer.driver import Driver
from p2pcache.transfer.policy import TransferOptions
from p2pcache.transfer.want import Origin, Wanted
from p2pcache.transfer.workers import WorkerOptions, open_workers
from tests.support import faulty_http as fh
from tests.support.blobs import MIB
from tests.support.faulty_http import FaultyServer
from tests.support.partial_files import block_hashes, some_bytes

if TYPE_CHECKING:
    from pathlib import Path

ROOT = cids.dagpb_cid(hashlib.sha256(b"a root").digest())
NOBODY = Credentials()
DIRECTORY = fsdata.encode(FsData(Kind.DIRECTORY))
HAS = {"/api/v0/block/stat": {"Key": "x", "Size": 9}, "/api/v0/pin/ls": {"Keys": {"x": {}}}}


def says(value: object) -> fh.Answer:
    return fh.status(200, json.dumps(value).encode())


def refuses(message: str) -> fh.Answer:
    return fh.status(500, json.dumps({"Message": message, "Code": 0, "Type": "error"}).encode())


def source(server: FaultyServer, present_s: float = 0.25) -> KuboSource:
    place = KuboPlace(server.url(""), server.url(""))
    return KuboSource(place, KuboOptions(present_s=present_s, walk_s=5.0, timeout_s=20.0))


@pytest.mark.parametrize("silent", [fh.stall, fh.drip_headers])
async def test_a_kubo_that_hangs_or_drips_costs_a_quarter_of_a_second(silent: fh.Answer) -> None:
    with FaultyServer() as server:
        for path in HAS:
            server.on(path, silent)
        began = trio.current_time()
        with pytest.raises(errors.Unavailable, match=r"did not say within 0\.25 s"):
            await source(server).list(CidRef(ROOT), NOBODY)
        assert trio.current_time() - began < 2.0


async def test_what_it_does_not_have_is_not_found_and_nothing_else_is_asked() -> None:
    with FaultyServer() as server:
        server.on("/api/v0/block/stat", refuses("block was not found locally (offline)"))
        server.on("/api/v0/pin/ls", refuses("path 'x' is not pinned"))
        with pytest.raises(errors.NotFound, match="not found locally"):
            await source(server).list(CidRef(ROOT), NOBODY)
        assert {path.partition("?")[0] for path, _ in server.seen} <= HAS.keys()
        assert all("offline=true" in path for path, _ in server.seen if "block/stat" in path)


async def test_nobody_listens_there() -> None:
    place = KuboPlace("http://127.0.0.1:9", "http://127.0.0.1:9")
    with pytest.raises(errors.Unavailable, match="cannot be reached"):
        await KuboSource(place).list(CidRef(ROOT), NOBODY)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (fh.status(200, b"<html>"), errors.Untrusted),
        (fh.status(200, b"[]"), errors.Untrusted),
        (fh.status(200, b"x" * (MAX_ANSWER_BYTES + 1)), errors.Untrusted),
        (fh.chunked(b"x" * (MAX_ANSWER_BYTES + 1)), errors.Untrusted),
        (fh.status(403), errors.Denied),
        (fh.status(302, Location="http://127.0.0.1:9/"), errors.Denied),
        (fh.status(503), errors.Unavailable),
        (refuses("some trouble"), errors.Unavailable),
        (fh.status(500, b"no json"), errors.Unavailable),
        (fh.hang_up, errors.Unavailable),
        (fh.cut(b"{}" * 99, 9, fh.hang_up), errors.Unavailable),
        (fh.stall, errors.Unavailable),
    ],
)
async def test_the_table_of_its_answers(
    answer: fh.Answer, error: type[errors.P2PCacheError]
) -> None:
    with FaultyServer() as server:
        server.on("/api/v0/id", answer)
        timeout_s = 1.0 if answer is fh.stall else 20.0
        with pytest.raises(error):
            await KuboCalls(server.url(""), timeout_s).rpc("id")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (fh.status(200, b"other bytes"), errors.Untrusted),
        (fh.chunked(b"x" * (MAX_BLOCK_BYTES + 1)), errors.Untrusted),
        (fh.status(404), errors.NotFound),
        (fh.status(412), errors.NotFound),
        (fh.status(406), errors.Denied),
        (fh.status(504), errors.Unavailable),
    ],
)
async def test_the_table_of_its_blocks(
    answer: fh.Answer, error: type[errors.P2PCacheError]
) -> None:
    with FaultyServer() as server:
        server.on(f"/ipfs/{cids.format_cid(ROOT)}", answer)
        calls = KuboCalls(server.url(""), timeout_s=20.0)
        with pytest.raises(error):
            await calls.block(server.url(""), ROOT)
        server.on(f"/ipfs/{cids.format_cid(ROOT)}", fh.status(200, b"a root"))
        assert await calls.block(server.url(""), ROOT) == b"a root"
        assert server.headers_of(f"/ipfs/{cids.format_cid(ROOT)}?format=raw")[0][
            "cache-control"
        ] == ("only-if-cached")


@pytest.mark.parametrize("told_bytes", [0, 5, 1 << 20])
async def test_a_folder_that_lies_about_a_size_is_corrected_by_the_block(told_bytes: int) -> None:
    leaf = cids.raw_cid(hashlib.sha256(b"content").digest())
    folder = node.encode([node.Link(leaf, b"f", told_bytes)], DIRECTORY)
    root, key = cids.dagpb_cid(hashlib.sha256(folder).digest()), cids.format_cid(leaf)
    with FaultyServer() as server:
        for path, value in HAS.items():
            server.on(path, says(value))
        server.on(f"/ipfs/{cids.format_cid(root)}", fh.status(200, folder))
        server.on("/api/v0/dag/stat", says({"DagStats": [{"Cid": key, "Size": 7}]}))
        (file,) = (await source(server).list(CidRef(root), NOBODY)).files
        assert (file.path, file.size) == ("f", 7)

        server.on("/api/v0/dag/stat", fh.status(400))  # an old Kubo: one at a time
        (file,) = (await source(server).list(CidRef(root), NOBODY)).files
        assert file.size == told_bytes


async def test_a_folder_that_tells_of_a_block_too_large_is_blamed_itself() -> None:
    leaf = cids.raw_cid(hashlib.sha256(b"content").digest())
    folder = node.encode([node.Link(leaf, b"f", 1 << 62)], DIRECTORY)
    root = cids.dagpb_cid(hashlib.sha256(folder).digest())
    with FaultyServer() as server:
        for path, value in HAS.items():
            server.on(path, says(value))
        server.on(f"/ipfs/{cids.format_cid(root)}", fh.status(200, folder))
        with pytest.raises(errors.Untrusted, match="the folder's DAG is wrong"):
            await source(server).list(CidRef(root), NOBODY)


async def test_a_long_name_above_many_entries_costs_little_to_list() -> None:
    leaf = cids.raw_cid(hashlib.sha256(b"content").digest())
    inner = node.encode([node.Link(leaf, b"%d" % i, 7) for i in range(1000)], DIRECTORY)
    inner_cid = cids.dagpb_cid(hashlib.sha256(inner).digest())
    folder = node.encode([node.Link(inner_cid, b"n" * 300_000, len(inner))], DIRECTORY)
    root = cids.dagpb_cid(hashlib.sha256(folder).digest())
    with FaultyServer() as server:
        for path, value in HAS.items():
            server.on(path, says(value))
        for cid, block in ((root, folder), (inner_cid, inner)):
            server.on(f"/ipfs/{cids.format_cid(cid)}", fh.status(200, block))
        tracemalloc.start()
        try:
            with pytest.raises(errors.Untrusted, match="is refused"):
                await source(server).list(CidRef(root), NOBODY)
            assert tracemalloc.get_traced_memory()[1] < 32 * MIB
        finally:
            tracemalloc.stop()


async def test_blocks_that_verify_and_make_no_file_are_no_fault_of_kubo(tmp_path: Path) -> None:
    leaf = cids.raw_cid(hashlib.sha256(b"content").digest())
    meaning = FsData(Kind.FILE, size=9, block_sizes=(9,))
    top = node.encode([node.Link(leaf, b"", 9)], fsdata.encode(meaning))
    root = cids.dagpb_cid(hashlib.sha256(top).digest())
    with FaultyServer() as server, Store.open(tmp_path, StoreOptions(reserve_bytes=0)) as store:
        for cid, block in ((root, top), (leaf, b"content")):
            server.on(f"/ipfs/{cids.format_cid(cid)}", fh.status(200, block))

        async def locate(key: str) -> Location:
            await trio.lowlevel.checkpoint()
            return Location(server.url(f"/ipfs/{key}"))

        key = cids.format_cid(root)
        so_far = ByBlocks(Origin("kubo", SourceKind.KUBO, 2, locate, frozenset([key])))
        async with open_workers(WorkerOptions()) as workers:
            with trio.fail_after(30), pytest.raises(errors.Untrusted) as caught:
                await bring_by_blocks(
                    [Wanted("f", 9, None, key, dag=root)], so_far, store, workers,
                    limits=FetchLimits(), at_once=1, hold=lambda _: None, watch=lambda _: None,
                )  # fmt: skip
        assert f"the DAG of {key} is wrong" in caught.value.message
        assert "127.0.0.1" not in caught.value.message
        assert so_far.left is None, "Kubo sent what it was asked for"
        assert [path.name for path in store.small_dir().iterdir()] == ["lease.1"]


async def test_a_root_of_other_bytes_ends_the_listing() -> None:
    with FaultyServer() as server:
        for path, value in HAS.items():
            server.on(path, says(value))
        server.on(f"/ipfs/{cids.format_cid(ROOT)}", fh.status(200, b"a lie"))
        with pytest.raises(errors.Untrusted, match="sent other bytes"):
            await source(server, 5.0).list(CidRef(ROOT), NOBODY)


def lies_at(data: bytes, place: int) -> bytes:
    wrong = bytearray(data)
    wrong[place] ^= 1
    return bytes(wrong)


def has(span: str, block: int) -> bool:
    first, last = span.removeprefix("bytes=").split("-")
    return int(first) <= block * MIB <= int(last)


async def test_who_lies_about_one_block_is_left_and_the_rest_finish(tmp_path: Path) -> None:
    data = some_bytes(12 * MIB, b"kubo lies")
    hashes = block_hashes(data)
    root = file_root((hashes[i : i + 32] for i in range(0, len(hashes), 32)), len(data)).cid
    other = some_bytes(24 * MIB, b"and its other file")
    hashes2 = block_hashes(other)
    root2 = file_root((hashes2[i : i + 32] for i in range(0, len(hashes2), 32)), len(other)).cid
    wanted = [
        Wanted("f", len(data), None, "f", root=root, block_map=hashes),
        Wanted("g", len(other), None, "g", root=root2, block_map=hashes2),
    ]
    with FaultyServer() as server, Store.open(tmp_path, StoreOptions(reserve_bytes=0)) as store:
        server.on("/kubo/f", fh.ranged(lies_at(data, 7 * MIB + 3)))
        server.on("/kubo/g", fh.ranged(other))
        server.on("/origin/f", fh.ranged(data))
        server.on("/origin/g", fh.ranged(other))

        def made(name: str, kind: SourceKind, holds: frozenset[str] | None) -> Origin:
            async def locate(key: str) -> Location:
                await trio.lowlevel.checkpoint()
                return Location(server.url(f"/{name}/{key}"))

            return Origin(name, kind, 2, locate, holds)

        origins = [
            made("kubo", SourceKind.KUBO, frozenset("fg")),
            made("origin", SourceKind.ORIGIN, None),
        ]
        async with open_workers(WorkerOptions()) as workers:
            driver = Driver(
                wanted, origins, store, workers,
                options=TransferOptions(patience_s=30.0, stall_s=30.0, origin_stall_s=30.0),
                limits=FetchLimits(), cores=1, chance=random.random, watch=lambda _: None,
                hold=lambda _: None,
            )  # fmt: skip
            with trio.fail_after(60):
                await driver.run()
        assert driver.blobs[0].path.read_bytes() == data
        assert driver.blobs[1].path.read_bytes() == other
        by_name = {s.name: s for s in driver.statistics().sources}
        assert "block 7" in (by_name["kubo"].left or "")
        assert by_name["origin"].left is None
        assert by_name["kubo"].kept_bytes + by_name["origin"].kept_bytes == 36 * MIB
        asked = [(p, h["range"]) for p, h in server.seen if p.startswith("/kubo/")]
        lied = next(i for i, (p, span) in enumerate(asked) if p == "/kubo/f" and has(span, 7))
        assert len(asked) - lied <= 3, "who lied once is asked for nothing more than it was"


async def test_what_kubo_lost_since_it_told_is_asked_of_the_origin(tmp_path: Path) -> None:
    data = some_bytes(6 * MIB, b"lost")
    hashes = block_hashes(data)
    root = file_root((hashes[i : i + 32] for i in range(0, len(hashes), 32)), len(data)).cid
    with FaultyServer() as server, Store.open(tmp_path, StoreOptions(reserve_bytes=0)) as store:
        places = {
            "kubo": server.on("/kubo", fh.status(412)),
            "origin": server.on("/origin", fh.ranged(data)),
        }

        def made(name: str, kind: SourceKind, holds: frozenset[str] | None) -> Origin:
            async def locate(_key: str) -> Location:
                await trio.lowlevel.checkpoint()
                return Location(places[name])

            return Origin(name, kind, 2, locate, holds)

        wanted = [Wanted("f", len(data), None, "f", root=root, block_map=hashes)]
        origins = [
            made("kubo", SourceKind.KUBO, frozenset("f")),
            made("origin", SourceKind.ORIGIN, None),
        ]
        async with open_workers(WorkerOptions()) as workers:
            driver = Driver(
                wanted, origins, store, workers,
                options=TransferOptions(patience_s=30.0, stall_s=30.0, origin_stall_s=30.0),
                limits=FetchLimits(), cores=1, chance=random.random, watch=lambda _: None,
                hold=lambda _: None,
            )  # fmt: skip
            with trio.fail_after(30):
                await driver.run()
        assert driver.blobs[0].path.read_bytes() == data
        assert len([p for p, _ in server.seen if p == "/kubo"]) <= 2
