"""Pulls from peers that stall, lie, lack or die: the real driver, real workers, real bytes.

Servers of the suite stand for the peers' lanes; the swarm's words are scripted.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
import trio

from p2pcache import errors
from p2pcache.content.ranges import RangeSet
from p2pcache.transfer.machine.owners import Unit
from tests.support import faulty_http as fh
from tests.support import swarms
from tests.support.blobs import sha256_file
from tests.support.own_time import own_time
from tests.support.partial_files import block_hashes, some_bytes
from tests.support.swarms import (
    MIB,
    ScriptedSwarm,
    digest_of,
    origin_of,
    pulling,
    sent_by,
    served_peers,
    wanted,
)
from tests.support.tmpfs import tmpfs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from p2pcache.store.store import Store

BLOCKS = 24
DEADLINE_S = 20.0


@pytest.fixture
def body(request: pytest.FixtureRequest) -> bytes:
    return some_bytes((BLOCKS - 1) * MIB + 7, request.node.name.encode())


@pytest.fixture
def web() -> Iterator[fh.FaultyServer]:
    with fh.FaultyServer() as running:
        yield running


def flipped(body: bytes) -> bytes:
    """Every block wrong by a bit."""
    wrong = bytearray(body)
    wrong[::MIB] = bytes(b ^ 1 for b in wrong[::MIB])
    return bytes(wrong)


def is_stored(store: Store, body: bytes) -> bool:
    found = store.find(digest_of(body))
    return found is not None and sha256_file(found.path) == digest_of(body)[2:].hex()


async def test_three_peers_with_disjoint_parts_and_the_origin_for_the_rest(tmp_path, body, web):
    with served_peers(3) as peers, trio.fail_after(DEADLINE_S):
        swarm = ScriptedSwarm(peers)
        for n, peer in enumerate(peers):
            name = peer.serves(body)
            peer.attests(body)
            swarm.holds(peer, name, len(body), RangeSet.of((6 * n, 6 * n + 6)))
        async with pulling(
            tmp_path, [wanted(body)], [origin_of(web, body)], swarm
        ) as (driver, store, told):  # fmt: skip
            await driver.run()
            assert is_stored(store, body)
            kept = sent_by(driver)
            # a peer whose worker waits for a core counts as slow: the origin may win a few of its
            assert all(0 < kept[peer.name] <= 6 * MIB for peer in peers)
            assert len(body) - 18 * MIB <= kept["web"] < len(body) / 2
            assert sum(kept.values()) == len(body)
            assert driver.statistics().duplicate_bytes <= 2 * MIB
            assert told.completed == [name]
            assert not told.verdicts
        assert swarm.grown[-1][1:] == (name, None)


@pytest.mark.parametrize(
    ("told_s", "from_s", "to_s"),
    [(0.01, 0.1, 0.13), (0.05, 0.1, 0.21), (3.0, 0.24, 0.26), (None, 0.24, 0.26)],
)
async def test_what_nobody_has_is_asked_of_the_origin_soon_after_all_have_told(
    tmp_path, body, web, told_s, from_s, to_s
):
    with served_peers(5) as peers:
        swarm = ScriptedSwarm(peers)
        async with pulling(
            tmp_path, [wanted(body)], [origin_of(web, body)], swarm, told_s=told_s
        ) as (driver, _, _):
            owners = driver._steps._machine._owners  # its time begins with the pull
            assert owners.is_blind(from_s - 0.05)
            assert not owners.is_blind(to_s)
            ours = [owners.is_mine(Unit(0, n), to_s) for n in range(BLOCKS)]
            assert all(ours), "nobody else takes part"


@pytest.mark.parametrize("map_of", ["everybody", "nobody", "liar-first"])
async def test_a_corrupt_peer_among_three_is_named_and_the_pull_finishes(
    tmp_path, body, web, map_of
):
    """0 bad bytes are kept or shared; the liar alone is convicted."""
    with served_peers(3) as peers, trio.fail_after(DEADLINE_S):
        swarm = ScriptedSwarm(peers)
        liar, *good = peers
        wrong = flipped(body)
        name = liar.serves(body, fh.ranged(wrong))
        for peer in good:
            peer.serves(body)
        if map_of != "nobody":
            liar.vouches_for(name, len(body), block_hashes(wrong))
            for peer in good:
                peer.attests(body)
        if map_of == "everybody":
            liar.attests(body)
        for peer in peers:
            swarm.holds(peer, name, len(body))
        async with pulling(
            tmp_path, [wanted(body)], [origin_of(web, body)], swarm
        ) as (driver, store, told):  # fmt: skip
            await driver.run()
            assert is_stored(store, body)
            assert told.liars == {liar.id}
            assert "block" in told.verdicts[0].reason
            left = {s.name: s.left for s in driver.statistics().sources}
            assert "banned" in str(left[liar.name])
            right = block_hashes(body)
            for word in told.words:
                if word.signer != liar.id:
                    at = word.start // MIB * 32
                    assert word.hashes == right[at : at + len(word.hashes)]


async def test_a_ticket_that_is_refused_is_renewed_once_for_all_requests(tmp_path, body):
    with served_peers(1) as (peer,), trio.fail_after(DEADLINE_S):
        swarm = ScriptedSwarm([peer])
        small = b"small" * 100
        swarm.holds(peer, peer.serves(body), len(body))
        peer.bundles_small(small)
        swarm.holds(peer, digest_of(small), len(small))
        swarm.tickets[peer.id] = "of the run before"
        want = [wanted(body), wanted(small, "small.json")]
        async with pulling(tmp_path, want, [], swarm) as (driver, store, told):
            await driver.run()
            assert is_stored(store, body)
            assert is_stored(store, small)
            assert not told.verdicts
        assert peer.unticketed
        assert swarm.expired == [peer.id]


async def test_a_peer_that_refuses_every_ticket_is_asked_for_one_more_and_no_others(tmp_path, body):
    with served_peers(2) as peers, trio.fail_after(DEADLINE_S):
        swarm = ScriptedSwarm(peers)
        bad, good = peers
        name = bad.serves(body, fh.status(401))
        good.serves(body)
        for peer in peers:
            swarm.holds(peer, name, len(body))
        async with pulling(tmp_path, [wanted(body)], [], swarm) as (driver, store, told):
            await driver.run()
            assert is_stored(store, body)
            assert not told.verdicts
        assert swarm.expired == [bad.id]


async def test_nothing_that_nobody_vouches_for_is_announced(tmp_path, body):
    with served_peers(3) as peers, trio.fail_after(DEADLINE_S):
        swarm = ScriptedSwarm(peers)
        liar = peers[0]
        for peer in peers:
            served = flipped(body) if peer is liar else body
            name = peer.serves(body, swarms.paced(served, 16 * MIB))
            swarm.holds(peer, name, len(body))
        async with pulling(tmp_path, [wanted(body)], [], swarm) as (driver, store, told):
            await driver.run()
            assert is_stored(store, body)
            assert told.liars == {liar.id}
            assert name in told.lost, "before anything is rewritten"
        assert not swarm.announced(name), "without a map nothing of peers is vouched for"


async def test_a_forged_block_map_costs_little_and_its_signer_is_named(tmp_path, body, web):
    with served_peers(3) as peers, trio.fail_after(DEADLINE_S):
        swarm = ScriptedSwarm(peers)
        forger = peers[0]
        name = digest_of(body)
        for peer in peers:
            peer.serves(body)
        forger.vouches_for(name, len(body), block_hashes(flipped(body)))
        for peer in peers:
            swarm.holds(peer, name, len(body))
        async with pulling(
            tmp_path, [wanted(body)], [origin_of(web, body)], swarm
        ) as (driver, store, told):  # fmt: skip
            await driver.run()
            assert is_stored(store, body)
            assert told.liars == {forger.id}
            assert driver.statistics().duplicate_bytes < 10 * MIB


async def test_a_peer_that_advertises_what_it_lacks_is_asked_less(tmp_path, body, web):
    with served_peers(2) as peers, trio.fail_after(DEADLINE_S):
        swarm = ScriptedSwarm(peers)
        name = peers[0].serves(body, fh.status(404))
        peers[1].serves(body, swarms.paced(body, 16 * MIB))
        for peer in peers:
            swarm.holds(peer, name, len(body))
        async with pulling(
            tmp_path, [wanted(body)], [origin_of(web, body)], swarm
        ) as (driver, store, told):  # fmt: skip
            await driver.run()
            assert is_stored(store, body)
            assert len(peers[0].asked) <= 4, "one for each stream, and no more"
            assert not told.verdicts, "it may have been evicted a moment ago"


async def test_a_full_queue_sends_us_to_the_next(tmp_path, body, web):
    with served_peers(2) as peers, trio.fail_after(DEADLINE_S):
        swarm = ScriptedSwarm(peers)
        name = peers[0].serves(body, fh.status(503))
        peers[1].serves(body)
        for peer in peers:
            swarm.holds(peer, name, len(body))
        async with pulling(
            tmp_path, [wanted(body)], [origin_of(web, body)], swarm
        ) as (driver, store, told):  # fmt: skip
            await driver.run()
            assert is_stored(store, body)
            kept = sent_by(driver)
            assert kept[peers[0].name] == 0
            assert kept[peers[1].name] > len(body) / 2, "the rest of the origin, on a busy machine"
            assert not told.verdicts


@pytest.mark.parametrize("how", ["drips", "freezes"])
async def test_no_piece_is_delayed_by_more_than_two_seconds(tmp_path, body, web, how):
    with served_peers(2) as peers, trio.fail_after(DEADLINE_S):
        swarm = ScriptedSwarm(peers)
        bad, good = peers
        slow = swarms.dripping(body, 1024)
        frozen_at: list[float] = []
        if how == "freezes":
            slow = swarms.frozen_after(body, len(body) // 4, frozen_at)
        name = bad.serves(body, slow)
        good.serves(body)
        swarm.holds(bad, name, len(body))
        async with pulling(
            tmp_path, [wanted(body)], [], swarm, streams=2
        ) as (driver, store, told):  # fmt: skip
            before = time.monotonic() - own_time()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(driver.run)
                await trio.sleep(0.4)  # everything is asked of the bad one by then
                swarm.holds(good, name, len(body))
            others_s = time.monotonic() - own_time() - before  # the machine's other programs ran
            assert is_stored(store, body)
            assert not told.verdicts, "slow is no lie"
        lost = {b: at for at, start, end in bad.asked for b in range(start, end)}
        brought = {b: at for at, start, end in good.asked for b in range(start, end)}
        froze = min(frozen_at, default=0.0)  # what it took before that is no delay
        late = [brought[b] - max(lost[b], froze) for b in lost.keys() & brought.keys()]
        assert late, "some pieces moved from one to the other"
        assert max(late) < 2.0 + others_s


async def test_a_peer_that_dies_half_way_costs_nothing_but_its_last_piece(tmp_path, body, web):
    with served_peers(2) as peers, trio.fail_after(DEADLINE_S):
        swarm = ScriptedSwarm(peers)
        name = peers[0].serves(body, swarms.after(2, fh.hang_up, body))
        peers[1].serves(body, swarms.paced(body, 16 * MIB))
        for peer in peers:
            swarm.holds(peer, name, len(body))
        async with pulling(
            tmp_path, [wanted(body)], [origin_of(web, body)], swarm
        ) as (driver, store, told):  # fmt: skip
            await driver.run()
            assert is_stored(store, body)
            assert driver.statistics().duplicate_bytes <= 0.05 * len(body)
            assert not told.verdicts


async def test_a_peer_that_leaves_has_its_pieces_taken_at_once(tmp_path, body, web):
    with served_peers(2) as peers, trio.fail_after(DEADLINE_S):
        swarm = ScriptedSwarm(peers)
        name = peers[0].serves(body, fh.stall)
        peers[1].serves(body)
        swarm.holds(peers[0], name, len(body))
        async with pulling(
            tmp_path, [wanted(body)], [], swarm, stall_s=60.0
        ) as (driver, store, _told):  # fmt: skip
            async with trio.open_nursery() as nursery:
                nursery.start_soon(driver.run)
                while not peers[0].asked:  # noqa: ASYNC110 - a server's thread notes it
                    await trio.sleep(0.01)
                swarm.holds(peers[1], name, len(body))
                swarm.gone(peers[0])
                left = own_time()
            assert own_time() - left < 2.0, "nothing else ends its requests before 8 s"
            assert is_stored(store, body)


async def test_an_origin_that_dies_half_way_while_peers_have_the_rest(tmp_path, body, web):
    with served_peers(2) as peers, trio.fail_after(DEADLINE_S):
        swarm = ScriptedSwarm(peers)
        for peer in peers:
            name = peer.serves(body)
            peer.attests(body)
        origin = origin_of(web, body, swarms.after(2, fh.hang_up, body))
        swarm.holds(peers[0], name, len(body), RangeSet.of((0, 6)))
        async with pulling(
            tmp_path, [wanted(body)], [origin], swarm, streams=2
        ) as (driver, store, told):  # fmt: skip
            async with trio.open_nursery() as nursery:
                nursery.start_soon(driver.run)
                await trio.sleep(1.0)
                swarm.holds(peers[0], name, len(body), RangeSet.of((0, 12)))
                swarm.holds(peers[1], name, len(body), RangeSet.of((12, BLOCKS)))
            assert is_stored(store, body)
            assert not told.verdicts
            assert name in told.lost, "nobody brought it for a while: our readers are dropped"


async def test_a_full_disk_bans_nobody(tmp_path, body, web):
    with (
        served_peers(1) as peers,
        tmpfs(tmp_path / "disk", 40 * MIB) as disk,
        trio.fail_after(DEADLINE_S),
    ):
        swarm = ScriptedSwarm(peers)
        name = peers[0].serves(body, swarms.paced(body, 4 * MIB))
        peers[0].attests(body)
        swarm.holds(peers[0], name, len(body))
        async with pulling(disk.path, [wanted(body)], [], swarm) as (driver, _store, told):
            caught: list[errors.P2PCacheError] = []

            async def run() -> None:
                try:
                    await driver.run()
                except errors.P2PCacheError as exc:
                    caught.append(exc)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(run)
                await trio.sleep(1.0)
                filler = disk.fill()
            filler.unlink()
            assert isinstance(caught[0], errors.DiskFull)
            assert not told.verdicts
            assert not any("banned" in str(s.left) for s in driver.statistics().sources)


async def test_what_the_origin_brings_is_signed_and_announced_while_it_arrives(tmp_path, body, web):
    with served_peers(0) as peers, trio.fail_after(DEADLINE_S):
        swarm = ScriptedSwarm(peers)
        origin = origin_of(web, body, swarms.paced(body, 8 * MIB))
        async with pulling(tmp_path, [wanted(body)], [origin], swarm) as (driver, store, told):
            began = time.monotonic()
            await driver.run()
            took_s = time.monotonic() - began
            assert is_stored(store, body)
        first_at, _, blocks = swarm.grown[0]
        assert blocks is not None
        assert first_at - began < took_s / 2, "long before the blob is complete"
        assert told.words
        right = block_hashes(body)
        for word in told.words:
            assert word.signer == swarms.Key(99).peer_id
            at = word.start // MIB * 32
            assert word.hashes == right[at : at + len(word.hashes)]


async def test_what_is_checked_against_a_signed_map_is_shared_while_it_arrives(tmp_path, body, web):
    with served_peers(1) as peers, trio.fail_after(DEADLINE_S):
        swarm = ScriptedSwarm(peers)
        name = peers[0].serves(body, swarms.paced(body, 8 * MIB))
        peers[0].attests(body)
        swarm.holds(peers[0], name, len(body))
        async with pulling(tmp_path, [wanted(body)], [], swarm) as (driver, store, told):
            await driver.run()
            assert is_stored(store, body)
        assert swarm.announced(name).total > BLOCKS // 3
        assert {word.signer for word in told.words} == {peers[0].id}


async def test_small_files_come_from_peers_and_a_wrong_one_is_proof_at_once(tmp_path):
    bodies = [some_bytes(5000 + n, b"small") for n in range(20)]
    with served_peers(2) as peers, trio.fail_after(DEADLINE_S):
        swarm = ScriptedSwarm(peers)
        liar, good = peers
        for n, body in enumerate(bodies):
            liar.bundles_small(body, body if n else body[:-1] + b"!")
            good.bundles_small(body)
            swarm.holds(liar, digest_of(body), len(body))
        want = [wanted(body, f"{n}.json") for n, body in enumerate(bodies)]
        async with pulling(tmp_path, want, [], swarm) as (driver, store, told):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(driver.run)
                with trio.move_on_after(4):  # less than `hope_s`
                    while not told.verdicts:  # noqa: ASYNC110
                        await trio.sleep(0.02)
                assert told.verdicts
                for body in bodies:
                    swarm.holds(good, digest_of(body), len(body))
            assert all(is_stored(store, body) for body in bodies)
            assert told.liars == {liar.id}
            assert "0.json" in told.verdicts[0].reason
        assert sum(good.bundles) >= 1, "the one that the liar had wrong"


async def test_small_files_of_a_peer_travel_together(tmp_path):
    bodies = [some_bytes(5000 + n, b"small") for n in range(100)]
    with served_peers(1) as (peer,), trio.fail_after(DEADLINE_S):
        swarm = ScriptedSwarm([peer])
        for body in bodies[1:]:  # it says that it has the first too, but does not
            peer.bundles_small(body)
        for body in bodies:
            swarm.holds(peer, digest_of(body), len(body))
        want = [wanted(body, f"{n}.json") for n, body in enumerate(bodies)]
        async with pulling(tmp_path, want, [], swarm) as (driver, store, told):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(driver.run)
                with trio.move_on_after(5):
                    while not all(is_stored(store, b) for b in bodies[1:]):  # noqa: ASYNC110
                        await trio.sleep(0.05)
                nursery.cancel_scope.cancel()
            assert all(is_stored(store, body) for body in bodies[1:])
            assert not told.verdicts
        assert len(peer.bundles) <= 10, f"{peer.bundles} of 99 files"
        assert not any(path.startswith("/blob/") for path, _ in peer.server.seen)


async def test_a_lying_size_is_never_used_and_named_when_the_bytes_prove_it(tmp_path, body, web):
    with served_peers(2) as peers, trio.fail_after(DEADLINE_S):
        swarm = ScriptedSwarm(peers)
        liar, good = peers
        name = good.serves(body)
        swarm.holds(liar, name, len(body) - 1)
        swarm.holds(good, name, len(body))
        async with pulling(tmp_path, [wanted(body)], [], swarm) as (driver, store, told):
            await driver.run()
            assert is_stored(store, body)
            assert told.liars == {liar.id}
        assert not liar.asked
