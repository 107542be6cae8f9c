"""Members in virtual time: what they say of origins' budgets."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from p2pcache.errors import Untrusted
from p2pcache.net.sync.spending import Entry, Spends
from tests.support.members import Script, hello, peer
from tests.support.world import full, until, world

WORD = Spends((Entry(b"o" * 16, 24311, 5, 1, True, 1),))


@pytest.fixture
def autojump_clock():
    return MockClock(autojump_threshold=0)


async def test_a_members_figures_are_heard_by_the_others_as_its_own(autojump_clock):
    heard = []
    async with world(3, deadline_s=60) as (_, (a, b, c)):
        await until(lambda: full([a, b, c]), within_s=3)
        for node in (b, c):
            node.network.on_spends = lambda *said: heard.append(said)
        a.network.tell_spends(WORD)
        await trio.sleep(1)
        assert heard == [(a.peer, WORD)] * 2


async def test_who_is_told_that_it_says_too_much_loses_its_link(autojump_clock):
    def refuse(*_):
        raise Untrusted("too often")

    async with world(2, deadline_s=60) as (_, (a, b)):
        await until(lambda: full([a, b]), within_s=3)
        b.network.on_spends = refuse
        assert a.network.tell_spends(WORD), "nobody was left out"
        await until(lambda: not b.knows(), within_s=3)
        assert b.distrusted == [(a.peer, "too often")]
        assert a.network.beat_s > 0


@pytest.mark.parametrize(("minor", "is_told"), [(3, False), (4, True), (5, True)])
async def test_an_older_minor_version_is_told_of_no_figures(autojump_clock, minor, is_told):
    async with world(1, deadline_s=60) as (net, (a,)):
        script = await Script.dial(net.host(peer(50)), a.peer, a.host.addresses())
        await script.say(hello(minor))
        await until(a.knows, within_s=3)
        a.network.tell_spends(WORD)
        told = None
        with trio.move_on_after(3):
            told = await script.hear_a(Spends)
        assert (told is not None) == is_told
        await script.stream.aclose()
