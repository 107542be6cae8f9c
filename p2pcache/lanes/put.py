"""A part of a file of ours to an object store: one PUT, from the disk to the socket.

The bytes are mapped, so memory stays at some pages. Each block is verified before anything goes
out: a damaged disk must not be blamed on whoever receives it. What the store wants to know of the
bytes (their checksum, a signature over it) its adapter's `dress` says, here where they are.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import urllib3

from p2pcache.content.verify import verify_block
from p2pcache.errors import Untrusted
from p2pcache.lanes.faults import Ended, disk_fault, ended, network_fault
from p2pcache.lanes.odometer import counting
from p2pcache.lanes.orders import BLOCK_BYTES, Fault, FaultKind, FetchLimits, Slot, Tls
from p2pcache.lanes.pace import Guard, Pacer
from p2pcache.lanes.pools import send

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAX_ANSWER_BYTES = 64 << 10  # of an error in XML some hundred bytes
STEP_BYTES = 256 << 10  # of one send: what `connect_timeout_s` is for
HASH_BYTES = hashlib.sha256().digest_size
# `connect_timeout_s`: also for each step to be taken: 13 KB/s. `no_progress_s`: for the answer, and
# for all of it: a store may flush and copy first.
LIMITS = FetchLimits(connect_timeout_s=20.0, no_progress_s=120.0, floor_bytes_per_s=0.0)


class Dress(Protocol):
    """Headers that depend on the bytes. Picklable; called in the worker."""

    def __call__(self, data: memoryview) -> dict[str, str]:
        """What to send with these bytes; Content-Length comes by itself."""
        ...


@dataclass(frozen=True, slots=True)
class PutOrder:
    """PUT bytes `[start, end)` of the file `path` to `url`. `hashes`: the sha2-256 of their
    blocks, joined; `start` is then a whole number of blocks. Empty: they are sent as they are.
    """

    url: str = field(repr=False)
    path: str
    start: int
    end: int
    dress: Dress = field(repr=False)
    hashes: bytes = field(default=b"", repr=False)
    tls: Tls = field(default_factory=Tls)
    method: str = "PUT"
    rate_bytes_per_s: float | None = None
    counted: Slot | None = None
    limits: FetchLimits = LIMITS


@dataclass(frozen=True, slots=True)
class PutReport:
    """What the server answered, whatever that was; `status` 0 and a fault where nothing came.
    `headers`: names in lower case. `body`: its beginning.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    fault: Fault | None = None


def put(order: PutOrder) -> PutReport:
    """Run one order in this process and report. Never raises for the remote or the disk."""
    with counting(order.counted) as count:
        try:
            return _put(order, count)
        except Ended as exc:
            return PutReport(0, {}, b"", exc.fault)


def digest_of(path: str, start: int, end: int, kind: str = "sha256") -> bytes:
    """Of a part that may have gone out before, to compare. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        hasher = hashlib.new(kind, usedforsecurity=False)
        while start < end and (data := os.pread(fd, min(BLOCK_BYTES, end - start), start)):
            hasher.update(data)
            start += len(data)
        return hasher.digest()
    finally:
        os.close(fd)


def _put(order: PutOrder, count: Callable[[int], None]) -> PutReport:
    data = _mapped(order)
    _check(order, data)
    return _exchange(order, data, count)


def _mapped(order: PutOrder) -> memoryview:
    """The bytes of an order; the mapping goes when nobody refers to it. Raises Ended."""
    if order.end == order.start:
        return memoryview(b"")
    before = order.start % mmap.ALLOCATIONGRANULARITY
    try:
        fd = os.open(order.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if os.fstat(fd).st_size < order.end:  # a page behind the end kills who reads it
                raise ended(FaultKind.LOCAL, f"{order.path} is shorter than it was")
            at = order.start - before
            mapped = mmap.mmap(fd, order.end - at, prot=mmap.PROT_READ, offset=at)
        finally:
            os.close(fd)
    except OSError as exc:
        raise Ended(disk_fault(exc, f"read {order.path}")) from exc
    return memoryview(mapped)[before:]


def _check(order: PutOrder, data: memoryview) -> None:
    for number in range(len(order.hashes) // HASH_BYTES):
        expected = order.hashes[number * HASH_BYTES :][:HASH_BYTES]
        try:
            verify_block(expected, data[number * BLOCK_BYTES :][:BLOCK_BYTES])
        except Untrusted as exc:
            text = f"{order.path} is damaged on this disk: {exc.message}"
            raise ended(FaultKind.LOCAL, text) from exc


def _exchange(order: PutOrder, data: memoryview, count: Callable[[int], None]) -> PutReport:
    pacer = None if order.rate_bytes_per_s is None else Pacer(order.rate_bytes_per_s)
    headers = order.dress(data) | {"Content-Length": str(len(data))}
    limits, steps = order.limits, _steps(data, pacer, count)
    timeout = urllib3.Timeout(connect=limits.connect_timeout_s, read=limits.no_progress_s)
    try:
        with send(
            order.method, order.url, headers, order.tls, timeout, steps, Guard(limits)
        ) as response:
            body = response.read(MAX_ANSWER_BYTES)
            if response.read(1):
                response.close()  # the rest is nobody's, and so is this connection
            named = {name.lower(): value for name, value in response.headers.items()}
            return PutReport(response.status, named, body)
    except (OSError, urllib3.exceptions.HTTPError, ValueError) as exc:
        raise Ended(network_fault(exc, order.url)) from exc


def _steps(
    data: memoryview, pacer: Pacer | None, count: Callable[[int], None]
) -> Iterator[memoryview]:
    step_bytes = (None if pacer is None else pacer.step_bytes) or STEP_BYTES
    for at in range(0, len(data), step_bytes):
        step = data[at : at + step_bytes]
        if pacer is not None:
            time.sleep(pacer.delay_s(len(step)))
        yield step
        count(len(step))
