"""A part of a file of ours as the body of one request, as stores and registries take it.

Each block is verified before it goes out: a damaged disk must not be blamed on whoever receives it.
What the other side wants to know of all bytes before they come (their checksum, a signature over
it) its adapter's `dress` says, here where they are: then they are read twice. They are read and not
mapped, for a file that its owner cuts meanwhile would end this process. Memory: one block, and 32
bytes for each block of the part.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import os
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import urllib3

from p2pcache.content.verify import verify_block
from p2pcache.errors import Untrusted
from p2pcache.lanes import pools
from p2pcache.lanes.faults import CHANGED, Ended, disk_fault, ended, network_fault
from p2pcache.lanes.odometer import counting
from p2pcache.lanes.orders import BLOCK_BYTES, Fault, FaultKind, FetchLimits, Tls
from p2pcache.lanes.pace import Guard, paced, pacer_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAX_ANSWER_BYTES = 64 << 10  # what is said of an upload is some hundred bytes
STEP_BYTES = 256 << 10  # of one send; smaller ones where a rate is kept
HASH_BYTES = hashlib.sha256().digest_size
# `connect_timeout_s`: also for each step to be taken: 13 KB/s. `no_progress_s`: for the answer, and
# for all of it: a store may flush and copy first.
LIMITS = FetchLimits(connect_timeout_s=20.0, no_progress_s=120.0, floor_bytes_per_s=0.0)


class Dress(Protocol):
    """Headers that depend on the bytes. Picklable; called in the worker."""

    @property
    def checksum(self) -> str:
        """Which one it needs: a name of `hashlib`."""
        ...

    def __call__(self, digest: bytes) -> dict[str, str]:
        """What to send besides with bytes of this checksum."""
        ...


@dataclass(frozen=True, slots=True)
class PartOrder:
    """Send bytes `[start, end)` of the file `path` to `url`. `hashes`: the sha2-256 of each block
    that these touch, joined; empty: they go out as they are. `data`: in place of a file, small
    bytes that nobody stored. Content-Length comes by itself.
    """

    method: str
    url: str = field(repr=False)
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    path: str
    start: int
    end: int
    hashes: bytes = field(default=b"", repr=False)
    dress: Dress | None = field(default=None, repr=False)
    tls: Tls = field(default_factory=Tls)
    data: bytes | None = field(default=None, repr=False)
    limits: FetchLimits = LIMITS


@dataclass(frozen=True, slots=True)
class PartReport:
    """What the server answered, whatever that was; `status` 0 and a fault where nothing came, or
    our disk failed. `headers`: names in lower case. `body`: its beginning.
    """

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    body: bytes = b""
    fault: Fault | None = None


def hashes_of(hashes: bytes, start: int, end: int) -> bytes:
    """Of a file's hashes those of the blocks that bytes `[start, end)` touch."""
    first, last = start // BLOCK_BYTES, -(-end // BLOCK_BYTES)
    return hashes[first * HASH_BYTES : last * HASH_BYTES]


def digest_of(path: str, start: int, end: int, kind: str = "sha256") -> bytes:
    """The checksum of bytes `[start, end)`. Raises OSError, also where the file is cut by now."""
    with open(path, "rb", buffering=0) as stream:
        return _digest(stream.fileno(), start, end, kind)


def _digest(fd: int, start: int, end: int, kind: str) -> bytes:
    hasher = hashlib.new(kind, usedforsecurity=False)
    room = memoryview(bytearray(BLOCK_BYTES))
    while start < end:
        count = os.preadv(fd, [room[: end - start]], start)
        if not count:
            raise OSError(errno.ESTALE, CHANGED)
        hasher.update(room[:count])
        start += count
    return hasher.digest()


class _Opened:
    """The file of an order. Raises `Ended` for it."""

    def __init__(self, order: PartOrder, stack: ExitStack) -> None:
        self._order = order
        with self._faults():
            self._fd = os.open(order.path, os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, self._fd)
            self._was = os.fstat(self._fd)

    def digest(self, kind: str) -> bytes:
        """The checksum of the bytes."""
        with self._faults():
            return _digest(self._fd, self._order.start, self._order.end, kind)

    def blocks(self) -> Iterator[memoryview]:
        """The bytes by the blocks that they are in, verified. Each counts until the next."""
        order, room = self._order, memoryview(bytearray(BLOCK_BYTES))
        begins = order.start // BLOCK_BYTES
        for number in range(begins, -(-order.end // BLOCK_BYTES)):
            first = number * BLOCK_BYTES
            with self._faults():
                data = room[: os.preadv(self._fd, [room], first)]
                if len(data) < min(order.end - first, BLOCK_BYTES):
                    raise OSError(errno.ESTALE, CHANGED)
                if order.hashes:
                    self._check(order.hashes[(number - begins) * HASH_BYTES :][:HASH_BYTES], data)
            yield data[max(order.start - first, 0) : order.end - first]

    def _check(self, expected: bytes, data: memoryview) -> None:
        """A file that was written since it was opened is not damaged."""
        try:
            verify_block(expected, data)
        except Untrusted as exc:
            now = os.fstat(self._fd)
            if (now.st_mtime_ns, now.st_size) != (self._was.st_mtime_ns, self._was.st_size):
                raise OSError(errno.ESTALE, CHANGED) from exc
            text = f"{self._order.path} is damaged on this disk: {exc.message}"
            raise ended(FaultKind.LOCAL, text) from exc

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            raise Ended(disk_fault(exc, f"read {self._order.path}")) from exc


def send_part(order: PartOrder) -> PartReport:
    """Run one order in this process and report. Never raises for the remote or the disk."""
    with counting(order.limits.counted) as count, ExitStack() as stack:
        try:
            return _exchange(
                order, None if order.data is not None else _Opened(order, stack), count
            )
        except Ended as exc:
            return PartReport(fault=exc.fault)
        except (
            OSError,
            http.client.HTTPException,
            ValueError,
            urllib3.exceptions.HTTPError,
        ) as exc:
            return PartReport(fault=network_fault(exc, order.url))


def _exchange(order: PartOrder, file: _Opened | None, count: Callable[[int], None]) -> PartReport:
    headers = {"User-Agent": "p2pcache", **dict(order.headers)}
    if order.dress is not None and file is not None:
        headers |= order.dress(file.digest(order.dress.checksum))
    headers["Content-Length"] = str(order.end - order.start)
    limits = order.limits
    answer = pools.send(
        order.method,
        order.url,
        headers,
        order.tls,
        urllib3.Timeout(connect=limits.connect_timeout_s, read=limits.no_progress_s),
        _steps(order, file, count),
        Guard(limits),
    )
    with answer:
        body = answer.read(MAX_ANSWER_BYTES)
        if answer.status >= 400 or answer.read(1):
            answer.close()  # it may not have read all that was sent, or has more to say
        named = {name.lower(): value for name, value in answer.headers.items()}
        return PartReport(answer.status, named, body)


def _steps(
    order: PartOrder, file: _Opened | None, count: Callable[[int], None]
) -> Iterator[memoryview]:
    """The bytes, at the rate of each moment. Raises `Ended` for our disk."""
    pacer = pacer_for(order.limits)
    small = memoryview(order.data or b"")[order.start : order.end]
    for block in iter([small]) if file is None else file.blocks():
        yield from paced(block, pacer, count, STEP_BYTES)
