"""Members in virtual time: what they say of preloads."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from p2pcache.errors import Untrusted
from p2pcache.net.sync import preloads
from tests.support.members import Script, hello, peer
from tests.support.world import full, until, world


@pytest.fixture
def autojump_clock():
    return MockClock(autojump_threshold=0)


async def test_preloads_are_told_to_those_who_know_of_them_and_lies_end_the_link(autojump_clock):
    heard = []

    def refuse(_peer, _message):
        raise Untrusted("a signature does not fit its signer")

    async with world(3, deadline_s=60) as (_, (a, b, c)):
        await until(lambda: full([a, b, c]), within_s=3)
        b.network.on_preload = lambda peer, message: heard.append(("b", peer, message))
        c.network.on_preload = lambda peer, message: heard.append(("c", peer, message))
        word, ask = preloads.Records((b"record",)), preloads.Watch(())
        a.network.tell_preload(word)
        await trio.sleep(1)
        assert sorted(heard) == [("b", a.peer, word), ("c", a.peer, word)]
        heard.clear()
        a.network.tell_preload(ask, but=b.peer)
        a.network.tell_preload(word, to=b.peer)
        await trio.sleep(1)
        assert sorted(heard) == [("b", a.peer, word), ("c", a.peer, ask)]
        c.network.on_preload = refuse
        a.network.tell_preload(word)
        await until(lambda: c.distrusted, within_s=3)


@pytest.mark.parametrize(("minor", "is_told"), [(1, False), (2, True), (3, True)])
async def test_an_older_minor_version_is_told_of_no_preload(autojump_clock, minor, is_told):
    async with world(1, deadline_s=60) as (net, (a,)):
        script = await Script.dial(net.host(peer(50)), a.peer, a.host.addresses())
        await script.say(hello(minor))
        await until(a.knows, within_s=3)
        a.network.tell_preload(preloads.Records((b"record",)))
        told = None
        with trio.move_on_after(3):
            told = await script.hear_a(preloads.Records)
        assert (told is not None) == is_told
        await script.stream.aclose()
