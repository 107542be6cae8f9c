"""A network in memory, for tests on a virtual clock: each has a deadline, and leaves nothing."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager, suppress

import trio

from p2pcache.errors import Unavailable
from p2pcache.net.memory import open_memory_net
from tests.support.members import open_node


@asynccontextmanager
async def world(count, *, deadline_s, known=True, options=None, latency_s=0.001):
    """`count` nodes; each but the first is told the first one's address. Leaves nothing open."""
    with trio.fail_after(deadline_s):
        async with open_memory_net(latency_s) as net:
            async with AsyncExitStack() as stack:
                nodes = [
                    await stack.enter_async_context(open_node(net, number + 1, options=options))
                    for number in range(count)
                ]
                if known:
                    for node in nodes[1:]:
                        node.network.found(nodes[0].peer, nodes[0].host.addresses())
                yield net, nodes
            await trio.sleep(5)
            assert net.streams_open() == 0, "streams were left over"
            assert net.handler_errors == []
            assert not [task for task in _tasks(net) if "link" in task], "tasks were left over"


def _tasks(net):
    return [task.name for task in net._nursery.child_tasks]


async def until(true, *, within_s):
    with trio.fail_after(within_s):
        while not true():  # noqa: ASYNC110  # it looks from outside
            await trio.sleep(0.005)


def full(nodes):
    everyone = {node.peer for node in nodes}
    return all(node.knows() == everyone - {node.peer} for node in nodes)


async def ends_quietly(script, *args):
    """Run a scripted peer that may be cut."""
    with suppress(Unavailable):
        await script(*args)
