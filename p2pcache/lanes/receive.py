"""The block loop: receive, hash, hand to the sink. Nothing else of a transfer costs much CPU."""

from __future__ import annotations

import hashlib
import threading
from typing import TYPE_CHECKING, Protocol

from p2pcache.lanes.faults import ended
from p2pcache.lanes.orders import BLOCK_BYTES, FaultKind

if TYPE_CHECKING:
    from p2pcache.lanes.sink import BlockSink


class Stream(Protocol):
    """Where bytes come from: an HTTP body or a local file."""

    def read_into(self, view: memoryview) -> int:
        """Fill some of `view` with one receive; 0 at the end. Raises `Ended`."""
        ...


class _Buffers(threading.local):
    """One block per thread, kept: 1 MiB of fresh pages costs 256 faults each time."""

    def __init__(self) -> None:
        self.block = memoryview(bytearray(BLOCK_BYTES))


_buffers = _Buffers()


def receive_blocks(body: Stream, sink: BlockSink, end: int) -> None:
    """Bring the body's bytes up to `end` into the sink, block by block.

    Raises `Ended`: UNAVAILABLE when the body ends early (whole blocks are kept, the rest of the
    last one is dropped), and whatever `body` and `sink` raise.
    """
    block = _buffers.block
    while sink.done < end:
        wanted = min(BLOCK_BYTES, end - sink.done)
        got = 0
        while got < wanted:
            count = body.read_into(block[got:wanted])
            if count == 0:
                missing = end - sink.done - got
                raise ended(FaultKind.UNAVAILABLE, f"the body ended {missing} bytes early")
            got += count
        sink.put(block[:wanted], hashlib.sha256(block[:wanted]).digest())


def receive_rest(body: Stream, sink: BlockSink, limit: int) -> None:
    """Bring a body of unknown length into the sink until it ends, at most up to `limit`.

    Raises `Ended`: UNTRUSTED when more arrives.
    """
    block = _buffers.block
    while True:
        got = 0
        while got < BLOCK_BYTES and (count := body.read_into(block[got:])):
            got += count
        if sink.done + got > limit:
            raise ended(FaultKind.UNTRUSTED, f"the body is longer than {limit} bytes")
        if got == 0:
            return
        sink.put(block[:got], hashlib.sha256(block[:got]).digest())
        if got < BLOCK_BYTES:
            return
