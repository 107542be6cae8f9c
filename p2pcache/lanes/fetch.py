"""One order, one ranged GET: bytes `[start, end)` of a blob, verified block by block and written.

A worker decides nothing: no backoff, no second source, no retry but the one of a connection that
died while idle (`pools.request`) and of a URL that expired (`http.get`). The transfer machine
reads the report and decides.

Measured: a whole pull of 1 GiB from nginx, loopback, 2 shared cores, tmpfs to a fresh tmpfs file,
2 fetch workers in pieces of 16 MiB and 1 follower (so verified twice and written), 5 rounds, the
others in the same rounds; CPU-s/GB of the three workers:
  plain  691-743 MB/s, 2.25-2.30 CPU-s/GB; aria2c -x8 with its check 363-387; curl|tee|sha256sum
         229-243
  TLS    448-503 MB/s, 2.88-3.08 CPU-s/GB; aria2c 288-339; curl|tee|sha256sum 163-204
Before the last tuning of TLS, 2 rounds each: without the follower 979-1046 and 525-602 MB/s; with
it, over TLS, one worker 13-20 % and three 2-7 % slower than two (plain: no clear difference);
pieces of 4 MiB 10-15 % slower than 16. Into pages that tmpfs already had, one process fetched
plain for 1.0 CPU-s/GB, into a fresh file for 1.5.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from p2pcache.lanes import http
from p2pcache.lanes.faults import Ended, disk_fault, ended, host_of, plain_text
from p2pcache.lanes.odometer import counting
from p2pcache.lanes.orders import Fault, FaultKind, FetchOrder, FetchReport, file_validator
from p2pcache.lanes.pace import Guard, pacer_for
from p2pcache.lanes.receive import receive_blocks, receive_rest
from p2pcache.lanes.sink import BlockSink

if TYPE_CHECKING:
    from collections.abc import Callable

    from p2pcache.lanes.http import Body
    from p2pcache.lanes.orders import FetchLimits

_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)")
_NOTHING_OF = re.compile(r"bytes \*/(\d{1,19})")


@dataclass(slots=True)
class _Progress:
    """What a report needs however the order ends."""

    wire_bytes: int = 0
    total_bytes: int | None = None
    etag: str | None = None
    changed: bool = False  # another version than the wanted one: what arrived is worth nothing


def fetch(order: FetchOrder) -> FetchReport:
    """Run one order in this process and report. Never raises for the remote or the disk."""
    with counting(order.limits.counted) as count:
        return _fetch(order, guard_for(order.limits, count))


def _fetch(order: FetchOrder, guard: Guard) -> FetchReport:
    began, cpu_began = time.monotonic(), time.process_time()
    progress, fault = _Progress(), None
    sink = BlockSink(order)
    try:
        with sink:
            if urlsplit(order.location.url).scheme == "file":
                _from_file(order, sink, guard, progress)
            elif order.start < order.end or not order.total_known:
                _from_server(order, sink, guard, progress)
    except Ended as exc:
        fault = exc.fault
    return FetchReport(
        start=order.start,
        done=order.start if progress.changed else sink.done,
        digests=b"" if progress.changed else sink.digests,
        wire_bytes=progress.wire_bytes,
        seconds=time.monotonic() - began,
        first_byte_s=guard.first_byte_s,
        cpu_s=time.process_time() - cpu_began,
        total_bytes=progress.total_bytes,
        etag=progress.etag,
        changed=tuple(sink.changed),
        fault=fault,
    )


def guard_for(limits: FetchLimits, count: Callable[[int], None] = lambda _: None) -> Guard:
    """The watchdog and rate limit of one request made alone; `count` hears of its body's bytes."""
    return Guard(limits, pacer_for(limits), count=count)


def _from_server(order: FetchOrder, sink: BlockSink, guard: Guard, progress: _Progress) -> None:
    byte_range = None if order.whole else (order.start, order.end)
    version = None if order.location.pinned else order.validator
    body = http.get(order.location, order.limits, guard, byte_range, if_range=version)
    try:
        end = _agree(order, body, progress)
        if end is None:
            receive_rest(body, sink, order.end)
            _check_length(order, sink, progress)
        else:
            receive_blocks(body, sink, end)
    except Ended as exc:
        raise Ended(_at_host(exc.fault, body.url)) from exc
    finally:
        progress.wire_bytes = body.received_bytes
        body.finish()


def _at_host(fault: Fault, url: str) -> Fault:
    host = host_of(url)
    if fault.kind in (FaultKind.LOCAL, FaultKind.DISK_FULL) or fault.message.startswith(host):
        return fault
    return replace(fault, message=f"{host}: {fault.message}")


