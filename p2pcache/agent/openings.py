"""Finds out whether an origin that lists content for everybody has it, too.

Content that is closed here (`store.rights`, `store.adoptions`) may be named by an origin that wants
no login. A name proves nothing. Some random ranges are asked of that origin, without any login, and
compared with the bytes that are here: then it is given to everybody (content/proof has the same
question among agents). An origin that sends other bytes, or refuses, is not asked for that file
again by this agent; one that cannot be reached is, later.
"""

from __future__ import annotations

import logging
import math
import secrets
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import trio

from p2pcache.content import refs
from p2pcache.content.address_secrets import plain_key
from p2pcache.errors import LocalFault, P2PCacheError, Unavailable
from p2pcache.lanes.peek import peek
from p2pcache.sources.port import AwsLogin, AzureLogin, Credentials, GcsLogin
from p2pcache.store.rights import MAX_SHARED, NO_ORIGIN

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence

    from p2pcache.lanes.orders import FetchLimits, Location
    from p2pcache.sources.port import ListedFile
    from p2pcache.store.blobs import BlobInfo
    from p2pcache.store.rights import Shared
    from p2pcache.store.store import Store
    from p2pcache.transfer.resolve import Resolution, Resolver
    from p2pcache.transfer.spending import Spending
    from p2pcache.transfer.workers import Workers

_log = logging.getLogger(__name__)

RANGE_BYTES = 64 << 10  # as `content.proof` asks of peers
RANGES = 4  # of a larger file: who has half of it passes one time in 16
RANGE_S = 30.0  # for one, with the wait for its turn; it holds one of the few workers that list
AGAIN_S = 600.0  # until an origin that could not be reached is asked again
MAX_REFUSED = 100_000  # files of manifests; then those are asked again


@dataclass(frozen=True, slots=True)
class _Claim:
    """`files`: by the digests that are asked for."""

    resolution: Resolution
    files: dict[bytes, ListedFile]


