"""Links of one peer: what is kept for them, without sockets."""

from __future__ import annotations

from types import SimpleNamespace

import trio
from trio.testing import MockClock

from p2pcache.net.host import HostOptions, Libp2pHost, _Link

PEER = b"peer"


def test_a_peer_that_connects_again_and_again_costs_one_task():
    async def main():
        async with trio.open_nursery() as nursery:
            host = object.__new__(Libp2pHost)
            host._options, host._nursery, host._peer_id = HostOptions(), nursery, b"me"
            host._links, host._by_muxed, host._watchers, host._sparing = {}, {}, [], set()
            for _ in range(50):
                tcp = SimpleNamespace(remote="here")
                link = _Link(PEER, tcp, object(), True, trio.current_time())
                tcp.cut = lambda link=link: host._lost(link)
                link.conn = SimpleNamespace(get_streams=lambda: ["busy"])
                host._gained(link)
                await trio.sleep(1)
            assert len(host._links[PEER]) == HostOptions().max_links_per_peer
            assert len(nursery.child_tasks) == 1
            for link in list(host._links[PEER])[1:]:
                host._lost(link)
            await trio.sleep(10 * HostOptions().spare_link_s)
            assert not nursery.child_tasks
            assert not host._sparing

    trio.run(main, clock=MockClock(autojump_threshold=0))
