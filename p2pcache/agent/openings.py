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
from typing import TYPE_CHECKING

import trio

from p2pcache.content import refs
from p2pcache.content.address_secrets import plain_key
from p2pcache.errors import LocalFault, P2PCacheError, Unavailable, plain_errors
from p2pcache.lanes.peek import peek
from p2pcache.sources.port import AwsLogin, AzureLogin, Credentials, GcsLogin
from p2pcache.store.rights import NO_ORIGIN

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from p2pcache.lanes.orders import FetchLimits, Location
    from p2pcache.store.blobs import BlobInfo
    from p2pcache.store.rights import Shared
    from p2pcache.store.store import Store
    from p2pcache.transfer.resolve import Resolution, Resolver
    from p2pcache.transfer.workers import Workers

_log = logging.getLogger(__name__)

RANGE_BYTES = 64 << 10  # as `content.proof` asks of peers
RANGES = 4  # of a larger file: who has half of it passes one time in 16
AT_ONCE = 4  # requests to origins, beside those of pulls
AGAIN_S = 600.0  # until an origin that could not be reached is asked again
MAX_REFUSED = 100_000  # files of manifests; then those are asked again


class Openings:
    """Of one agent. For the trio thread. `choose(n)`: a number in [0, n)."""

    def __init__(
        self,
        store: Store,
        resolver: Resolver,
        workers: Workers,
        limits: FetchLimits,
        choose: Callable[[int], int] = secrets.randbelow,
    ) -> None:
        self._store = store
        self._resolver = resolver
        self._workers = workers
        self._limits = limits
        self._choose = choose
        self._more = trio.Event()
        self._refused: set[tuple[bytes, bytes]] = set()
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
        """Ask the origins of everything that is closed and claimed; whether all of them answered.
        Raises LocalFault.
        """
        found = await trio.to_thread.run_sync(self._closed)
        resolutions: dict[bytes, Sequence[Resolution]] = {}
        for manifest in {one.manifest for one in found}:
            resolutions[manifest] = await trio.to_thread.run_sync(self._claims, manifest)
        given: dict[bytes, list[bytes]] = {}
        missed = 0
        todo = iter(found)

        async def worker() -> None:
            nonlocal missed
            for one in todo:
                is_given = await self._is_given(one, resolutions[one.manifest])
                if is_given:
                    given.setdefault(one.manifest, []).append(one.digest)
                elif is_given is None:
                    missed += 1
                else:
                    self._refuse(one)

        with plain_errors():
            async with trio.open_nursery() as nursery:
                for _ in range(AT_ONCE):
                    nursery.start_soon(worker)
        for manifest, digests in given.items():
            await trio.to_thread.run_sync(self._store.rights.give, manifest, digests)
        if given:
            await self.opened(list(given))
        return not missed

    def _refuse(self, one: Shared) -> None:
        if len(self._refused) >= MAX_REFUSED:
            self._refused.clear()
        self._refused.add((one.manifest, one.digest))

    def _closed(self) -> list[Shared]:
        """In a thread."""
        found = self._store.rights.shared(self._store.adoptions.private())
        return [one for one in found if (one.manifest, one.digest) not in self._refused]

    def _claims(self, manifest: bytes) -> list[Resolution]:
        """In a thread."""
        rows = self._store.resolutions_of(manifest)
        claims = [row for row in rows if not row.gated and row.source not in NO_ORIGIN]
        found = [self._resolver.recorded(refs.parse_ref(row.canonical)) for row in claims]
        return [one for one in found if one is not None and not one.listing.gated]

    async def _is_given(self, one: Shared, claims: Sequence[Resolution]) -> bool | None:
        """None: an origin could not be asked."""
        blob = await trio.to_thread.run_sync(self._store.find, one.digest)
        is_known = True
        for claim in claims if blob is not None else ():
            assert blob is not None
            try:
                if await self._has(claim, one.digest, blob):
                    return True
            except (Unavailable, LocalFault, OSError) as exc:
                _log.info("%s was not asked for a proof: %s", claim.canonical, exc)
                is_known = False
            except P2PCacheError as exc:
                _log.info("%s does not give what it lists: %s", claim.canonical, exc.message)
        return False if is_known else None

    async def _has(self, claim: Resolution, digest: bytes, blob: BlobInfo) -> bool:
        """Whether the origin gives these bytes to who brings no login."""
        file = next((f for f in claim.listing.files if f.digest == digest), None)
        if file is None or plain_key(file.key) != file.key or file.size != blob.size:
            return False
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
        theirs = await self._workers.call(peek, location, start, end, self._limits)
        ours = await trio.to_thread.run_sync(_read, blob, start, end)
        return theirs == ours


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
