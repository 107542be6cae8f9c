"""What peers tell while a pull moves on: late answers change nothing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import trio

from p2pcache.content.ranges import RangeSet
from p2pcache.transfer import events as ev
from p2pcache.transfer.sharing import Peers
from p2pcache.transfer.swarming import Swarming
from tests.support.partial_files import block_hashes, some_bytes
from tests.support.swarms import MIB, Key, ScriptedSwarm, ServedPeer, Told, digest_of, wanted


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
