"""Blocks and bytes for answers: everything that waits for a disk or hashes runs in threads.

A walk (`content.dag`) runs in a thread, block by block; a block that is not here is asked of the
block service from there, with those that follow. A body is a generator of which each step is one
call of a thread: it makes PIECE_BYTES and stops until they are sent, so that memory is one piece
and what `ahead` asked for, and a client that goes away leaves nothing running.
"""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, TypeVar

import trio

from p2pcache.content.dag import walk as dag
from p2pcache.errors import NotFound, P2PCacheError, plain_errors
from p2pcache.store.durable import local_faults

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from p2pcache.content.dag.walk import Flow, Walk
    from p2pcache.store.rooted import AnyBlob
    from p2pcache.transfer.blocks import BlockService

T = TypeVar("T")

PIECE_BYTES = 512 << 10  # of a body: hashed and sent in about a millisecond
MAX_THREADS = 16  # that work, of one gateway; more requests wait for each other's pieces
AHEAD_COUNT = 16  # blocks that are asked for before they are needed: 32 MiB at most


class BlockMissing(NotFound):
    """A block that a walk needs is nowhere; a plain NotFound is of a name that a folder lacks."""


class Reader:
    """Of one gateway. Its `run` calls things in threads; the rest is called there."""

    def __init__(self, blocks: BlockService) -> None:
        self.blocks = blocks
        self._threads = trio.CapacityLimiter(math.inf)  # one a connection at most
        self._working = trio.Semaphore(MAX_THREADS)

    async def run(self, job: Callable[..., T], *args: object) -> T:
        """In a thread of this gateway. Cancelled, it ends with the block that it waits for."""
        with plain_errors():
            async with self._working:
                return await trio.to_thread.run_sync(job, *args, limiter=self._threads)

    async def _wait_fetched(self, cid: bytes) -> bytes:
        """For a thread of `run`: what is here is read by others meanwhile."""
        self._working.release()
        try:
            return await self.blocks.get(cid)
        finally:
            with trio.CancelScope(shield=True):  # who works ends soon
                await self._working.acquire()

    # -- in a thread -----------------------------------------------------------------------------

    def here(self, cid: bytes) -> bytes:
        """A local block. Raises BlockMissing."""
        data = self.blocks.local.read(cid)
        if data is None:
            raise BlockMissing("a block is not here")
        return data

    def get(self, cid: bytes) -> bytes:
        """A block from here, or from those who have it. Raises as `Blocks.get`, BlockMissing."""
        data = self.blocks.local.read(cid)
        return self._fetched(cid) if data is None else data

    def walk(self, walk: Walk[T], *, local: bool) -> T:
        """The result of a walk over local blocks, or over all."""
        return dag.run(walk, self.here if local else self.get)

    def flow(self, flow: Flow[T], *, local: bool) -> Iterator[T]:
        """The results of a flow; asks for the blocks that follow one that is not here."""
        try:
            step = next(flow)
            while True:
                if not isinstance(step, dag.Need):
                    yield step
                    step = next(flow)
                    continue
                data = self.blocks.local.read(step.cid)
                if data is None and local:
                    raise BlockMissing("a block is not here")
                if data is None:
                    self._ask_ahead(step.ahead)
                    data = self._fetched(step.cid)
                step = flow.send(data)
        except StopIteration:
            return
        finally:
            flow.close()

    def _ask_ahead(self, wanted: tuple[bytes, ...]) -> None:
        local = self.blocks.local
        soon = [cid for cid in wanted[:AHEAD_COUNT] if local.length(cid) is None]
        if soon:
            trio.from_thread.run_sync(self.blocks.ahead, soon)

    def _fetched(self, cid: bytes) -> bytes:
        try:
            return trio.from_thread.run(self._wait_fetched, cid)
        except NotFound as exc:
            raise BlockMissing(exc.message, hint=exc.hint) from exc


class Pieces:
    """The body of an answer: a generator of bytes of any length, run step by step in threads.

    `begin` makes the first piece, so that what is not there is told before the head goes out.
    """

    def __init__(self, reader: Reader, source: Iterator[bytes]) -> None:
        self._reader = reader
        self._source = source
        self._first: bytes | None = None
        self._failed: P2PCacheError | None = None

    async def begin(self) -> Pieces:
        """Raises what the source does."""
        self._first = await self._reader.run(self._step)
        if self._failed is not None and not self._first:
            raise self._failed
        return self

    def __aiter__(self) -> Pieces:
        return self

    async def __anext__(self) -> bytes:
        piece, self._first = self._first, None
        if piece is None:
            if self._failed is not None:
                raise self._failed
            piece = await self._reader.run(self._step)
        if not piece:
            if self._failed is not None:
                raise self._failed
            raise StopAsyncIteration
        return piece

    async def aclose(self) -> None:
        """End the source; it may hold a file open."""
        close = getattr(self._source, "close", None)
        if close is not None:
            await self._reader.run(close)

    def _step(self) -> bytes:
        """Up to PIECE_BYTES and what its last part has more; empty at the end. An error comes after
        what was made before it.
        """
        made: list[bytes] = []
        size = 0
        try:
            for part in self._source:
                made.append(part)
                size += len(part)
                if size >= PIECE_BYTES:
                    break
        except P2PCacheError as exc:
            self._failed = exc
        return made[0] if len(made) == 1 else b"".join(made)


def file_bytes(blob: AnyBlob, start: int, end: int) -> Iterator[bytes]:
    """Bytes `[start, end)` of a blob's file. Raises NotFound: it was evicted just now."""
    with local_faults("reading a blob"):
        try:
            descriptor = os.open(blob.path, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError) as exc:
            raise NotFound("the blob is gone") from exc
    try:
        at = start
        while at < end:
            with local_faults("reading a blob"):
                part = os.pread(descriptor, min(PIECE_BYTES, end - at), at)
            if not part:
                raise NotFound("the blob was cut short")
            yield part
            at += len(part)
    finally:
        os.close(descriptor)
