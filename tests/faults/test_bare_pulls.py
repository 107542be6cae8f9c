"""A bare digest or CID that nobody listed: the size is only said, the name proves the rest."""

from __future__ import annotations

import random
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from p2pcache import errors
from p2pcache.content.ranges import RangeSet
from p2pcache.content.unixfs import file_root
from p2pcache.lanes.orders import FetchLimits
from p2pcache.store.rooted import RootedBlob
from p2pcache.store.store import Store
from p2pcache.transfer.bare import SETTLE_S, bare_name, pull_bare
from p2pcache.transfer.policy import TransferOptions
from p2pcache.transfer.pull import PullContext
from p2pcache.transfer.sharing import Peers
from p2pcache.transfer.workers import WorkerOptions, open_workers
from tests.support import faulty_http as fh
from tests.support.blobs import sha256_file
from tests.support.partial_files import block_hashes, some_bytes
from tests.support.stored import fill
from tests.support.swarms import MIB, Key, ScriptedSwarm, Told, digest_of, served_peers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

DEADLINE_S = 20.0


@pytest.fixture
def body(request: pytest.FixtureRequest) -> bytes:
    return some_bytes(6 * MIB + 7, request.node.name.encode())


def root_of(body: bytes) -> bytes:
    hashes = block_hashes(body)
    return file_root((hashes[i : i + 32] for i in range(0, len(hashes), 32)), len(body)).cid


@asynccontextmanager
async def place(home: Path) -> AsyncIterator[tuple[PullContext, Told]]:
    store = Store.open(home)
    try:
        async with open_workers(WorkerOptions()) as workers:
            yield (
                PullContext(
                    store, workers, TransferOptions(patience_s=4.0, hope_s=1.0),
                    FetchLimits(), 2, random.Random(3).random, [],
                ),
                Told(),
            )  # fmt: skip
    finally:
        store.close()


async def bring(context: PullContext, told: Told, swarm: ScriptedSwarm, name: bytes):
    report = await pull_bare(
        context, bare_name(name), Peers(swarm, told, Key(99)), timeout_s=1.0,
        watch=lambda _: None, note=lambda _: None, hold=lambda _: None,
    )  # fmt: skip
    (blob,) = report.blobs.values()
    return blob


@pytest.mark.parametrize("by", ["digest", "root"])
async def test_a_bare_name_is_brought_from_the_swarm(tmp_path, body, by):
    with served_peers(2) as peers, trio.fail_after(DEADLINE_S):
        swarm = ScriptedSwarm(peers)
        name = digest_of(body) if by == "digest" else root_of(body)
        for peer in peers:
            peer.serves(body, name=name)
            peer.maps[name] = block_hashes(body)
            swarm.holds(peer, name, len(body))
        async with place(tmp_path) as (context, told):
            blob = await bring(context, told, swarm, name)
            assert sha256_file(blob.path) == digest_of(body)[2:].hex()
            assert context.store.find_any(name) == blob
            assert isinstance(blob, RootedBlob) == (by == "root"), "a root needs no whole digest"
            assert not told.verdicts


async def test_blocks_that_an_earlier_process_left_are_hashed_again_with_the_whole(tmp_path, body):
    with served_peers(1) as (peer,), trio.fail_after(DEADLINE_S):
        swarm = ScriptedSwarm([peer])
        name = root_of(body)
        peer.serves(body, name=name)
        peer.maps[name] = block_hashes(body)
        swarm.holds(peer, name, len(body))
        async with place(tmp_path) as (context, told):
            partial = context.store.partial(name, len(body))
            fill(partial, body, [2])
            partial.close()
            blob = await bring(context, told, swarm, name)
            assert context.store.find(name) == context.store.find(digest_of(body)) == blob


@pytest.mark.parametrize("lie", [-1, +MIB, 1 << 45])
async def test_a_lying_size_costs_a_try_and_its_teller_is_named(tmp_path, body, lie):
    with served_peers(2) as peers, trio.fail_after(DEADLINE_S):
        swarm = ScriptedSwarm(peers)
        liar, good = peers
        name = digest_of(body)
        for peer in peers:
            peer.serves(body)
        swarm.holds(liar, name, len(body) + lie)
        swarm.holds(good, name, len(body))
        async with place(tmp_path) as (context, told):
            blob = await bring(context, told, swarm, name)
            assert sha256_file(blob.path) == name[2:].hex()
            assert told.liars == {liar.id}


