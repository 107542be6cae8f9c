"""Ask web servers about files: one connection pool, its deadlines, and its table of errors.

Apart from `http.py` because httpx costs an agent 7 MB and 0.1 s: it is imported when the first
URL is asked.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx
import trio

from p2pcache.content.address_secrets import ended
from p2pcache.errors import Denied, NotFound, P2PCacheError, Unavailable, Untrusted
from p2pcache.sources import headers
from p2pcache.sources.certificates import distrust, reason, trusting
from p2pcache.sources.urls import origin_of, shown
from p2pcache.version import __version__

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from p2pcache.sources.http import HttpOptions


_NO_NETWORK = "check the address, the network and the proxy settings; --offline uses what is here"
CLOSE_S = 2.0  # nothing is in flight when a source is closed


@dataclass(frozen=True, slots=True)
class Probe:
    """What one ranged GET of one byte told. `etag` only if it is a strong one. `is_folder`: the
    server led from the name to the same with a slash, which is how it names folders.
    """

    size: int | None
    etag: str | None
    ranges: bool
    is_folder: bool = False


class Prober:
    """A pool of connections that asks and never downloads a file."""

    def __init__(self, options: HttpOptions) -> None:
        self._options = options
        self._client = _open_client(options)

    async def aclose(self) -> None:
        """Close the pool. Bounded: idle connections are dropped, none is waited for."""
        with trio.move_on_after(CLOSE_S) as scope:
            scope.shield = True
            await self._client.aclose()

    async def probe(self, url: str) -> Probe:
        """Size, ETag and ranges of one URL. Raises NotFound, Denied, Unavailable, Untrusted."""
        async with self._reply(url, {"Range": "bytes=0-0"}) as reply:
            etag = headers.strong_etag(reply.headers.get("etag"))
            length = headers.length_bytes(reply.headers.get("content-length"))
            if urlsplit(str(reply.url)).path == urlsplit(url).path + "/":
                return Probe(length, etag, ranges=False, is_folder=True)
            if reply.status_code == 200:
                # the whole body is on its way; leaving the block drops the connection
                return Probe(length, etag, ranges=False)
            size = headers.total_bytes(reply.headers.get("content-range"))
            if size is None or (reply.status_code == 416 and size != 0):
                raise Untrusted(f"{shown(url)} answers a range without saying of how much")
            if length is not None and length <= 1:
                await reply.aread()  # so that the connection can be used again
            return Probe(size, etag, ranges=True)

    async def get(self, url: str, max_bytes: int) -> bytes:
        """A whole small body. Raises as `probe`, and Untrusted when it is longer."""
        return (await self.get_page(url, max_bytes))[1]

    async def get_page(
        self, url: str, max_bytes: int, accept: str | None = None
    ) -> tuple[str, bytes]:
        """As `get`, with the address that redirects led to; `accept`: kinds that are liked."""
        async with self._reply(url, {} if accept is None else {"Accept": accept}) as reply:
            if reply.status_code != 200:
                raise Untrusted(f"{shown(url)} answers HTTP {reply.status_code} to a plain GET")
            data = bytearray()
            # Left by cancelling: leaving the loop would abandon the async generators below it.
            with trio.CancelScope() as reading:
                async for chunk in reply.aiter_raw():
                    data += chunk
                    if len(data) > max_bytes:
                        reading.cancel()
            if len(data) > max_bytes:
                raise Untrusted(f"{shown(url)} is longer than {max_bytes} bytes")
            return str(reply.url), bytes(data)

    @contextlib.asynccontextmanager
    async def _reply(self, url: str, fields: dict[str, str]) -> AsyncIterator[httpx.Response]:
        """One streamed reply with acceptable headers, within the deadline; errors are ours."""
        try:
            with trio.fail_after(self._options.deadline_s):
                async with self._client.stream("GET", url, headers=fields) as reply:
                    _refuse(reply, url)
                    yield reply
        except trio.TooSlowError as exc:
            raise Unavailable(
                f"{shown(url)} took longer than {self._options.deadline_s:g} s"
            ) from exc
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            raise _of_transport(exc, url) from exc


def _open_client(options: HttpOptions) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        verify=trusting(options.ca_file) if options.ca_file else True,
        follow_redirects=True,
        max_redirects=options.max_redirects,
        timeout=options.timeout_s,
        headers={"User-Agent": f"p2pcache/{__version__}", "Accept-Encoding": "identity"},
    )


def _refuse(reply: httpx.Response, url: str) -> None:
    """Raise what a status or a header means to us; the table of this adapter.

    404, 410: NotFound. 401, 403, 407, 451 and other 4xx: Denied. 408, 425, 429, 5xx: Unavailable.
    An encoded body, a redirect from https to http, anything else that is no 200, 206, 416:
    Untrusted.
    """
    status, name = reply.status_code, shown(url)
    if any(hop.url.scheme == "https" for hop in reply.history) and reply.url.scheme == "http":
        raise Untrusted(f"{name} redirects from https to http")
    if status in (200, 206, 416):
        if headers.is_encoded(reply.headers.get("content-encoding")):
            raise Untrusted(f"{name} is sent encoded: its own bytes cannot be had")
        return
    if status in (404, 410):
        raise NotFound(f"{name} is not there (HTTP {status})")
    if status in (408, 425, 429) or status >= 500:
        wait_s = headers.retry_after_s(
            reply.headers.get("retry-after"),
            reply.headers.get("ratelimit"),
            now_unix_s=time.time(),
        )
        raise Unavailable(f"{name} cannot be had now (HTTP {status})", retry_after_s=wait_s)
    if 400 <= status < 500:
        raise Denied(
            f"{origin_of(url)} does not give out {name} (HTTP {status}){_since(url)}",
            hint=_denied_hint(url, status),
        )
    raise Untrusted(f"{name} answers HTTP {status}")


def _since(url: str) -> str:
    moment = ended(url, time.time())
    return "" if moment is None else f": its signature expired at {moment}"


def _denied_hint(url: str, status: int) -> str | None:
    if ended(url, time.time()) is not None:
        return "have a new URL signed; what was verified is kept, and goes on with that"
    if urlsplit(url).query:
        return "a signed URL may have expired"
    if status == 407:
        return "the proxy wants a login: write it into HTTPS_PROXY"
    return "web servers are asked without a login: use a public address or a signed one"


def _of_transport(exc: Exception, url: str) -> P2PCacheError:
    if (untrusted := distrust(exc, origin_of(url))) is not None:
        return untrusted
    said = (str(exc) or type(exc).__name__)[:300]
    match exc:
        case httpx.TooManyRedirects():
            return Untrusted(f"{shown(url)} redirects in a loop")
        case httpx.InvalidURL() | httpx.UnsupportedProtocol():
            return Untrusted(f"{shown(url)} leads to something that is no URL: {said}")
        case httpx.TimeoutException():
            return Unavailable(f"{origin_of(url)} is silent", hint=_NO_NETWORK)
    return Unavailable(f"{origin_of(url)} cannot be reached: {reason(exc)}", hint=_NO_NETWORK)
