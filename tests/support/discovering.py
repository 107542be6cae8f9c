"""Discovery in a process of its own: `python -m tests.support.discovering FINGERPRINT ADDRESS...`

Prints `me <peer>`, then `found <how> <peer|-> <addresses> <seconds>` for each finding, and at the
end (a line on stdin) `lag <worst delay of the trio loop in ms>`.
"""

from __future__ import annotations

import sys
import time

import trio

from p2pcache.content.peerid import format_peer_id
from p2pcache.net.discovery import DiscoveryOptions, Found, discover
from p2pcache.net.discovery.mdns import MdnsOptions
from p2pcache.net.identity import Identity

STEP_S = 0.005


async def _measure(worst: list[float]) -> None:
    await trio.sleep(0.05)  # the first steps import
    while True:
        before = time.perf_counter()
        await trio.sleep(STEP_S)
        worst[0] = max(worst[0], time.perf_counter() - before - STEP_S)


async def _main(fingerprint: str, addresses: tuple[str, ...]) -> None:
    me = Identity.generate().peer_id
    print("me", format_peer_id(me), flush=True)
    started = time.perf_counter()
    current = list(addresses)

    def report(found: Found) -> None:
        who = "-" if found.peer is None else format_peer_id(found.peer)
        where = ",".join(found.addresses)
        took = time.perf_counter() - started
        print("found", found.how.value, who, where, f"{took:.3f}", flush=True)

    worst = [0.0]
    options = DiscoveryOptions(mdns_options=MdnsOptions(poll_s=0.5))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_measure, worst)
        async with trio.open_nursery() as finding:
            finding.start_soon(discover, fingerprint, me, lambda: tuple(current), report, options)
            while line := await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
                if not line.startswith("address "):
                    break
                current[:] = [line.split()[1]]
            finding.cancel_scope.cancel()
        print("lag", round(worst[0] * 1e3, 1), flush=True)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(_main, sys.argv[1], tuple(sys.argv[2:]))
