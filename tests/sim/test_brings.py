"""What members tell of what they bring from an origin, in virtual time."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from p2pcache.content.ranges import RangeSet
from p2pcache.net.shelf import PeerBrings, PeerLoad, PeerThrottled
from tests.support.members import open_node
from tests.support.world import MANIFEST, NAMES, full, until, world

BLOCKS = RangeSet.of((3, 5))


@pytest.fixture
def autojump_clock():
    return MockClock(autojump_threshold=0)


async def heard(swarm, within_s=1.0) -> PeerBrings:
    """The next word on what somebody brings."""
    with trio.fail_after(within_s):
        while True:
            event = await swarm.events.receive()
            if isinstance(event, PeerBrings):
                return event


async def test_what_a_pull_brings_is_told_within_a_beat_and_its_end_too(autojump_clock):
    async with world(2, deadline_s=60) as (_, nodes):
        await until(lambda: full(nodes), within_s=3)
        a, b = nodes
        async with b.network.swarm(MANIFEST, NAMES) as hears:
            async with a.network.swarm(MANIFEST, NAMES) as tells:
                tells.brings(1e6, False, {NAMES[0]: BLOCKS})
                assert await heard(hears, 0.05) == PeerBrings(
                    a.peer, 1e6, False, {NAMES[0]: BLOCKS}
                )
                tells.brings(2e6, True, {})
                assert await heard(hears, 0.05) == PeerBrings(a.peer, 2e6, True, {})
            assert (await heard(hears)).intake_bytes_per_s is None, "it has ended its part"


async def test_how_busy_a_member_is_reaches_the_pulls_that_want_something_of_it(autojump_clock):
    async with world(2, deadline_s=60) as (net, nodes):
        await until(lambda: full(nodes), within_s=3)
        a, b = nodes
        async with b.network.swarm(MANIFEST, NAMES) as hears:
            await trio.sleep(0.5)
            a.network.busy(2.0, 1e6)
            loads = [one async for one in until_load(hears, 0.5)]
            assert loads[-1] == PeerLoad(a.peer, 2.0)
            async with open_node(net, 9) as late:
                late.network.found(a.peer, a.host.addresses())
                await until(lambda: a.peer in late.knows(), within_s=3)
                async with late.network.swarm(MANIFEST, NAMES) as hears_too:
                    loads = [one async for one in until_load(hears_too, 0.5)]
                    assert loads[-1] == PeerLoad(a.peer, 2.0)
        (member,) = [one for one in b.network.members() if one.peer == a.peer]
        assert (member.load.queue_s, member.load.up_bytes_per_s) == (2.0, 1e6)


async def until_load(swarm, within_s):
    """The events up to the next word on a load."""
    with trio.fail_after(within_s):
        while True:
            event = await swarm.events.receive()
            yield event
            if isinstance(event, PeerLoad):
                return


async def test_who_comes_later_hears_it_with_the_first_answer(autojump_clock):
    async with world(2, deadline_s=60) as (net, nodes):
        await until(lambda: full(nodes), within_s=3)
        a, b = nodes
        async with a.network.swarm(MANIFEST, NAMES) as tells:
            tells.brings(1e6, False, {NAMES[1]: BLOCKS})
            async with b.network.swarm(MANIFEST, NAMES) as hears:
                assert (await heard(hears)).brings == {NAMES[1]: BLOCKS}
            async with open_node(net, 9) as late:
                late.network.found(a.peer, a.host.addresses())
                await until(lambda: a.peer in late.knows(), within_s=3)
                async with late.network.swarm(MANIFEST, NAMES) as hears:
                    assert (await heard(hears)).brings == {NAMES[1]: BLOCKS}


async def test_several_pulls_of_one_manifest_are_one_to_others(autojump_clock):
    async with world(2, deadline_s=60) as (_, nodes):
        await until(lambda: full(nodes), within_s=3)
        a, b = nodes
        async with (
            b.network.swarm(MANIFEST, NAMES) as hears,
            a.network.swarm(MANIFEST, NAMES) as one,
            a.network.swarm(MANIFEST, NAMES) as other,
        ):
            one.brings(1e6, True, {NAMES[0]: BLOCKS})
            other.brings(2e6, False, {NAMES[1]: BLOCKS})
            assert await heard(hears) == PeerBrings(
                a.peer, 3e6, False, {NAMES[0]: BLOCKS, NAMES[1]: BLOCKS}
            )
            one.brings(None, True, {})
            assert await heard(hears) == PeerBrings(a.peer, 2e6, False, {NAMES[1]: BLOCKS})


async def test_who_may_not_know_of_it_hears_nothing_and_names_that_are_not_wanted_stay_here(
    autojump_clock,
):
    async with world(2, deadline_s=60) as (_, nodes):
        await until(lambda: full(nodes), within_s=3)
        a, b = nodes
        a.shelf.restricted.add(MANIFEST)
        async with (
            b.network.swarm(MANIFEST, NAMES[:1]) as hears,
            a.network.swarm(MANIFEST, NAMES) as tells,
        ):
            tells.brings(1e6, False, {NAMES[0]: BLOCKS})
            with pytest.raises(trio.TooSlowError):
                await heard(hears)
        a.shelf.restricted.clear()
        async with (
            b.network.swarm(MANIFEST, NAMES[:1]) as hears,
            a.network.swarm(MANIFEST, NAMES) as tells,
        ):
            tells.brings(1e6, False, {NAMES[0]: BLOCKS, NAMES[1]: BLOCKS})
            assert (await heard(hears)).brings == {NAMES[0]: BLOCKS}


async def test_a_word_on_what_was_not_wanted_is_a_lie(autojump_clock):
    from p2pcache.net.sync.wire import Brings, Coming, Hello, Want
    from tests.support.members import Script, hello, peer

    async with world(1, deadline_s=60) as (net, (a,)):
        liar = net.host(peer(50))
        script = await Script.dial(liar, a.peer, a.host.addresses())
        await script.say(hello(minor=1))
        await script.hear_a(Hello)
        async with a.network.swarm(MANIFEST, NAMES):
            want = await script.hear_a(Want)
            await script.say(Brings(want.id, 1.0, False, (Coming(b"another", BLOCKS),)))
            await until(lambda: a.distrusted, within_s=3)
        liar.kill()


ORIGIN = bytes(range(16))


async def test_an_origin_that_told_one_to_wait_is_known_to_all_that_take_part(autojump_clock):
    async with world(3, deadline_s=60) as (_, nodes):
        await until(lambda: full(nodes), within_s=3)
        a, b, c = nodes
        async with (
            a.network.swarm(MANIFEST, NAMES) as tells,
            b.network.swarm(MANIFEST, NAMES) as hears,
            c.network.swarm(b"another", NAMES) as not_about_this,
        ):
            await trio.sleep(0.5)
            tells.throttled(ORIGIN, 1e6)
            said = [one async for one in until_throttled(hears, 0.5)]
            assert said[-1] == PeerThrottled(a.peer, ORIGIN, 3600.0), "an hour at most"
            with pytest.raises(trio.TooSlowError):
                [one async for one in until_throttled(not_about_this, 0.5)]


async def test_who_comes_later_is_told_what_is_left_of_the_time(autojump_clock):
    async with world(2, deadline_s=60) as (net, nodes):
        await until(lambda: full(nodes), within_s=3)
        a, b = nodes
        async with a.network.swarm(MANIFEST, NAMES) as tells:
            tells.throttled(ORIGIN, 20.0)
            await trio.sleep(5)
            async with b.network.swarm(MANIFEST, NAMES) as hears:
                said = [one async for one in until_throttled(hears, 0.5)]
                assert said[-1].retry_after_s == pytest.approx(15.0, abs=0.5)
            async with open_node(net, 9) as late:
                late.network.found(a.peer, a.host.addresses())
                await until(lambda: a.peer in late.knows(), within_s=3)
                async with late.network.swarm(MANIFEST, NAMES) as hears:
                    said = [one async for one in until_throttled(hears, 0.5)]
                    assert said[-1].retry_after_s < 15.0


async def until_throttled(swarm, within_s):
    with trio.fail_after(within_s):
        while True:
            event = await swarm.events.receive()
            yield event
            if isinstance(event, PeerThrottled):
                return


@pytest.mark.parametrize(("minor", "is_told"), [(2, False), (3, True), (4, True)])
async def test_an_older_minor_version_is_told_of_no_origin(autojump_clock, minor, is_told):
    from p2pcache.net.sync.wire import HoldsEnd, Throttled, Want
    from tests.support.members import Script, hello, peer

    async with world(1, deadline_s=60) as (net, (a,)):
        script = await Script.dial(net.host(peer(50)), a.peer, a.host.addresses())
        await script.say(hello(minor), Want(1, MANIFEST, tuple(NAMES)))
        await script.hear_a(HoldsEnd)
        async with a.network.swarm(MANIFEST, NAMES) as tells:
            tells.throttled(ORIGIN, 10.0)
            told = None
            with trio.move_on_after(3):
                told = await script.hear_a(Throttled)
        assert told == (Throttled(1, ORIGIN, 10.0) if is_told else None)
        await script.stream.aclose()
