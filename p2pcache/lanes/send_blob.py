"""A part of a file of ours as the body of one request: PUT or PATCH, as registries take blobs.

Each block is verified before it goes out: a damaged disk must not be blamed on whoever receives
it. Memory: one block, and 32 bytes for each block of the part.
"""

from __future__ import annotations

import http.client
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import urllib3

from p2pcache.content.unixfs import LEAF_BYTES
from p2pcache.content.verify import verify_block
from p2pcache.errors import Untrusted
from p2pcache.lanes import pools
from p2pcache.lanes.faults import Ended, disk_fault, ended, network_fault
from p2pcache.lanes.odometer import counting
from p2pcache.lanes.orders import Fault, FaultKind, FetchLimits, Slot, Tls
from p2pcache.lanes.pace import Guard, Pacer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAX_ANSWER_BYTES = 16 << 10  # what a registry says of an upload is some hundred bytes
HASH_BYTES = 32
SILENT_S = 60.0  # without taking a byte, or an answer: its disk may be flushing
STEP_BYTES = 256 << 10  # of one send; smaller ones where a rate is kept


@dataclass(frozen=True, slots=True)
class BlobOrder:
    """Send bytes [start, end) of a file. `hashes`: the sha2-256 of each block that these touch,
    joined. `data`: in place of a file, small bytes that nobody stored.
    """

    method: str
    url: str = field(repr=False)
    fields: tuple[tuple[str, str], ...] = field(repr=False)
    path: str
    start: int
    end: int
    hashes: bytes = field(repr=False)
    tls: Tls
    data: bytes | None = field(default=None, repr=False)
    rate_bytes_per_s: float | None = None
    silent_s: float = SILENT_S
    counted: Slot | None = None


@dataclass(frozen=True, slots=True)
class BlobReport:
    """What was answered. `fault`: nothing was, or our disk failed."""

    status: int = 0
    fields: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    body: bytes = b""
    fault: Fault | None = None


def _steps(order: BlobOrder, count: Callable[[int], None]) -> Iterator[memoryview]:
    """The bytes, verified, at the limited rate. Raises `Ended` for our disk."""
    rate = order.rate_bytes_per_s
    pacer = None if rate is None else Pacer(rate)
    most = (None if pacer is None else pacer.step_bytes) or STEP_BYTES
    for block in _blocks(order):
        for at in range(0, len(block), most):
            step = block[at : at + most]
            if pacer is not None and (pause_s := pacer.delay_s(len(step))) > 0:
                time.sleep(pause_s)
            yield step
            count(len(step))


def _blocks(order: BlobOrder) -> Iterator[memoryview]:
    if order.data is not None:
        yield memoryview(order.data)[order.start : order.end]
        return
    begins = order.start // LEAF_BYTES
    try:
        with open(order.path, "rb", buffering=0) as stream:
            for number in range(begins, -(-order.end // LEAF_BYTES)):
                first = number * LEAF_BYTES
                data = os.pread(stream.fileno(), LEAF_BYTES, first)
                at = (number - begins) * HASH_BYTES
                try:
                    verify_block(order.hashes[at : at + HASH_BYTES], data)
                except Untrusted as exc:
                    text = f"{order.path} is damaged on this disk: {exc.message}"
                    raise ended(FaultKind.LOCAL, text) from exc
                yield memoryview(data)[max(order.start - first, 0) : order.end - first]
    except OSError as exc:
        raise Ended(disk_fault(exc, f"read {order.path}")) from exc


def send_blob(order: BlobOrder) -> BlobReport:
    """Run one order in this process and report. Never raises for the remote or the disk."""
    with counting(order.counted) as count:
        try:
            return _exchange(order, _steps(order, count))
        except Ended as exc:
            return BlobReport(fault=exc.fault)
        except (
            OSError,
            http.client.HTTPException,
            ValueError,
            urllib3.exceptions.HTTPError,
        ) as exc:
            return BlobReport(fault=network_fault(exc, order.url))


def _exchange(order: BlobOrder, steps: Iterator[memoryview]) -> BlobReport:
    guard = Guard(FetchLimits(no_progress_s=order.silent_s, floor_bytes_per_s=0.0))
    fields = {
        "Content-Type": "application/octet-stream",
        "User-Agent": "p2pcache",
        **dict(order.fields),
        "Content-Length": str(order.end - order.start),
    }
    answer = pools.send(
        order.method, order.url, fields, order.tls, urllib3.Timeout(order.silent_s), steps, guard
    )
    body = b""
    try:
        body = answer.read(MAX_ANSWER_BYTES)
    finally:
        if answer.status >= 400 or len(body) == MAX_ANSWER_BYTES or not body:
            answer.close()  # it may not have read all that was sent, or has more to say
        answer.release_conn()
    return BlobReport(answer.status, tuple(answer.headers.items()), body)
