"""The block loop: receive, hash, hand to the sink. Nothing else of a transfer costs much CPU."""

from __future__ import annotations

import hashlib
import mmap
import threading
from typing import TYPE_CHECKING, Protocol

from p2pcache.lanes.faults import ended
from p2pcache.lanes.orders import BLOCK_BYTES, UNKNOWN_HASH, FaultKind

if TYPE_CHECKING:
    from p2pcache.lanes.sink import BlockSink


class Stream(Protocol):
    """Where bytes come from: an HTTP body or a local file."""

    def read_into(self, view: memoryview) -> int:
        """Fill some of `view` with one receive; 0 at the end. Raises `Ended`."""
        ...


class _Buffers(threading.local):
    """One block per thread, kept: 1 MiB of fresh pages costs 256 faults each time.

    An anonymous mapping and not a bytearray, because it begins at a page: copies to and from a
    bytearray (16 bytes past a page) are so much slower that a plain GET cost 1.8-2.1 CPU-s/GB
    instead of 1.5-1.6. With it, hashing and writing parts of 64-512 KiB while they are in the L2
    cache gains nothing over whole blocks (1.27-1.42 against 1.07-1.15), so a block is held until
    it is verified. Private, because workers are forked from a server that has this module
    imported: in the default, shared mapping every worker would receive into the same block.
    """

    def __init__(self) -> None:
        private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        self.block = memoryview(mmap.mmap(-1, BLOCK_BYTES, flags=private))


_buffers = _Buffers()


def receive_blocks(stream: Stream, sink: BlockSink, end: int) -> None:
    """Bring the body's bytes up to `end` into the sink, block by block.

    Raises `Ended`: UNAVAILABLE when the body ends early (whole blocks are kept, the rest of the
    last one is dropped), and whatever `stream` and `sink` raise.
    """
    buffer = _buffers.block
    while sink.done < end:
        block = buffer[: min(BLOCK_BYTES, end - sink.done)]
        got = _fill(stream, block)
        if got < len(block):
            missing = end - sink.done - got
            raise ended(FaultKind.UNAVAILABLE, f"the body ended {missing} bytes early")
        sink.put(block, _hash(block, sink))


def _hash(block: memoryview, sink: BlockSink) -> bytes:
    return hashlib.sha256(block).digest() if sink.hashed else UNKNOWN_HASH


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
        sink.put(block[:got], _hash(block[:got], sink))
        if got < BLOCK_BYTES:
            return