class Openings:
    """Of one agent. For the trio thread. `choose(n)`: a number in [0, n)."""

    def __init__(
        self,
        store: Store,
        resolver: Resolver,
        workers: Workers,
        limits: FetchLimits,
        spending: Spending,
        choose: Callable[[int], int] = secrets.randbelow,
        at_a_time: int = MAX_SHARED,
    ) -> None:
        self._store = store
        self._resolver = resolver
        self._workers = workers
        self._limits = limits
        self._spending = spending
        self._choose = choose
        self._at_a_time = at_a_time
        self._more = trio.Event()
        self._refused: set[Shared] = set()
        self.opened: Callable[[Sequence[bytes]], Awaitable[None]] = _nobody  # of these manifests

    def wake(self) -> None:
        """Something was resolved, or arrived."""
        self._more.set()

    async def run(self) -> None:
        """Until cancelled."""
        while not self._store.readonly:
            self._more = trio.Event()
            is_done = False
            try:
                is_done = await self.look()
            except LocalFault as exc:
                _log.warning("what may be shared cannot be looked up: %s", exc.message)
            with trio.move_on_after(math.inf if is_done else AGAIN_S):
                await self._more.wait()

    async def look(self) -> bool:
        """Ask the origins of everything that is closed and claimed, one request at a time; whether
        all of them answered. Of one that does not, nothing more is asked. Raises LocalFault.
        """
        seen: set[Shared] = set()
        silent: set[str] = set()
        while found := await trio.to_thread.run_sync(self._closed, seen):
            seen.update(found)
            wanted: dict[bytes, list[Shared]] = {}
            for one in found:
                wanted.setdefault(one.manifest, []).append(one)
            for manifest, files in wanted.items():
                await self._look_at(manifest, files, silent)
        return not silent

    async def _look_at(self, manifest: bytes, files: Sequence[Shared], silent: set[str]) -> None:
        claims = await trio.to_thread.run_sync(self._claims, manifest, {f.digest for f in files})
        given = []
        for one in files:
            is_given = await self._is_given(one, claims, silent)
            if is_given:
                given.append(one.digest)
            elif is_given is False:
                self._refuse(one)
        if given:
            await trio.to_thread.run_sync(self._store.rights.give, manifest, given)
            await self.opened([manifest])

    def _refuse(self, one: Shared) -> None:
        if len(self._refused) >= MAX_REFUSED:
            self._refused.clear()
        self._refused.add(one)

    def _closed(self, seen: set[Shared]) -> list[Shared]:
        """In a thread."""
        return self._store.rights.shared(
            self._store.adoptions.private(),
            lambda one: one in seen or one in self._refused,
            self._at_a_time,
        )

    def _claims(self, manifest: bytes, digests: Collection[bytes]) -> list[_Claim]:
        """In a thread."""
        found = []
        for row in self._store.resolutions_of(manifest):
            if row.gated or row.source in NO_ORIGIN:
                continue
            told = self._resolver.recorded(refs.parse_ref(row.canonical))
            if told is not None and not told.listing.gated:
                listed = ((f.digest, f) for f in told.listing.files if plain_key(f.key) == f.key)
                files = {name: file for name, file in listed if name in digests and name}
                found.append(_Claim(replace(told, listing=replace(told.listing, files=())), files))
        return found

    async def _is_given(
        self, one: Shared, claims: Sequence[_Claim], silent: set[str]
    ) -> bool | None:
        """None: an origin could not be asked, and is `silent` from then on; or the file left."""
        blob = await trio.to_thread.run_sync(self._store.find, one.digest)
        if blob is None:
            return None
        is_known = True
        for claim in claims:
            file, endpoint = claim.files.get(one.digest), claim.resolution.listing.endpoint
            if file is None or file.size != blob.size:
                continue
            if endpoint in silent:
                is_known = False
                continue
            try:
                if await self._has(claim.resolution, file, blob):
                    return True
            except (Unavailable, LocalFault, OSError) as exc:
                _log.info("%s was not asked for a proof: %s", claim.resolution.canonical, exc)
                silent.add(endpoint)
                is_known = False
            except P2PCacheError as exc:
                _log.info("%s does not give it: %s", claim.resolution.canonical, exc.message)
        return False if is_known else None

    async def _has(self, claim: Resolution, file: ListedFile, blob: BlobInfo) -> bool:
        """Whether the origin gives these bytes to who brings no login."""
        if not blob.size:
            return True  # everybody has no bytes
        source = self._resolver.source_for(claim.ref)
        nobody = next(
            (
                who
                for who in _without_login(claim.listing.endpoint)
                if source.endpoint(claim.ref, who) == claim.listing.endpoint
            ),
            None,
        )
        if nobody is None:
            return False
        location = await source.locate(claim.listing, file.key, nobody)
        for start, end in _ranges(blob.size, self._choose):
            if not await self._is_equal(location, blob, start, end):
                _log.warning("%s sends other bytes than it lists", claim.canonical)
                return False
        return True

    async def _is_equal(self, location: Location, blob: BlobInfo, start: int, end: int) -> bool:
        """A request as others are: the origin's budget lets it in, and counts it."""
        theirs = b""
        try:
            with trio.fail_after(RANGE_S):
                async with self._spending.request(location, self._limits) as one:
                    theirs = await self._workers.call(peek, location, start, end, one.limits)
                    one.wire_bytes = len(theirs)
        except trio.TooSlowError as exc:
            raise Unavailable("it did not answer in time") from exc
        return theirs == await trio.to_thread.run_sync(_read, blob, start, end)


def _without_login(endpoint: str) -> Iterator[Credentials]:
    """What leads to an origin: it is the configured one, or was the caller's."""
    yield Credentials()
    yield Credentials(
        hf_endpoint=endpoint,
        aws=AwsLogin(endpoint_url=endpoint),
        gcs=GcsLogin(endpoint_url=endpoint),
        azure=AzureLogin(endpoint_url=endpoint),
    )


def _ranges(size: int, choose: Callable[[int], int]) -> Iterator[tuple[int, int]]:
    for _ in range(1 if size <= RANGE_BYTES else RANGES):
        start = choose(max(1, size - RANGE_BYTES + 1))
        yield start, min(size, start + RANGE_BYTES)


def _read(blob: BlobInfo, start: int, end: int) -> bytes:
    with blob.path.open("rb") as stream:
        stream.seek(start)
        return stream.read(end - start)


async def _nobody(manifests: Sequence[bytes]) -> None:
    """Before there is a network."""
