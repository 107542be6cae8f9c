"""Walks: generators that yield the CIDs they need and are sent the blocks. No I/O in them.

    def size(root: bytes) -> Walk[int]:
        block = yield from need(root)
        return len(block)

    run(size(root), blocks.__getitem__)         # in a thread
    await arun(size(root), store.get)           # in a task, of any event loop

A `Flow` also yields results on its way: what is no `Need` is one. `get(cid)` gets binary CIDv1 and
gives the block, **verified by whoever gives it** (`hashes.verify_cid`); what it raises ends the
walk and goes to the caller. A walk keeps no cache: it may ask for a block again.
"""

from __future__ import annotations

from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Sequence,
)
from dataclasses import dataclass
from typing import TypeVar, cast

from p2pcache.content import cid as cids

R = TypeVar("R")
S = TypeVar("S")
T = TypeVar("T")

AHEAD_COUNT = 64  # CIDs that a walk tells of before it needs them: what bitswap asks for at once


@dataclass(frozen=True, slots=True)
class Need:
    """The block of `cid` (binary CIDv1) comes next. `ahead`: those that most likely follow, in
    order, for whoever wants to bring them meanwhile; at most AHEAD_COUNT.
    """

    cid: bytes
    ahead: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """A block that a traversal met. `cid`: as its parent writes it."""

    cid: bytes
    block: bytes


Walk = Generator[Need, bytes, T]
Flow = Generator[Need | T, bytes, None]
Get = Callable[[bytes], bytes]
AsyncGet = Callable[[bytes], Awaitable[bytes]]
Ahead = Callable[[tuple[bytes, ...]], None]


def need(cid: bytes, ahead: Sequence[bytes] = ()) -> Walk[bytes]:
    """The block of a CID of either version. One with an identity hash is in its CID: nobody is
    asked. Raises Untrusted for what is no CID.
    """
    parts = cids.parts(cid)
    if parts.hash_code == cids.IDENTITY:
        return parts.digest
    soon = tuple(cids.as_v1(one) for one in ahead[:AHEAD_COUNT])
    return (yield Need(cids.as_v1(cid), soon))


def each(
    flow: Generator[Need | S, bytes, R], change: Callable[[S], Iterable[T]]
) -> Generator[Need | T, bytes, R]:
    """A flow with the results that `change` makes of each one of another's, none or several; what
    that one returns it returns.
    """
    try:
        step = next(flow)
        while True:
            if isinstance(step, Need):
                block = yield step
                step = flow.send(block)
            else:
                for result in change(step):  # noqa: UP028 - a driver may send whatever it likes
                    yield result
                step = next(flow)
    except StopIteration as stop:
        return cast("R", stop.value)
    finally:
        flow.close()


def run(walk: Walk[T], get: Get) -> T:
    """The walk's result. Closes it whatever happens."""
    try:
        wanted = next(walk)
        while True:
            wanted = walk.send(get(wanted.cid))
    except StopIteration as stop:
        return cast("T", stop.value)
    finally:
        walk.close()


def stream(flow: Flow[T], get: Get) -> Iterator[T]:
    """The flow's results, each as it comes. Closes the flow when it is closed itself."""
    try:
        step = next(flow)
        while True:
            if isinstance(step, Need):
                step = flow.send(get(step.cid))
            else:
                yield step
                step = next(flow)
    except StopIteration:
        return
    finally:
        flow.close()


async def arun(walk: Walk[T], get: AsyncGet, ahead: Ahead | None = None) -> T:
    """As `run`; `ahead` hears of the CIDs that follow each one, before that one is awaited."""
    try:
        wanted = next(walk)
        while True:
            if ahead is not None and wanted.ahead:
                ahead(wanted.ahead)
            wanted = walk.send(await get(wanted.cid))
    except StopIteration as stop:
        return cast("T", stop.value)
    finally:
        walk.close()


async def astream(flow: Flow[T], get: AsyncGet, ahead: Ahead | None = None) -> AsyncIterator[T]:
    """As `stream`. Close it (`aclosing`) when it is left before its end."""
    try:
        step = next(flow)
        while True:
            if isinstance(step, Need):
                if ahead is not None and step.ahead:
                    ahead(step.ahead)
                step = flow.send(await get(step.cid))
            else:
                yield step
                step = next(flow)
    except StopIteration:
        return
    finally:
        flow.close()
