"""Many small blobs with one request: the worker's side of `POST /bundle` (see `bundle_wire`).

Each blob is verified before it is written and fsynced with the others, exactly as in `small`; one
that is missing or wrong is a fault of its own. What breaks the body ends the rest of it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from p2pcache.lanes import http
from p2pcache.lanes.bundle_wire import FRAME_BYTES, pack_names, parse_frame
from p2pcache.lanes.faults import Ended, ended, host_of, status_fault
from p2pcache.lanes.fetch import guard_for, refuse_encoded
from p2pcache.lanes.orders import (
    BLOCK_BYTES,
    BatchReport,
    BundleOrder,
    Fault,
    FaultKind,
    FetchLimits,
    SmallOrder,
    SmallReport,
)
from p2pcache.lanes.small import check_size, keep, sync_all

if TYPE_CHECKING:
    from p2pcache.lanes.http import Body

RECEIVE_BYTES = 256 << 10  # most bundles in a few receives


def fetch_bundle(order: BundleOrder, limits: FetchLimits) -> BatchReport:
    """Fetch, verify and write every blob; report each. Files are durable when it returns.

    Never raises for a remote or the disk.
    """
    cpu_began = time.process_time()
    reports: list[SmallReport] = []
    try:
        _fetch(order, limits, reports)
    except Ended as exc:
        missing = len(order.blobs) - len(reports)
        reports += [SmallReport(0, None, None, 0, 0.0, exc.fault)] * missing
    sync_all(order.blobs, reports)
    return BatchReport(tuple(reports), time.process_time() - cpu_began)


def _fetch(order: BundleOrder, limits: FetchLimits, reports: list[SmallReport]) -> None:
    ask = pack_names(order.names)
    body = http.get(order.location, limits, guard_for(limits), None, ask)
    try:
        if body.status != 200:
            raise http.refuse_status(body, order.location)
        refuse_encoded(body)
        frames = Frames(body)
        for blob in order.blobs:
            reports.append(_take(frames, blob))  # noqa: PERF401 - each stays when the next raises
    finally:
        body.finish()


def _take(frames: Frames, blob: SmallOrder) -> SmallReport:
    """One blob of the body. Raises `Ended` for what breaks the body."""
    began = time.monotonic()
    host = host_of(frames.url)
    status, length = parse_frame(frames.read(FRAME_BYTES))
    if length > BLOCK_BYTES or (length and status != 200):
        raise ended(FaultKind.UNTRUSTED, f"{host}: {length} bytes in a bundle of small blobs")
    data = frames.read(length)
    seconds = time.monotonic() - began
    try:
        if status == 413:  # too large for a bundle, or for what is left of this one: ask again
            raise ended(FaultKind.UNAVAILABLE, f"{host}: not in this bundle")
        if status != 200:
            raise Ended(status_fault(status, {}, frames.url))
        check_size(blob, length)
        sha256, git_sha1 = keep(blob, data)
    except Ended as exc:
        return SmallReport(0, None, None, length, seconds, exc.fault)
    return SmallReport(length, sha256, git_sha1, length, seconds)


class Frames:
    """A body, cut into pieces of told lengths."""

    def __init__(self, body: Body) -> None:
        self.url = body.url
        self._body = body
        self._buffer = memoryview(bytearray(RECEIVE_BYTES))
        self._start = self._end = 0

    def read(self, count: int) -> bytes:
        """Exactly that many bytes. Raises UNAVAILABLE when the body ends before."""
        if self._end - self._start >= count:
            self._start += count
            return bytes(self._buffer[self._start - count : self._start])
        data = bytearray(self._buffer[self._start : self._end])
        while len(data) < count:
            self._start = 0
            self._end = self._body.read_into(self._buffer)
            if not self._end:
                missing = count - len(data)
                raise Ended(
                    Fault(
                        FaultKind.UNAVAILABLE,
                        f"{host_of(self.url)}: the body ended {missing} bytes early",
                    )
                )
            self._start = min(count - len(data), self._end)
            data += self._buffer[: self._start]
        return bytes(data)
