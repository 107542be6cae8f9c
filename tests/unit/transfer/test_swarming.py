"""What peers tell while a pull moves on: late answers change nothing."""

from __future__ import annotations

from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from p2pcache.content.ranges import RangeSet
from p2pcache.content.signed import sign_attestation
from p2pcache.errors import Unavailable
from p2pcache.lanes.orders import Fault, FaultKind, Location
from p2pcache.sources.port import PeerLoad, PeerProof, PeerThrottled
from p2pcache.transfer import events as ev
from p2pcache.transfer.budgets import origin_key
from p2pcache.transfer.machine.zones import FAR
from p2pcache.transfer.sharing import Peers
from p2pcache.transfer.swarming import Swarming
from tests.support.partial_files import block_hashes, some_bytes
from tests.support.swarms import (
    MIB,
    Key,
    ScriptedSwarm,
    ServedPeer,
    Told,
    attestations,
    digest_of,
    wanted,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class CompletesMeanwhile(ScriptedSwarm):
    """The blob is complete before an answer to a question about it arrives."""

    swarming: Swarming
    hashes: bytes

    async def block_map(self, peer, name, first, count, *, timeout_s):
        await self.swarming.completed(0, SimpleNamespace(), self.hashes)
        return await super().block_map(peer, name, first, count, timeout_s=timeout_s)


async def test_a_map_that_arrives_when_its_blob_is_complete_changes_nothing():
    body = some_bytes(4 * MIB, b"map")
    peer = ServedPeer(Key(1), SimpleNamespace())
    peer.attests(body)
    send, heard = trio.open_memory_channel[ev.Event](100)
    swarm, told = CompletesMeanwhile([peer]), Told()
    swarming = Swarming(Peers(swarm, told, Key(99)), [wanted(body)], send, requests=8)
    swarm.swarming, swarm.hashes = swarming, block_hashes(body)
    partial = SimpleNamespace(data_path=Path("data"), live_path=Path("live"))
    swarming.opened(0, SimpleNamespace(proven=None, partial=partial))
    swarm.holds(peer, digest_of(body), len(body), RangeSet.of((0, 1)))
    swarm.gone(peer)
    swarm.send.close()
    with trio.fail_after(5):
        await swarming.run()
    events = [heard.receive_nowait() for _ in range(heard.statistics().current_buffer_used)]
    assert isinstance(events[0], ev.SourceUp)
    assert told.completed == [digest_of(body)]
    assert not told.verdicts
    assert events[-1] == ev.SourceDown(peer.name, "its connection ended", may_return=True)


class Slow(ScriptedSwarm):
    """A peer answers for its hashes when it has sent its bytes already."""

    async def block_map(self, peer, name, first, count, *, timeout_s):
        await trio.sleep(2)
        return await super().block_map(peer, name, first, count, timeout_s=timeout_s)


@pytest.mark.parametrize("blocks", [RangeSet.of((0, 4)), None])
async def test_a_relay_that_told_too_late_whose_word_it_passed_on_is_not_banned(
    autojump_clock, blocks: RangeSet | None
):
    body, bad = some_bytes(4 * MIB, b"right"), some_bytes(4 * MIB, b"wrong")
    relay = ServedPeer(Key(1), SimpleNamespace(port=1))
    relay.maps[digest_of(body)] = attestations(Key(2), digest_of(body), 4 * MIB, block_hashes(bad))
    send, heard = trio.open_memory_channel[ev.Event](100)
    swarm, told = Slow([relay]), Told()
    swarming = Swarming(Peers(swarm, told, Key(99)), [wanted(body)], send, requests=8)
    partial = SimpleNamespace(data_path=Path("data"), live_path=Path("live"))
    swarming.opened(0, SimpleNamespace(proven=None, partial=partial))
    swarm.holds(relay, digest_of(body), len(body), blocks)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(swarming.run)
        await trio.sleep(1)
        await swarming.locate(relay.name, 0)
        swarming.brought(relay.name, 0, 0, block_hashes(bad)[:32])
        await swarming.completed(0, SimpleNamespace(), block_hashes(body))
        nursery.cancel_scope.cancel()
    events = [heard.receive_nowait() for _ in range(heard.statistics().current_buffer_used)]
    assert isinstance(events[-1], ev.SourceDown)
    assert not events[-1].may_return
    assert told.liars == (set() if blocks else {relay.id})


@pytest.mark.parametrize("blocks", [RangeSet.of((0, 4)), None])
async def test_a_lone_holder_that_signs_after_it_sent_other_bytes_is_banned_by_its_own_word(
    autojump_clock, blocks: RangeSet | None
):
    body, bad = some_bytes(4 * MIB, b"right"), some_bytes(4 * MIB, b"wrong")
    liar = ServedPeer(Key(1), SimpleNamespace(port=1))
    liar.maps[digest_of(body)] = attestations(Key(1), digest_of(body), 4 * MIB, block_hashes(body))
    send, _heard = trio.open_memory_channel[ev.Event](100)
    swarm, told = Slow([liar]), Told()
    swarming = Swarming(Peers(swarm, told, Key(99)), [wanted(body)], send, requests=8)
    partial = SimpleNamespace(data_path=Path("data"), live_path=Path("live"))
    swarming.opened(0, SimpleNamespace(proven=None, partial=partial))
    swarm.holds(liar, digest_of(body), len(body), blocks)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(swarming.run)
        await trio.sleep(0.28)
        await swarming.locate(liar.name, 0)
        swarming.brought(liar.name, 0, 0, block_hashes(bad))
        await swarming._maps.learn(liar.id, 0, RangeSet.of((0, 4)))
        await swarming.suspects(0)
        nursery.cancel_scope.cancel()
    assert told.liars == (set() if blocks else {liar.id})


@pytest.mark.parametrize("blocks", [RangeSet.of((0, 1)), None])
async def test_a_wrong_size_is_judged_only_of_who_has_the_whole_blob(blocks: RangeSet | None):
    body = some_bytes(4 * MIB, b"size")
    peer = ServedPeer(Key(1), SimpleNamespace())
    send, _heard = trio.open_memory_channel[ev.Event](100)
    swarm, told = ScriptedSwarm([peer]), Told()
    swarming = Swarming(Peers(swarm, told, Key(99)), [wanted(body)], send, requests=8)
    swarm.holds(peer, digest_of(body), 5 * MIB, blocks)
    swarm.send.close()
    with trio.fail_after(5):
        await swarming.run()
        await swarming.completed(0, SimpleNamespace(), None)
    assert told.liars == (set() if blocks else {peer.id})


@pytest.mark.parametrize(
    ("after_s", "then", "from_s", "to_s"),
    [
        (0.7, "holds", 0.7, 0.8),
        (0.7, "fails", 0.7, 0.8),
        (0.7, "leaves", 0.7, 0.8),
        (60.0, "holds", 2.0, 2.5),
    ],
)
async def test_an_origin_is_spared_while_a_proof_of_access_is_made_for_a_bounded_time(
    autojump_clock, after_s: float, then: str, from_s: float, to_s: float
):
    body = some_bytes(4 * MIB, b"gated")
    peer = ServedPeer(Key(1), SimpleNamespace())
    send, _heard = trio.open_memory_channel[ev.Event](100)
    swarm = ScriptedSwarm([peer])
    swarming = Swarming(Peers(swarm, Told(), Key(99)), [wanted(body)], send, requests=8)
    swarm.send.send_nowait(PeerProof(peer.id, under_way=True))
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(swarming.run)

        async def later() -> None:
            await trio.sleep(after_s)
            if then == "holds":
                swarm.holds(peer, digest_of(body), len(body))
            elif then == "fails":
                swarm.send.send_nowait(PeerProof(peer.id, under_way=False))
            else:
                swarm.gone(peer)

        nursery.start_soon(later)
        await swarming.wait_hello()
        assert from_s <= trio.current_time() - began <= to_s
        nursery.cancel_scope.cancel()


def attested_peers(body: bytes, count: int) -> list[ServedPeer]:
    peers = [ServedPeer(Key(n + 1), SimpleNamespace()) for n in range(count)]
    for peer in peers:
        peer.attests(body)
    return peers


@asynccontextmanager
async def listening(swarm: ScriptedSwarm, body: bytes) -> AsyncIterator[Swarming]:
    send, _ = trio.open_memory_channel[ev.Event](1000)
    swarming = Swarming(Peers(swarm, Told(), Key(99)), [wanted(body)], send, requests=8)
    partial = SimpleNamespace(data_path=Path("data"), live_path=Path("live"))
    swarming.opened(0, SimpleNamespace(proven=None, partial=partial))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(swarming.run)
        yield swarming
        nursery.cancel_scope.cancel()


async def test_a_block_that_many_announce_at_once_is_asked_for_once(autojump_clock):
    body = some_bytes(4 * MIB, b"map")
    peers = attested_peers(body, 5)
    swarm = ScriptedSwarm(peers)
    async with listening(swarm, body) as swarming:
        for peer in peers:
            swarm.holds(peer, digest_of(body), len(body), RangeSet.of((1, 2)))
        await trio.sleep(1)
        assert [ask[1:] for ask in swarm.map_asks] == [(1, 1)]
        assert swarming.expected(0, MIB, 2 * MIB) == block_hashes(body)[32:64]


class Late(ScriptedSwarm):
    """Answers when blocks do not wait for it any more; the first peer never does."""

    async def block_map(self, peer, name, first, count, *, timeout_s):
        if peer == next(iter(self._peers)):
            await trio.sleep(timeout_s)
            raise Unavailable("it did not answer")
        await trio.sleep(0.4)
        return await super().block_map(peer, name, first, count, timeout_s=timeout_s)


async def test_a_late_answer_counts_and_a_silent_peer_keeps_nobody_from_being_asked(autojump_clock):
    body = some_bytes(4 * MIB, b"map")
    silent, late = peers = attested_peers(body, 2)
    swarm = Late(peers)
    async with listening(swarm, body) as swarming:
        swarm.holds(late, digest_of(body), len(body), RangeSet.of((0, 1)))
        swarm.holds(silent, digest_of(body), len(body), RangeSet.of((2, 3)))
        await trio.sleep(0.3)
        assert swarming.expected(0, 0, 4 * MIB) is None
        await trio.sleep(0.3)
        assert swarming.expected(0, 0, MIB) == block_hashes(body)[:32]
        swarm.holds(late, digest_of(body), len(body), RangeSet.of((0, 1), (2, 3)))
        await trio.sleep(1)
        assert swarming.expected(0, 2 * MIB, 3 * MIB) == block_hashes(body)[64:96]


async def test_what_is_announced_as_its_blob_is_completed_is_not_asked_about(autojump_clock):
    body = some_bytes(4 * MIB, b"map")
    (peer,) = attested_peers(body, 1)
    swarm = ScriptedSwarm([peer])
    async with listening(swarm, body) as swarming:
        swarm.holds(peer, digest_of(body), len(body), RangeSet.of((0, 1)))
        while not swarming._untold:  # it is heard; the task that asks has not begun
            await trio.lowlevel.checkpoint()
        await swarming.completed(0, SimpleNamespace(), block_hashes(body))
        await trio.sleep(1)
    assert swarm.map_asks == []


async def test_a_queue_that_was_told_before_anything_was_held_counts(autojump_clock):
    body = some_bytes(4 * MIB, b"right")
    peer = ServedPeer(Key(1), SimpleNamespace(port=1))
    send, heard = trio.open_memory_channel[ev.Event](100)
    swarm = ScriptedSwarm([peer])
    swarming = Swarming(Peers(swarm, Told(), Key(99)), [wanted(body)], send, requests=8)
    swarm.send.send_nowait(PeerLoad(peer.id, 2.5))
    swarm.holds(peer, digest_of(body), len(body), RangeSet.of((0, 4)))
    swarm.send.send_nowait(PeerLoad(peer.id, 0.5))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(swarming.run)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    events = [heard.receive_nowait() for _ in range(heard.statistics().current_buffer_used)]
    queues = [one.queue_s for one in events if isinstance(one, ev.SourceQueue)]
    assert queues == [2.5, 0.5]


def refused(status: int, retry_after_s: float | None = 30.0) -> Fault:
    return Fault(FaultKind.UNAVAILABLE, "wait", retry_after_s=retry_after_s, http_status=status)


async def test_of_an_origin_that_refuses_others_are_told_once_and_others_words_on_it_are_used(
    autojump_clock,
):
    place = origin_key("hub.example:8443")
    peer = ServedPeer(Key(1), SimpleNamespace(port=1))
    send, heard = trio.open_memory_channel[ev.Event](100)
    swarm = ScriptedSwarm([peer])
    body = some_bytes(MIB, b"right")
    swarming = Swarming(Peers(swarm, Told(), Key(99)), [wanted(body)], send, requests=8)
    swarm.send.send_nowait(PeerThrottled(peer.id, place, 20.0))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(swarming.run)
        await trio.sleep(5)
        assert heard.statistics().current_buffer_used == 0, "who knows whose place this is?"
        swarming.throttled("origin", refused(429))
        await swarming.asks("origin", Location("https://hub.example:8443/model"))
        assert heard.receive_nowait() == ev.OriginWord("origin", peer.name, 15.0)
        for fault in (refused(500), refused(404), refused(429, None)):
            swarming.throttled("origin", fault)
        assert swarm.throttles == []
        for status in (429, 503, 429):
            swarming.throttled("origin", refused(status))
        assert swarm.throttles == [(place, 30.0)]
        swarm.send.send_nowait(PeerThrottled(peer.id, bytes(16), 20.0))
        await trio.sleep(1)
        assert heard.statistics().current_buffer_used == 0, "another place"
        nursery.cancel_scope.cancel()


async def test_how_far_a_peer_is_is_told_before_what_it_holds_and_once(autojump_clock):
    body = some_bytes(4 * MIB, b"far")
    near, far = ServedPeer(Key(1), SimpleNamespace()), ServedPeer(Key(2), SimpleNamespace())
    send, heard = trio.open_memory_channel[ev.Event](100)
    swarm = ScriptedSwarm([near])
    swarm.distances[far.id] = FAR
    swarming = Swarming(Peers(swarm, Told(), Key(99)), [wanted(body)], send, requests=8)
    assert swarming.places() == []
    for peer in (near, far):
        swarm.peer_brings(peer, {})
        swarm.holds(peer, digest_of(body), len(body))
    swarm.send.close()
    await swarming.run()
    told = []
    while heard.statistics().current_buffer_used:
        told.append(heard.receive_nowait())
    placed = [event for event in told if isinstance(event, ev.Placed)]
    assert placed == [ev.Placed(far.name, FAR)]
    first = next(event for event in told if getattr(event, "name", None) == far.name)
    assert first == placed[0]


async def test_who_left_is_as_far_as_it_was_and_what_it_said_is_forgotten(autojump_clock):
    body = some_bytes(4 * MIB, b"left")
    far = ServedPeer(Key(2), SimpleNamespace())
    send, heard = trio.open_memory_channel[ev.Event](100)
    swarm = ScriptedSwarm([])
    swarming = Swarming(Peers(swarm, Told(), Key(99)), [wanted(body)], send, requests=8)
    swarm.distances[far.id] = FAR
    async with trio.open_nursery() as nursery:
        nursery.start_soon(swarming.run)
        swarm.send.send_nowait(PeerLoad(far.id, 2.5))
        swarm.send.send_nowait(PeerThrottled(far.id, bytes(16), 20.0))
        swarm.holds(far, digest_of(body), len(body))
        await trio.sleep(1)
        assert swarming.was_warned
        del swarm.distances[far.id]  # who knows where it is now
        swarm.gone(far)
        await trio.sleep(1)
        assert not swarming.was_warned
        swarm.distances[far.id] = FAR
        swarm.holds(far, digest_of(body), len(body))
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    told = [heard.receive_nowait() for _ in range(heard.statistics().current_buffer_used)]
    assert [event for event in told if isinstance(event, ev.Placed)] == [ev.Placed(far.name, FAR)]
    queues = [event for event in told if isinstance(event, ev.SourceQueue)]
    assert queues == [ev.SourceQueue(far.name, 2.5)]


async def test_an_origin_that_is_first_asked_while_a_word_is_told_and_a_member_that_leaves(
    autojump_clock,
):
    body = some_bytes(4 * MIB, b"word")
    peers = [ServedPeer(Key(n), SimpleNamespace()) for n in (1, 2)]
    send, heard = trio.open_memory_channel[ev.Event](0)
    swarm = ScriptedSwarm(peers)
    swarming = Swarming(Peers(swarm, Told(), Key(99)), [wanted(body)], send, requests=8)
    place = origin_key("hub.example")
    here = Location("https://hub.example/a")
    await swarming.asks("one", here)
    told: list[ev.Event] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(swarming.run)
        swarm.send.send_nowait(PeerThrottled(peers[0].id, place, 20.0))
        swarm.send.send_nowait(PeerThrottled(peers[1].id, place, 20.0))
        await trio.testing.wait_all_tasks_blocked()  # the first word of the first waits
        nursery.start_soon(swarming.asks, "two", here)
        await trio.testing.wait_all_tasks_blocked()
        await drain(heard, told)
        nursery.start_soon(swarming.asks, "three", here)
        await trio.testing.wait_all_tasks_blocked()  # the word of the first, with the other behind
        swarm.gone(peers[1])
        await trio.testing.wait_all_tasks_blocked()
        await drain(heard, told)
        nursery.cancel_scope.cancel()
    words = [(one.name, one.member) for one in told if isinstance(one, ev.OriginWord)]
    assert set(words) == {
        *((origin, peers[0].name) for origin in ("one", "two", "three")),
        *((origin, peers[1].name) for origin in ("one", "two")),
    }


async def drain(heard: trio.MemoryReceiveChannel[ev.Event], told: list[ev.Event]) -> None:
    with trio.move_on_after(0.1):
        while True:
            told.append(await heard.receive())


async def test_what_needs_no_question_is_told_before_what_waits_for_an_answer(autojump_clock):
    body = some_bytes(4 * MIB, b"spoken")
    name, hashes = digest_of(body), block_hashes(body)
    first, asked, quick = (ServedPeer(Key(n), SimpleNamespace(port=n)) for n in (1, 2, 3))
    first.maps[name] = [sign_attestation(first.key, name, len(body), 0, hashes[:64])]
    send, heard = trio.open_memory_channel[ev.Event](100)
    swarm = Slow([first, asked, quick])
    swarming = Swarming(Peers(swarm, Told(), Key(99)), [wanted(body)], send, requests=8)
    partial = SimpleNamespace(data_path=Path("data"), live_path=Path("live"))
    swarming.opened(0, SimpleNamespace(proven=None, partial=partial))
    told: list[ev.Event] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(swarming.run)
        swarm.holds(first, name, len(body), RangeSet.of((0, 2)))
        await trio.sleep(3)  # what it knows of these two blocks is here
        assert len(swarm.map_asks) == 1
        await drain(heard, told)
        told.clear()
        swarm.holds(asked, name, len(body), RangeSet.of((2, 4)))
        swarm.holds(quick, name, len(body), RangeSet.of((1, 2)))
        swarm.send.send_nowait(PeerLoad(quick.id, 1.5))
        await trio.testing.wait_all_tasks_blocked()  # not a moment of time has passed
        told += [heard.receive_nowait() for _ in range(heard.statistics().current_buffer_used)]
        assert [type(event) for event in told] == [
            ev.SourceUp, ev.SourceUp, ev.SourceHas, ev.SourceQueue
        ], "in the order in which it was said"  # fmt: skip
        assert told[2] == ev.SourceHas(quick.name, 0, RangeSet.of((1, 2)))
        await trio.sleep(1)
        assert heard.receive_nowait() == ev.SourceHas(asked.name, 0, RangeSet.of((2, 4)))
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("blocks", [None, RangeSet.of((0, 1))], ids=["all of it", "its blocks"])
async def test_who_sends_wrong_bytes_and_takes_its_word_back_is_judged_by_what_it_had_told(
    blocks: RangeSet | None,
):
    """Who told of blocks alone (of a file of somebody else's) is left out, and not banned."""
    body = some_bytes(1000, b"small")
    liar = ServedPeer(Key(1), SimpleNamespace(port=1))
    send, _ = trio.open_memory_channel[ev.Event](100)
    swarm, told = ScriptedSwarm([liar]), Told()
    swarming = Swarming(Peers(swarm, told, Key(99)), [wanted(body)], send, requests=8)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(swarming.run)
            swarm.holds(liar, digest_of(body), len(body), blocks)
            await trio.testing.wait_all_tasks_blocked()
            swarming.asks_small(liar.name, [0])
            swarm.peer_lost(liar, digest_of(body))
            await trio.testing.wait_all_tasks_blocked()
            fault = Fault(FaultKind.UNTRUSTED, "other bytes", arrived=bytes(32))
            await swarming.refused_small(liar.name, 0, fault)
            nursery.cancel_scope.cancel()
    assert told.liars == ({liar.id} if blocks is None else set())
