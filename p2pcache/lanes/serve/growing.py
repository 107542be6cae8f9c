"""A range of a blob that is still arriving: each block is sent when its live byte becomes 1.

The delay of a relay is then one block and not one piece (DESIGN 4). Whoever wrote the block told
nobody: readers look at the live byte. They sleep for half of what the last block took and look more
and more rarely after that, so that a block is late by a fraction of its own time and a wait costs
little. Measured, a relay whose source is limited to 100 and to 300 MB/s, 2 shared cores: its
reader is done 1-16 ms after it; the byte server takes 1.2-1.3 and 1.0 CPU-s/GB over TLS, 0.75 and
0.4-0.5 plain.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from p2pcache.lanes.orders import BLOCK_BYTES

if TYPE_CHECKING:
    import threading

    from p2pcache.lanes.serve.send import OpenBlob, Outlet

MIN_LOOK_S = 0.0005  # at 1 GB/s a block takes a millisecond
MAX_LOOK_S = 0.01
LOOK_SHARE = 0.25  # of the time waited so far
FIRST_SHARE = 0.5  # of what the last block took
MAX_FIRST_LOOK_S = 0.1  # a source that was slow once may be fast now
RUN_BLOCKS = 16  # live blocks sent without looking again: a piece


class NotHere(Exception):
    """A block did not come within the limit."""


class LiveBlocks:
    """The live bytes of one open growing blob."""

    def __init__(self, blob: OpenBlob, wait_s: float, cut: threading.Event) -> None:
        assert blob.live_fd is not None
        self._blob = blob
        self._fd = blob.live_fd
        self._wait_s = wait_s
        self._cut = cut
        self._last_s = 0.0

    def wait(self, block: int, end: int) -> int:
        """Wait until `block` can be read; how many from there on, below `end`, can be too.

        Raises NotHere after the limit, Stale when the blob was thrown away, ConnectionAbortedError
        when the reader was cut.
        """
        began = time.monotonic()
        pause_s = min(self._last_s * FIRST_SHARE, MAX_FIRST_LOOK_S)
        while True:
            live = os.pread(self._fd, min(RUN_BLOCKS, end - block), block)
            count = len(live) - len(live.lstrip(b"\x01"))
            waited = time.monotonic() - began
            if count:
                self._last_s = waited
                return count
            if waited >= self._wait_s:
                raise NotHere
            self._blob.check()
            if self._cut.wait(max(pause_s, MIN_LOOK_S)):
                raise ConnectionAbortedError("cut by the agent")
            pause_s = min(waited * LOOK_SHARE, MAX_LOOK_S)


def send_growing(outlet: Outlet, blob: OpenBlob, live: LiveBlocks, start: int, end: int) -> None:
    """Send bytes `[start, end)` as their blocks become readable. Raises what the parts raise."""
    last = -(-end // BLOCK_BYTES)
    while start < end:
        block = start // BLOCK_BYTES
        count = live.wait(block, last)
        upto = min((block + count) * BLOCK_BYTES, end)
        outlet.send_span(blob, start, upto)
        start = upto
