"""Plain HTTP(S) servers as a source: one file, or the files that a SHA256SUMS file lists.

A size, an ETag and the willingness to serve ranges come from one probe: `GET` with
`Range: bytes=0-0`. Unlike HEAD it works with presigned URLs (which are signed for GET), and its
206 proves what an Accept-Ranges header only claims.
"""

from __future__ import annotations

import contextlib
import hashlib
import ssl
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urljoin, urlsplit

import httpx
import trio

from p2pcache.content.digests import sha256_digest
from p2pcache.content.names import safe_path
from p2pcache.content.refs import HttpRef
from p2pcache.errors import (
    Denied,
    NotFound,
    P2PCacheError,
    Unavailable,
    Untrusted,
    UsageError,
    one_error,
)
from p2pcache.lanes.orders import Location, Tls
from p2pcache.sources import headers
from p2pcache.sources.certificates import distrust
from p2pcache.sources.port import ListedFile, Listing, SourceKind
from p2pcache.sources.sums import MAX_SUMS_BYTES, parse_sums
from p2pcache.version import __version__

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

    from p2pcache.content.refs import Ref
    from p2pcache.sources.port import Credentials

SUMS_NAMES = frozenset({"sha256sums", "sha256sums.txt", "sha256sum.txt"})  # lower case

NAMED_BY_ARRIVAL = (
    "named by what arrived: the origin has no content hash "
    "(add #sha256=<hex> to the URL to pin what you expect)"
)
ONE_STREAM = "the server ignores ranges: one stream, and a broken one starts again"


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """How servers are asked. Proxies come from the environment, as for every HTTP client."""

    ca_file: str | None = None  # a private authority; else SSL_CERT_FILE or the public ones
    sums: bool = False  # read every URL as a list of sums, whatever its name
    timeout_s: float = 10.0  # for each of connect, write and the next byte
    deadline_s: float = 60.0  # one whole reply: a slow drip cannot hold a listing for ever
    max_redirects: int = 8  # as lanes/orders.FetchLimits
    probes_at_once: int = 16  # of a list of sums; enough for 1,000 files in seconds, polite to one


@dataclass(frozen=True, slots=True)
class _Probe:
    size: int | None
    etag: str | None
    ranges: bool


class HttpSource:
    """The HTTP adapter: keeps one connection pool, opened on first use."""

    name = "http"
    kind = SourceKind.ORIGIN

    def __init__(self, options: HttpOptions = HttpOptions()) -> None:
        self._options = options
        self._client: httpx.AsyncClient | None = None

    def accepts(self, ref: Ref) -> bool:
        """Whether the ref is a URL of a file."""
        return isinstance(ref, HttpRef)

    async def list(self, ref: Ref, credentials: Credentials) -> Listing:
        """Probe one file, or fetch and follow a list of sums. Cancel-safe.

        Raises NotFound, Denied, Unavailable, Untrusted (a reply or a list that makes no sense, a
        list that does not match its own pin), UsageError (a URL that names no file).
        """
        if not isinstance(ref, HttpRef):
            raise UsageError(f"not a URL: {ref}")
        name = _name(ref.url)
        if self._options.sums or name.lower() in SUMS_NAMES:
            return await self._list_sums(ref.url, ref.sha256)
        probe = await self._probe(ref.url)
        notes = []
        if ref.sha256 is None:
            notes.append(NAMED_BY_ARRIVAL)
        if not probe.ranges and probe.size != 0:
            notes.append(ONE_STREAM)
        digest = None if ref.sha256 is None else sha256_digest(ref.sha256)
        return Listing(
            source=self.name,
            endpoint=_origin(ref.url),
            immutable=probe.etag if ref.sha256 is None else f"sha256:{ref.sha256.hex()}",
            mutable=ref.sha256 is None,
            files=(ListedFile(name, probe.size, digest, key=ref.url),),
            notes=tuple(notes),
        )

    async def locate(self, listing: Listing, key: str, credentials: Credentials) -> Location:
        """The URL itself. Pure."""
        return Location(key, (), Tls(ca_file=self._options.ca_file))

    async def aclose(self) -> None:
        """Close the pool. Bounded: idle connections are dropped, none is waited for."""
        client, self._client = self._client, None
        if client is not None:
            with trio.move_on_after(2) as scope:
                scope.shield = True
                await client.aclose()

    async def _list_sums(self, url: str, pin: bytes | None) -> Listing:
        data = await self._get(url)
        arrived = hashlib.sha256(data).digest()
        if pin is not None and arrived != pin:
            raise Untrusted(
                f"{_shown(url)} has sha256 {arrived.hex()}, and {pin.hex()} was asked for"
            )
        sums = parse_sums(data)
        found: dict[str, ListedFile] = {}

        async def look(path: str) -> None:
            # relative to the list, without its query: that belongs to the list alone
            where = urljoin(url, quote(path))
            probe = await self._probe(where)
            found[path] = ListedFile(path, probe.size, sha256_digest(sums[path]), key=where)

        await _each(look, sums, at_once=self._options.probes_at_once)
        return Listing(
            source=self.name,
            endpoint=_origin(url),
            immutable=f"sha256:{arrived.hex()}",  # of the list: it fixes every file
            mutable=pin is None,
            files=tuple(found[path] for path in sums),
        )

    async def _probe(self, url: str) -> _Probe:
        async with self._reply(url, {"Range": "bytes=0-0"}) as reply:
            etag = headers.strong_etag(reply.headers.get("etag"))
            length = headers.length_bytes(reply.headers.get("content-length"))
            if reply.status_code == 200:
                # the whole body is on its way; leaving the block drops the connection
                return _Probe(length, etag, ranges=False)
            size = headers.total_bytes(reply.headers.get("content-range"))
            if size is None or (reply.status_code == 416 and size != 0):
                raise Untrusted(f"{_shown(url)} answers a range without saying of how much")
            if length is not None and length <= 1:
                await reply.aread()  # so that the connection can be used again
            return _Probe(size, etag, ranges=True)

    async def _get(self, url: str) -> bytes:
        async with self._reply(url, {}) as reply:
            if reply.status_code != 200:
                raise Untrusted(f"{_shown(url)} answers HTTP {reply.status_code} to a plain GET")
            data = bytearray()
            # Left by cancelling: leaving the loop would abandon the async generators below it.
            with trio.CancelScope() as reading:
                async for chunk in reply.aiter_raw():
                    data += chunk
                    if len(data) > MAX_SUMS_BYTES:
                        reading.cancel()
            if len(data) > MAX_SUMS_BYTES:
                raise Untrusted(f"{_shown(url)} is longer than {MAX_SUMS_BYTES} bytes")
            return bytes(data)

    @contextlib.asynccontextmanager
    async def _reply(self, url: str, fields: dict[str, str]) -> AsyncIterator[httpx.Response]:
        """One streamed reply with acceptable headers, within the deadline; errors are ours."""
        if self._client is None:
            self._client = _open_client(self._options)
        try:
            with trio.fail_after(self._options.deadline_s):
                async with self._client.stream("GET", url, headers=fields) as reply:
                    _refuse(reply, url)
                    yield reply
        except trio.TooSlowError as exc:
            raise Unavailable(
                f"{_shown(url)} took longer than {self._options.deadline_s:g} s"
            ) from exc
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            raise _of_transport(exc, url) from exc