async def test_the_first_byte_waits_for_no_second_opinion(tmp_path, body):
    with served_peers(1) as (peer,), trio.fail_after(DEADLINE_S):
        swarm = ScriptedSwarm([peer])
        took = []
        async with place(tmp_path) as (context, told):
            for number in range(8):
                blob = body[: MIB + 1 + number]
                name = peer.serves(blob)
                swarm.holds(peer, name, len(blob))
                began = time.monotonic()
                await bring(context, told, swarm, name)
                took.append(peer.asked[-1][0] - began)
                swarm = ScriptedSwarm([peer])
        assert min(took) < SETTLE_S


async def test_a_first_word_that_others_contradict_is_not_followed_to_its_end(tmp_path, body):
    with served_peers(3) as (liar, *good), trio.fail_after(DEADLINE_S):
        swarm = ScriptedSwarm([liar, *good])
        name = liar.serves(body + bytes(MIB), fh.stall, name=digest_of(body))
        swarm.holds(liar, name, len(body) + MIB)

        async def others() -> None:
            await trio.sleep(SETTLE_S / 10)
            for peer in good:
                peer.serves(body)
                swarm.holds(peer, name, len(body))

        async with place(tmp_path) as (context, told), trio.open_nursery() as nursery:
            began = time.monotonic()
            nursery.start_soon(others)
            blob = await bring(context, told, swarm, name)
            assert time.monotonic() - began < 6.0, "a stalled socket is cut after 10 s"
            assert sha256_file(blob.path) == name[2:].hex()
            assert told.liars == {liar.id}


async def test_a_map_that_does_not_make_the_root_is_its_tellers_lie(tmp_path, body):
    with served_peers(2) as peers, trio.fail_after(DEADLINE_S):
        swarm = ScriptedSwarm(peers)
        liar, good = peers
        name = root_of(body)
        for peer in peers:
            peer.serves(body, name=name)
            swarm.holds(peer, name, len(body))
        liar.maps[name] = bytes(len(block_hashes(body)))
        good.maps[name] = block_hashes(body)
        async with place(tmp_path) as (context, told):
            blob = await bring(context, told, swarm, name)
            assert sha256_file(blob.path) == digest_of(body)[2:].hex()
            assert told.liars <= {liar.id}


async def test_with_a_proven_map_one_wrong_block_is_proof_at_once(tmp_path, body):
    with served_peers(2) as peers, trio.fail_after(DEADLINE_S):
        swarm = ScriptedSwarm(peers)
        liar, good = peers
        name = root_of(body)
        liar.serves(body, fh.ranged(body[: 3 * MIB] + b"!" + body[3 * MIB + 1 :]), name=name)
        good.serves(body, name=name)
        for peer in peers:
            peer.maps[name] = block_hashes(body)
        swarm.holds(liar, name, len(body))
        swarm.holds(good, name, len(body), RangeSet.of((0, 3), (4, 7)))

        async def tell_later() -> None:
            await trio.sleep(1.0)
            swarm.holds(good, name, len(body))

        async with place(tmp_path) as (context, told), trio.open_nursery() as nursery:
            nursery.start_soon(tell_later)
            blob = await bring(context, told, swarm, name)
            assert sha256_file(blob.path) == digest_of(body)[2:].hex()
            assert told.early == {liar.id}


async def test_nobody_has_it_is_not_found_in_time(tmp_path, body):
    with served_peers(1) as peers, trio.fail_after(DEADLINE_S):
        swarm = ScriptedSwarm(peers)
        async with place(tmp_path) as (context, told):
            with (
                trio.fail_after(3),
                pytest.raises(errors.NotFound, match=r"has `sha256:[0-9a-f]{64}`"),
            ):
                await bring(context, told, swarm, digest_of(body))
