"""One GET as the workers need it: redirects, memory of where they led, renewal, and the raw body.

Redirects are followed here and not in urllib3, because who gets the location's headers is decided
per hop: its own scheme, host and port, nobody else (contracts A4: the Hub's CDN must not see the
token). Where a chain ended is remembered, so that the next piece skips it; a remembered URL that
stopped working (presigned URLs expire) is forgotten and the original asked once more.
"""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

import urllib3

from p2pcache.lanes import pools
from p2pcache.lanes.faults import (
    Ended,
    ended,
    host_of,
    network_fault,
    status_fault,
    xml_code,
)
from p2pcache.lanes.orders import FaultKind, FetchLimits, Location, Tls
from p2pcache.lanes.pools import Reply

if TYPE_CHECKING:
    from collections.abc import Mapping

    from p2pcache.lanes.pace import Guard

MAX_REMEMBERED = 1024  # final URLs, ~2 KB each: more files than one worker has in flight
MAX_DRAIN_BYTES = 64 << 10  # of an answer that nobody reads: cheaper than a new connection
MAX_SAID_BYTES = 4096  # of an error's body; S3's have a few hundred
REDIRECTS = frozenset({301, 302, 303, 307, 308})
# What an expired presigned URL answers: S3 and CloudFront 403, GCS 400, others 401, 404 or 410.
EXPIRED = frozenset({400, 401, 403, 404, 410})

_finals: OrderedDict[Location, str] = OrderedDict()
_finals_lock = threading.Lock()


class Body:
    """An answer whose headers were read: `read_into` hands out its body, `finish` ends it.

    `length` is what the headers promise, None for a chunked or close-delimited body.
    """

    def __init__(self, url: str, response: urllib3.BaseHTTPResponse, guard: Guard) -> None:
        # The only private name of urllib3 that is used: its own read functions copy every byte.
        reply = response._fp  # type: ignore[attr-defined]
        assert isinstance(reply, Reply)
        self.url = url
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        self.received_bytes = 0
        self.length: int | None = None if reply.chunked else reply.length
        self._left = self.length
        self._over = self.length == 0
        self._early: int | None = None
        self._excess = False
        self._response = response
        self._reply = reply
        self._guard = guard
        guard.head_over()

    def read_into(self, view: memoryview) -> int:
        """Fill some of `view` with one receive; 0 at the end of the body. Raises `Ended`."""
        if self._guard.step_bytes is not None:
            view = view[: self._guard.step_bytes]
        try:
            count = self._read_into(view)
            self._guard.body(count)
        except (OSError, http.client.HTTPException, ValueError) as exc:
            raise Ended(network_fault(exc, self.url)) from exc
        self.received_bytes += count
        return count

    def _read_into(self, view: memoryview) -> int:
        if self._over:
            return 0
        if self._left is None:
            data = self._reply.read1(len(view))
            view[: len(data)] = data
            self._over = not data
            return len(data)
        if len(view) > self._left:
            view = view[: self._left]
        # What came along with the headers first (received and counted already), then straight
        # from the socket: one call a receive, and none of them waits until `view` is full.
        if self._early is None:
            self._early = len(self._reply.fp.peek())
            self._excess = self._early > self._left
            if self._early == 0:
                return 0
        if self._early:
            count = self._reply.fp.readinto1(view[: self._early])
            self._early -= count
        else:
            count = self._reply.sock.recv_into(view)
            self._guard.received(count)
            if count < len(view):
                self._guard.gather(self._left - count)
        self._left -= count
        self._over = count == 0 or self._left == 0
        return count

    def finish(self) -> None:
        """End the exchange: keep the connection when the body was read to its end, else close."""
        clean = not self._excess and (self._left == 0 or (self._left is None and self._over))
        with contextlib.suppress(OSError, ValueError):
            if clean:
                self._reply.close()
            else:
                self._response.close()
            self._response.release_conn()

    def read_some(self, most_bytes: int) -> bytes:
        """The beginning of a body that is read for what it says, as far as it comes."""
        said, scrap = bytearray(), memoryview(bytearray(most_bytes))
        with contextlib.suppress(Ended):
            while len(said) < most_bytes and (count := self.read_into(scrap[len(said) :])):
                said += scrap[len(said) : len(said) + count]
        return bytes(said)

    def drain(self) -> None:
        """Read a short body that nobody needs, so that the connection can be used again."""
        if self.length is not None and self.length <= MAX_DRAIN_BYTES:
            scrap = memoryview(bytearray(MAX_DRAIN_BYTES))
            with contextlib.suppress(Ended):
                while self.read_into(scrap):
                    pass
        self.finish()


