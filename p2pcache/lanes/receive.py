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

# Received, hashed and written while it lies in the second-level cache (512 KiB a core here): in
# 128 KiB parts a plain GET cost 1.05 CPU-s/GB, in whole blocks 1.28 (one worker, nginx, tmpfs).
PART_BYTES = 128 << 10


def receive_blocks(stream: Stream, sink: BlockSink, end: int) -> None:
    """Bring the body's bytes up to `end` into the sink, block by block.

    Raises `Ended`: UNAVAILABLE when the body ends early (whole blocks are kept, the rest of the
    last one is dropped), and whatever `stream` and `sink` raise.
    """
    part_bytes = BLOCK_BYTES if sink.holds else PART_BYTES
    buffer = _buffers.block
    while sink.done < end:
        block_bytes = min(BLOCK_BYTES, end - sink.done)
        sha256, at = hashlib.sha256(), 0
        while at < block_bytes:
            part = buffer[: min(part_bytes, block_bytes - at)]
            got = _fill(stream, part)
            if got < len(part):
                missing = end - sink.done - at - got
                raise ended(FaultKind.UNAVAILABLE, f"the body ended {missing} bytes early")
            sha256.update(part)
            if not sink.holds:
                sink.write_part(at, part)
            at += got
        if sink.holds:
            sink.put(part, sha256.digest())
        else:
            sink.keep(block_bytes, sha256.digest())


def _fill(stream: Stream, view: memoryview) -> int:
    """Receive until `view` is full or the stream ends; how much arrived."""
    got = 0
    while got < len(view) and (count := stream.read_into(view[got:])):
        got += count
    return got


def receive_rest(stream: Stream, sink: BlockSink, limit: int) -> None:
    """Bring a body of unknown length into the sink until it ends, at most up to `limit`.

    Raises `Ended`: UNTRUSTED when more arrives.
    """
    block = _buffers.block
    while True:
        got = _fill(stream, block)
        if sink.done + got > limit:
            raise ended(FaultKind.UNTRUSTED, f"the body is longer than {limit} bytes")
        if got == 0:
            return
        sink.put(block[:got], hashlib.sha256(block[:got]).digest())
        if got < BLOCK_BYTES:
            return
