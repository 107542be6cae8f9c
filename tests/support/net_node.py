"""A host in a process of its own, to be frozen, killed, or refused by others.

`python -m tests.support.net_node KEY` (64 hex digits or `none`) prints one JSON line and lives
until its stdin is closed.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from p2pcache.content.peerid import format_peer_id, parse_peer_id
from p2pcache.net.host import open_host
from p2pcache.net.identity import Identity
from p2pcache.net.network_key import NetworkKey

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from p2pcache.content.peerid import PeerId
    from p2pcache.net.port import Stream

LOOPBACK = ("/ip4/127.0.0.1/tcp/0",)
ECHO = "/test/echo/1"  # 5 bytes, again and again
SILENT = "/test/silent/1"  # never reads, never writes


async def echo(stream: Stream) -> None:
    while True:
        await stream.send_all(await stream.receive_exactly(5))


async def silent(_: Stream) -> None:
    await trio.sleep_forever()


@dataclass(frozen=True)
class Node:
    process: trio.Process
    peer: PeerId
    addresses: list[str]


@contextlib.asynccontextmanager
async def node_process(key: NetworkKey | None) -> AsyncIterator[Node]:
    """A node, ready; killed at the end."""
    argument = "none" if key is None else key.secret.hex()
    command = [sys.executable, "-m", "tests.support.net_node", argument]
    process = await trio.lowlevel.open_process(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        line = b""
        with trio.fail_after(30):
            while not line.endswith(b"\n"):
                more = await process.stdout.receive_some(4096)
                assert more, "the node ended"
                line += more
        said = json.loads(line)
        yield Node(process, parse_peer_id(said["peer"]), said["addresses"])
    finally:
        process.kill()  # also when it is stopped
        with trio.CancelScope(shield=True):
            await process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    await pipe.aclose()


async def main(key: NetworkKey | None) -> None:
    async with open_host(Identity.generate(), key, LOOPBACK) as host:
        host.set_handler(ECHO, echo)
        host.set_handler(SILENT, silent)
        said = {"peer": format_peer_id(host.peer_id), "addresses": host.addresses()}
        print(json.dumps(said), flush=True)
        await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)


if __name__ == "__main__":
    given = sys.argv[1]
    trio.run(main, None if given == "none" else NetworkKey(bytes.fromhex(given)))