def get(
    location: Location,
    limits: FetchLimits,
    guard: Guard,
    byte_range: tuple[int, int] | None,
    ask: bytes | None = None,
    if_range: str | None = None,
) -> Body:
    """Ask for `[start, end)` (None: everything) and return the final answer, whatever its status.

    With `ask` it is a POST of that body: a question that changes nothing, and may be repeated.
    `if_range`: of this version (an ETag without its quotes); of another one everything comes.

    Raises `Ended` when no answer came or a redirect led nowhere.
    """
    headers = {"Accept-Encoding": "identity", "User-Agent": "p2pcache"}
    if byte_range is not None:
        headers["Range"] = f"bytes={byte_range[0]}-{byte_range[1] - 1}"
        if if_range is not None:
            headers["If-Range"] = f'"{if_range}"'
    remembered = _recall(location)
    if remembered is not None:
        try:
            body = _walk(location, remembered, headers, limits, guard, ask)
        except Ended:
            forget(location)  # a dead CDN host: the next try starts at the original
            raise
        if body.status not in EXPIRED:
            return body
        forget(location)
        body.drain()
    return _walk(location, location.url, headers, limits, guard, ask)


def refuse_status(body: Body, location: Location) -> Ended:
    """End an exchange whose status is not wanted and say why."""
    secrets = tuple(value for _, value in location.headers)
    said = b""
    if "xml" in body.headers.get("Content-Type", ""):  # S3, GCS and Azure say why there
        said = body.read_some(MAX_SAID_BYTES)
    fault = status_fault(body.status, body.headers, body.url, secrets, xml_code(said))
    body.drain()
    return Ended(fault)


def forget(location: Location) -> None:
    """Drop what is remembered about where a location leads."""
    with _finals_lock:
        _finals.pop(location, None)


def _recall(location: Location) -> str | None:
    with _finals_lock:
        return _finals.get(location)


def _remember(location: Location, url: str) -> None:
    with _finals_lock:
        _finals[location] = url
        _finals.move_to_end(location)
        if len(_finals) > MAX_REMEMBERED:
            _finals.popitem(last=False)


def _walk(
    location: Location, url: str, headers: dict[str, str], limits: FetchLimits, guard: Guard,
    ask: bytes | None,
) -> Body:  # fmt: skip
    seen = {url}
    while True:
        body = _ask(location, url, headers, limits, guard, ask)
        target = body.headers.get("Location")
        if body.status not in REDIRECTS or target is None:
            if url != location.url and body.status in (200, 206):
                _remember(location, url)
            return body
        body.drain()
        url = _next_url(url, target)
        if url in seen:
            raise ended(FaultKind.UNTRUSTED, f"{host_of(url)}: redirect loop")
        # a peer (`direct`) answers itself or not at all: it must not send its readers elsewhere
        if location.direct or len(seen) > limits.max_redirects:
            raise ended(FaultKind.UNTRUSTED, f"{host_of(url)}: more redirects than allowed")
        seen.add(url)


def _next_url(url: str, target: str) -> str:
    try:
        following = urljoin(url, target)
        scheme, host = urlsplit(following).scheme, urlsplit(following).hostname
    except ValueError:
        scheme, host = "", None
    if scheme not in ("http", "https") or not host:
        raise ended(FaultKind.UNTRUSTED, f"{host_of(url)}: redirect to something that is no URL")
    if scheme == "http" and urlsplit(url).scheme == "https":
        raise ended(FaultKind.UNTRUSTED, f"{host_of(url)}: redirect from https down to http")
    return following.partition("#")[0]


def _ask(
    location: Location, url: str, headers: dict[str, str], limits: FetchLimits, guard: Guard,
    ask: bytes | None,
) -> Body:  # fmt: skip
    own = _origin(url) == _origin(location.url)
    sent = {**headers, **dict(location.headers)} if own else headers
    # A pin names one server's certificate; other hosts of the chain have their own.
    tls = location.tls if own else Tls(ca_file=location.tls.ca_file)
    timeout = urllib3.Timeout(connect=limits.connect_timeout_s, read=limits.no_progress_s)
    direct = own and location.direct
    try:
        return Body(url, pools.request(url, sent, tls, timeout, guard, ask, direct=direct), guard)
    except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError, ValueError) as exc:
        raise Ended(network_fault(exc, url)) from exc


def _origin(url: str) -> tuple[str, str | None, int | None]:
    try:
        parts = urlsplit(url)
        default = {"http": 80, "https": 443}.get(parts.scheme)
        return parts.scheme, parts.hostname, parts.port or default
    except ValueError:
        return "", None, None