def _agree(order: FetchOrder, body: Body, progress: _Progress) -> int | None:
    """Check the answer's head against the order; the end of what follows, None if not told."""
    empty = _NOTHING_OF.fullmatch(body.headers.get("Content-Range", ""))
    if body.status == 416 and not order.total_known and empty and int(empty[1]) <= order.start:
        progress.total_bytes = int(empty[1])  # the blob ends before this range: a length, no fault
        body.drain()
        return order.start
    if body.status not in (200, 206):
        raise http.refuse_status(body, order.location)
    refuse_encoded(body)
    progress.etag = body.headers.get("ETag")
    version = None if order.location.pinned else order.validator
    if version is not None and (progress.etag or "").strip('" \t') != version:
        raise _changed(progress, f"its ETag is {progress.etag}, not {version!r}")
    end = _agree_range(order, body) if body.status == 206 else _agree_whole(order, body)
    total = _total(body)
    progress.total_bytes = total
    if total is not None and total != order.blob_bytes:
        if order.total_known:
            raise ended(
                FaultKind.UNTRUSTED, f"the blob has {total} bytes, expected {order.blob_bytes}"
            )
        if total > order.blob_bytes:
            raise ended(
                FaultKind.UNTRUSTED, f"the blob has {total} bytes, at most {order.blob_bytes} asked"
            )
    return end


def _changed(progress: _Progress, how: str) -> Ended:
    progress.changed = True
    message = f"the file changed while it was fetched: {plain_text(how)}"
    return ended(FaultKind.UNTRUSTED, message)


def refuse_encoded(body: Body) -> None:
    """Raise UNTRUSTED for a compressed body: its bytes are not the blob's, its length no bound."""
    encoding = body.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise ended(FaultKind.UNTRUSTED, "the body is compressed although it was asked not to be")


def _agree_range(order: FetchOrder, body: Body) -> int:
    found = _CONTENT_RANGE.fullmatch(body.headers.get("Content-Range", "").strip())
    if order.whole or not found:
        raise ended(FaultKind.UNTRUSTED, "a partial answer that does not say which part it is")
    first, last = int(found[1]), int(found[2])
    end = order.end
    if not order.total_known and found[3] != "*":
        end = min(end, int(found[3]))
    if first != order.start or last != end - 1:
        raise ended(
            FaultKind.UNTRUSTED,
            f"bytes {first}-{last} instead of {order.start}-{end - 1}",
        )
    if body.length is not None and body.length != end - order.start:
        raise ended(FaultKind.UNTRUSTED, f"{body.length} bytes for a range of {end - order.start}")
    return end


def _agree_whole(order: FetchOrder, body: Body) -> int | None:
    """A 200. Fine when everything was asked for, or when everything fits the range."""
    fits = body.length is not None and not order.total_known and body.length <= order.end
    if order.start == 0 and (order.whole or order.end == order.blob_bytes or fits):
        return body.length if body.length is None else min(body.length, order.end)
    raise Ended(Fault(FaultKind.RANGE_IGNORED, "the server ignores ranges", http_status=200))


def _total(body: Body) -> int | None:
    if body.status == 200:
        return body.length
    total = body.headers.get("Content-Range", "").rpartition("/")[2].strip()
    return int(total) if total.isdecimal() else None


def _check_length(order: FetchOrder, sink: BlockSink, progress: _Progress) -> None:
    """After a body without a promised length: its end is the blob's end."""
    if order.total_known and sink.done < order.blob_bytes:
        missing = order.blob_bytes - sink.done
        raise ended(FaultKind.UNAVAILABLE, f"the body ended {missing} bytes early")
    progress.total_bytes = sink.done


class _FileBody:
    """A local file as a body: `read_into` like `http.Body`."""

    def __init__(self, fd: int, offset: int, guard: Guard) -> None:
        self.received_bytes = 0
        self._fd = fd
        self._offset = offset
        self._guard = guard

    def read_into(self, view: memoryview) -> int:
        try:
            count = os.preadv(self._fd, [view[: self._guard.step_bytes]], self._offset)
        except OSError as exc:
            raise Ended(disk_fault(exc, "read the local file")) from exc
        self._guard.received(count)
        self._offset += count
        self.received_bytes += count
        return count


def _from_file(order: FetchOrder, sink: BlockSink, guard: Guard, progress: _Progress) -> None:
    fd = open_file(order.location.url)
    try:
        _check_file(order, fd, progress)
        size = progress.total_bytes = os.fstat(fd).st_size
        if size != order.blob_bytes and (order.total_known or size > order.blob_bytes):
            raise ended(
                FaultKind.UNTRUSTED, f"the local file has {size} bytes, not {order.blob_bytes}"
            )
        body = _FileBody(fd, order.start, guard)
        try:
            receive_blocks(body, sink, min(order.end, size))
        finally:
            progress.wire_bytes = body.received_bytes
        _check_file(order, fd, progress)
    finally:
        os.close(fd)


def _check_file(order: FetchOrder, fd: int, progress: _Progress) -> None:
    """Before and after: what was written in between is seen by one of the two."""
    if order.validator is not None and file_validator(os.fstat(fd)) != order.validator:
        raise _changed(progress, "somebody wrote to the local file")


def open_file(url: str) -> int:
    """A descriptor of a `file://` URL, for reading. Raises `Ended`."""
    path = unquote(urlsplit(url).path)
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as exc:
        raise ended(FaultKind.NOT_FOUND, "the local file does not exist") from exc
    except PermissionError as exc:
        raise ended(FaultKind.DENIED, "the local file may not be read") from exc
    except OSError as exc:
        raise Ended(disk_fault(exc, "open the local file")) from exc
