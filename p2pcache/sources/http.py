"""Plain HTTP(S) servers as a source: one file, the files that a SHA256SUMS file lists, or those
below a folder that the server lists (`http_folder`).

A size, an ETag and the willingness to serve ranges come from one probe: `GET` with
`Range: bytes=0-0`. Unlike HEAD it works with presigned URLs (which are signed for GET), and its
206 proves what an Accept-Ranges header only claims.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote, urljoin

import trio

from p2pcache.content.digests import sha256_digest
from p2pcache.content.refs import HttpRef
from p2pcache.errors import Untrusted, UsageError, one_error
from p2pcache.lanes.orders import Location, Tls
from p2pcache.sources.http_folder import SUMS_HINT, Found, walk
from p2pcache.sources.port import ListedFile, Listing, SourceKind
from p2pcache.sources.sums import MAX_SUMS_BYTES, parse_sums
from p2pcache.sources.urls import file_name, origin_of, shown

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from p2pcache.content.refs import Ref
    from p2pcache.sources.http_probe import Probe, Prober
    from p2pcache.sources.port import Credentials

T = TypeVar("T")

SUMS_NAMES = frozenset({"sha256sums", "sha256sums.txt", "sha256sum.txt"})  # lower case

NAMED_BY_ARRIVAL = (
    "named by what arrived: the origin has no content hash "
    "(add #sha256=<hex> to the URL to pin what you expect)"
)
NAMED_BY_ARRIVAL_ALL = "named by what arrived: the origin has no content hashes"
ONE_STREAM = "the server ignores ranges: one stream, and a broken one starts again"


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """How servers are asked. Proxies come from the environment, as for every HTTP client."""

    ca_file: str | None = None  # a private authority; else SSL_CERT_FILE or the public ones
    timeout_s: float = 10.0  # for each of connect, write and the next byte
    deadline_s: float = 60.0  # one whole reply: a slow drip cannot hold a listing for ever
    max_redirects: int = 8  # as lanes/orders.FetchLimits
    probes_at_once: int = 16  # of a list of sums; enough for 1,000 files in seconds, polite to one


class HttpSource:
    """The HTTP adapter: keeps one connection pool, opened on first use."""

    name = "http"
    kind = SourceKind.ORIGIN

    def __init__(self, options: HttpOptions = HttpOptions()) -> None:
        self._options = options
        self._opened: Prober | None = None

    def accepts(self, ref: Ref) -> bool:
        """Whether the ref is a URL."""
        return isinstance(ref, HttpRef)

    def endpoint(self, ref: Ref, credentials: Credentials) -> str:
        """The web server's origin."""
        if not isinstance(ref, HttpRef):
            raise UsageError(f"not a URL: {ref}")
        return origin_of(ref.url)

    async def list(self, ref: Ref, credentials: Credentials) -> Listing:
        """Probe one file, or fetch and follow a list of sums or an index page. Cancel-safe.

        Raises NotFound, Denied, Unavailable, Untrusted (a reply or a list that makes no sense, a
        list that does not match its own pin), UsageError (a folder without a list of its files).
        """
        if not isinstance(ref, HttpRef):
            raise UsageError(f"not a URL: {ref}")
        if ref.is_folder:
            return await self._list_folder(ref)
        name = file_name(ref.url)
        if name.lower() in SUMS_NAMES:
            return await self._list_sums(ref.url, ref.sha256)
        probe = await self._prober().probe(ref.url)
        if probe.is_folder:
            raise UsageError(
                f"{shown(ref.url)} is a folder", hint="write it with a slash at its end"
            )
        notes = []
        if ref.sha256 is None:
            notes.append(NAMED_BY_ARRIVAL)
        if not probe.ranges and probe.size != 0:
            notes.append(ONE_STREAM)
        digest = None if ref.sha256 is None else sha256_digest(ref.sha256)
        return Listing(
            source=self.name,
            endpoint=origin_of(ref.url),
            immutable=probe.etag if ref.sha256 is None else f"sha256:{ref.sha256.hex()}",
            mutable=ref.sha256 is None,
            files=(
                ListedFile(
                    name,
                    probe.size,
                    digest,
                    key=ref.url,
                    validator=None if digest is not None else probe.etag,
                ),
            ),
            notes=tuple(notes),
        )

    async def gives(self, ref: Ref, immutable: str | None, credentials: Credentials) -> bool:
        """Whether the ETag, or the list of sums, is what it was. A list that is not the pinned one
        says no too. A pin on one file is taken at its word: only all its bytes could tell.
        """
        if not isinstance(ref, HttpRef):
            raise UsageError(f"not a URL: {ref}")
        try:
            listing = await self.list(ref, credentials)
        except Untrusted:
            if ref.sha256 is None:
                raise
            return False
        return immutable in (None, listing.immutable)

    async def locate(self, listing: Listing, key: str, credentials: Credentials) -> Location:
        """The URL itself. Pure."""
        return Location(key, (), Tls(ca_file=self._options.ca_file))

    async def aclose(self) -> None:
        """Close the pool, if one was opened. Bounded."""
        opened, self._opened = self._opened, None
        if opened is not None:
            await opened.aclose()

    def _prober(self) -> Prober:
        if self._opened is None:
            from p2pcache.sources.http_probe import Prober  # brings httpx

            self._opened = Prober(self._options)
        return self._opened

    async def _list_folder(self, ref: HttpRef) -> Listing:
        if ref.sha256 is not None:
            raise UsageError("a folder has no sha256", hint="pin the URL of its SHA256SUMS")
        found = await walk(self._prober(), ref.url)
        probes: dict[str, Probe] = {}

        async def look(file: Found) -> None:
            probes[file.path] = await self._prober().probe(file.url)

        await _each(look, found, at_once=self._options.probes_at_once)
        notes = [NAMED_BY_ARRIVAL_ALL]
        if any(not probe.ranges and probe.size != 0 for probe in probes.values()):
            notes.append(ONE_STREAM)
        sums = next((file.path for file in found if file.path.lower() in SUMS_NAMES), None)
        if sums is not None:
            notes.append(SUMS_HINT.format(name=sums))
        rows = [(file.path, probes[file.path].size, probes[file.path].etag) for file in found]
        known = all(etag is not None for _, _, etag in rows)
        whole = hashlib.sha256("\n".join(f"{p}\0{s}\0{e}" for p, s, e in rows).encode())
        return Listing(
            source=self.name,
            endpoint=origin_of(ref.url),
            immutable=f"list:{whole.hexdigest()}" if known else None,
            mutable=True,
            files=tuple(
                ListedFile(path, size, None, key=file.url, validator=etag)
                for file, (path, size, etag) in zip(found, rows, strict=True)
            ),
            notes=tuple(notes),
        )

    async def _list_sums(self, url: str, pin: bytes | None) -> Listing:
        data = await self._prober().get(url, MAX_SUMS_BYTES)
        arrived = hashlib.sha256(data).digest()
        if pin is not None and arrived != pin:
            raise Untrusted(
                f"{shown(url)} has sha256 {arrived.hex()}, and {pin.hex()} was asked for"
            )
        sums = parse_sums(data)
        found: dict[str, ListedFile] = {}

        async def look(path: str) -> None:
            # relative to the list, without its query: that belongs to the list alone
            where = urljoin(url, quote(path))
            probe = await self._prober().probe(where)
            found[path] = ListedFile(path, probe.size, sha256_digest(sums[path]), key=where)

        await _each(look, sums, at_once=self._options.probes_at_once)
        return Listing(
            source=self.name,
            endpoint=origin_of(url),
            immutable=f"sha256:{arrived.hex()}",  # of the list: it fixes every file
            mutable=pin is None,
            files=tuple(found[path] for path in sums),
        )


async def _each(work: Callable[[T], Awaitable[None]], items: Iterable[T], at_once: int) -> None:
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
