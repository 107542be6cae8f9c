"""A few bytes of a blob, in memory: what a proof of access is made of (content/proof)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pcache.errors import Denied, NotFound, P2PCacheError, Unavailable, Untrusted
from p2pcache.lanes import http
from p2pcache.lanes.faults import Ended, ended
from p2pcache.lanes.fetch import guard_for, refuse_encoded
from p2pcache.lanes.orders import Fault, FaultKind

if TYPE_CHECKING:
    from p2pcache.lanes.orders import FetchLimits, Location

MAX_BYTES = 1 << 20


def peek(location: Location, start: int, end: int, limits: FetchLimits) -> bytes:
    """Bytes `[start, end)`, unverified. Raises Unavailable, Denied, NotFound, Untrusted.

    A server that ignores ranges is read up to `end` if that is at most MAX_BYTES.
    """
    assert 0 <= start < end
    assert end - start <= MAX_BYTES
    try:
        body = http.get(location, limits, guard_for(limits), (start, end))
        try:
            if body.status not in (200, 206):
                raise http.refuse_status(body, location)
            refuse_encoded(body)
            skip = 0 if body.status == 206 else start
            if skip + end - start > MAX_BYTES:
                raise ended(FaultKind.UNAVAILABLE, "the server ignores ranges")
            return _read(body, skip + end - start)[skip:]
        finally:
            body.finish()
    except Ended as exc:
        raise _error(exc.fault) from exc


def _read(body: http.Body, count: int) -> bytes:
    buffer = bytearray(count)
    view, got = memoryview(buffer), 0
    while got < count and (more := body.read_into(view[got:])):
        got += more
    if got < count:
        raise ended(FaultKind.UNAVAILABLE, f"the body ended {count - got} bytes early")
    return bytes(buffer)


def _error(fault: Fault) -> P2PCacheError:
    match fault.kind:
        case FaultKind.DENIED:
            return Denied(fault.message)
        case FaultKind.NOT_FOUND:
            return NotFound(fault.message)
        case FaultKind.UNTRUSTED:
            return Untrusted(fault.message)
        case _:
            return Unavailable(fault.message)