def _open_client(options: HttpOptions) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        verify=ssl.create_default_context(cafile=options.ca_file) if options.ca_file else True,
        follow_redirects=True,
        max_redirects=options.max_redirects,
        timeout=options.timeout_s,
        headers={"User-Agent": f"p2pcache/{__version__}", "Accept-Encoding": "identity"},
    )


async def _each(work: Callable[[str], Awaitable[None]], items: Iterable[str], at_once: int) -> None:
    """Do `work` for every item, some at once. The first error ends all and is raised plain."""
    remaining = iter(items)

    async def worker() -> None:
        for item in remaining:
            await work(item)

    failure: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            for _ in range(at_once):
                nursery.start_soon(worker)
    except BaseExceptionGroup as group:
        failure = one_error(group)
    if failure is not None:  # raised out here to keep its own cause
        raise failure


def _refuse(reply: httpx.Response, url: str) -> None:
    """Raise what a status or a header means to us; the table of this adapter.

    404, 410: NotFound. 401, 403, 407, 451 and other 4xx: Denied. 408, 425, 429, 5xx: Unavailable.
    An encoded body, a redirect from https to http, anything else that is no 200, 206, 416:
    Untrusted.
    """
    status, shown = reply.status_code, _shown(url)
    if any(hop.url.scheme == "https" for hop in reply.history) and reply.url.scheme == "http":
        raise Untrusted(f"{shown} redirects from https to http")
    if status in (200, 206, 416):
        if headers.is_encoded(reply.headers.get("content-encoding")):
            raise Untrusted(f"{shown} is sent encoded: its own bytes cannot be had")
        return
    if status in (404, 410):
        raise NotFound(f"{shown} is not there (HTTP {status})")
    if status in (408, 425, 429) or status >= 500:
        wait_s = headers.retry_after_s(
            reply.headers.get("retry-after"),
            reply.headers.get("ratelimit"),
            now_unix_s=time.time(),
        )
        raise Unavailable(f"{shown} cannot be had now (HTTP {status})", retry_after_s=wait_s)
    if 400 <= status < 500:
        raise Denied(
            f"{_origin(url)} does not give out {shown} (HTTP {status})",
            hint="a signed URL may have expired",
        )
    raise Untrusted(f"{shown} answers HTTP {status}")


def _of_transport(exc: Exception, url: str) -> P2PCacheError:
    if (untrusted := distrust(exc, _origin(url))) is not None:
        return untrusted
    said = (str(exc) or type(exc).__name__)[:300]
    match exc:
        case httpx.TooManyRedirects():
            return Untrusted(f"{_shown(url)} redirects in a loop")
        case httpx.InvalidURL() | httpx.UnsupportedProtocol():
            return Untrusted(f"{_shown(url)} leads to something that is no URL: {said}")
        case httpx.TimeoutException():
            return Unavailable(f"{_origin(url)} is silent")
    return Unavailable(f"{_origin(url)} cannot be reached: {said}")


def _name(url: str) -> str:
    """The file name that a URL ends in. Raises UsageError when there is none."""
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise UsageError(
            "a URL with a password in it would be stored and shown", hint="leave it out"
        )
    name = unquote(parts.path).rpartition("/")[2]
    if not name:
        raise UsageError(f"{_shown(url)} names no file", hint="give the URL of a file")
    return safe_path(name)


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _shown(url: str) -> str:
    """The URL as messages show it: without the query, which may be a signature."""
    return f"{_origin(url)}{urlsplit(url).path}"[:300]
