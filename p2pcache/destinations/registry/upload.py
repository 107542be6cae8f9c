"""One blob into a repository: in one request where it is small, else in parts of one session.

Where a session's next bytes go is written down before they are sent: after a crash the registry is
asked how far it came. One that forgot, or cannot say, gets the blob from its beginning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

import httpx
import trio

from p2pcache.content.unixfs import LEAF_BYTES
from p2pcache.errors import (
    Denied,
    DiskFull,
    LocalFault,
    P2PCacheError,
    Unavailable,
    Untrusted,
)
from p2pcache.lanes.orders import FaultKind, Slot, Tls
from p2pcache.lanes.send_blob import BlobOrder
from p2pcache.sources.oci.access import Held
from p2pcache.sources.oci.pushing import with_digest
from p2pcache.sources.oci.registry import Reply

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from p2pcache.destinations.registry.image import Blob
    from p2pcache.lanes.orders import Fault
    from p2pcache.lanes.send_blob import BlobReport
    from p2pcache.sources.oci.pushing import Pushing, Session

T = TypeVar("T")

WHOLE_BYTES = 8 << 20  # at most, in one request: repeated as a whole when it fails
PART_BYTES = 64 << 20  # of longer ones: a request a second at 64 MB/s
MAX_TRIES = 5  # in a row, of what brought nothing further
MAX_ANEW = 3  # sessions of one blob
FIRST_WAIT_S, MAX_WAIT_S = 0.5, 60.0  # between tries; what a registry asks for, no longer
_HASH_BYTES = 32
# How registries without parts of blobs refuse the first one.
_NO_PARTS = frozenset({400, 405, 411, 501})


class KeptUploads(Protocol):
    """`store.uploads.Uploads`, with the clock. Blocking."""

    def find(self, where: str, digest: str) -> str | None:
        """Where the next bytes go."""
        ...

    def keep(self, where: str, digest: str, location: str) -> None:
        """Remember that."""
        ...

    def drop(self, where: str, digest: str) -> None:
        """Forget it."""
        ...


@dataclass(frozen=True, slots=True)
class UploadOptions:
    """How blobs are sent."""

    ca_file: str | None = None
    rate_bytes_per_s: float | None = None  # of each blob that is under way
    whole_bytes: int = WHOLE_BYTES
    part_bytes: int = PART_BYTES


class Uploader:
    """Sends blobs to one repository. `send`: runs an order in a worker. `notes`: what the user
    should hear.
    """

    def __init__(
        self,
        pushing: Pushing,
        kept: KeptUploads,
        send: Callable[[BlobOrder], Awaitable[BlobReport]],
        options: UploadOptions,
    ) -> None:
        self.notes: dict[str, None] = {}  # each once, in order
        self._pushing = pushing
        self._kept = kept
        self._send = send
        self._options = options

    async def bring(self, blob: Blob, mounts: Sequence[str], slot: Slot | None) -> int:
        """Have the registry hold a blob; how many bytes of it went out. If cancelled, or killed,
        it goes on where it was. Raises by the table of `sources.oci.pushing`, and LocalFault.
        """
        sending = _Sending(self, blob, mounts, slot)
        if blob.size > self._options.whole_bytes:
            return await sending.in_parts()
        return await sending.whole()


class _Sending:
    """One blob on its way."""

    def __init__(
        self, of: Uploader, blob: Blob, mounts: Sequence[str], slot: Slot | None
    ) -> None:
        self._pushing = of._pushing
        self._kept = of._kept
        self._send = of._send
        self._options = of._options
        self._notes = of.notes
        self._blob = blob
        self._mounts = mounts
        self._slot = slot
        self._sent = 0

    async def whole(self) -> int:
        """In one request, of one session."""

        async def once() -> int:
            session = await self._pushing.begin(self._blob.digest, self._mounts)
            if session is None:
                return 0
            url = with_digest(session.location, self._blob.digest)
            reply = await self._request("PUT", url, 0, self._blob.size)
            if reply.status not in (201, 204):
                raise await self._refusal(reply, url)
            self._pushing.check_answer(reply.fields, self._blob.digest)
            return self._blob.size

        return await patiently(once)

    async def in_parts(self) -> int:
        """In parts of a session, from where it is."""
        for left in reversed(range(MAX_ANEW)):
            session, is_old = await self._session()
            if session is None:
                return self._sent
            try:
                if await self._fill(session):
                    break
                if not left:
                    raise Unavailable(f"{self._pushing.where} forgets uploads that have begun")
            except Untrusted:
                await self._drop()
                if not is_old:  # of an old session the first bytes may be to blame
                    raise
        await self._drop()
        return self._sent

    async def _session(self) -> tuple[Session | None, bool]:
        """The one that is kept, or a new one; None: the blob was mounted."""
        digest, where = self._blob.digest, self._pushing.where
        location = await trio.to_thread.run_sync(self._kept.find, where, digest)
        if location is not None:
            kept = location
            session = await patiently(lambda: self._pushing.resume(kept))
            if session is not None and session.received <= self._blob.size:
                return session, True
            self._notes[
                f"{where} does not know an upload any more that had begun: that blob was sent from "
                "its beginning"
            ] = None
            await self._drop()
        return await patiently(lambda: self._pushing.begin(digest, self._mounts)), False

    async def _fill(self, session: Session) -> bool:
        """Send what is missing, and close; False: the registry lost the session."""
        failures = 0
        while True:
            try:
                await self._keep(session.location)
                if session.received >= self._blob.size:
                    await patiently(lambda s=session: self._end(s))  # type: ignore[misc]
                    return True
                after = await self._part(session)
                if after is None:
                    return True
                failures = 0 if after.received > session.received else failures + 1
                session = after
            except _OutOfStep:
                failures += 1
            except Unavailable as exc:
                failures += 1
                if failures >= MAX_TRIES:
                    raise
                await trio.sleep(wait_s(failures, exc))
            else:
                continue
            if failures >= MAX_TRIES:
                return False
            location = session.location
            found = await patiently(lambda at=location: self._pushing.resume(at))  # type: ignore[misc]
            if found is None or found.received > self._blob.size:
                return False
            session = found

    async def _part(self, session: Session) -> Session | None:
        """Send one part; None: all of it went in one request, which closed the session."""
        options = self._options
        start = session.received
        end = min(start + max(options.part_bytes, session.least_chunk_bytes), self._blob.size)
        content_range = ("Content-Range", f"{start}-{end - 1}")
        reply = await self._request("PATCH", session.location, start, end, content_range)
        if reply.status in (202, 204):
            self._sent += end - start
            after = self._pushing.continued(reply.status, reply.fields, session.location)
            if after.received > end:
                raise Untrusted(f"{self._pushing.where} says that it got more than was sent")
            return after if "range" in reply.fields else _at(after, end)
        if reply.status == 416 or reply.status == 404:
            raise _OutOfStep
        if start == 0 and reply.status in _NO_PARTS and b"DIGEST" not in reply.body:
            return await self._without_parts()
        raise await self._refusal(reply, session.location)

    async def _without_parts(self) -> None:
        """A registry that takes a blob in one request alone."""
        self._notes[
            f"{self._pushing.where} takes no parts of blobs: an upload that is cut off begins anew"
        ] = None
        await self._drop()
        self._sent += await self.whole()

    async def _end(self, session: Session) -> None:
        await self._pushing.end(session, self._blob.digest)

    async def _request(
        self, method: str, url: str, start: int, end: int, *more: tuple[str, str]
    ) -> Reply:
        blob, fields = self._blob, await self._pushing.fields_for(url)
        first, last = start // LEAF_BYTES, -(-end // LEAF_BYTES)
        file = blob.file
        hashes = b"" if file is None else file.hashes[first * _HASH_BYTES : last * _HASH_BYTES]
        order = BlobOrder(
            method=method,
            url=url,
            fields=(*fields, *more),
            path="" if file is None else file.path,
            size=blob.size,
            start=start,
            end=end,
            hashes=hashes,
            tls=Tls(ca_file=self._options.ca_file),
            data=blob.data,
            rate_bytes_per_s=self._options.rate_bytes_per_s,
            counted=self._slot,
        )
        report = await self._send(order)
        if report.fault is not None:
            raise _error(report.fault)
        held = Held(authorization=dict(fields).get("Authorization"))
        return Reply(report.status, httpx.Headers(list(report.fields)), report.body, held)

    async def _refusal(self, reply: Reply, url: str) -> P2PCacheError:
        """The error for a refusal of a worker's request. A login that ended is renewed first, and
        then it is worth another try.
        """
        if reply.status == 401:
            await self._pushing.renew(url)
            if (await self._pushing.fields_for(url)) != _authorization(reply.held):
                return Unavailable(f"{self._pushing.where}: the login had ended, and was renewed")
        return self._pushing.refused(reply, self._blob.digest)

    async def _keep(self, location: str) -> None:
        digest, where = self._blob.digest, self._pushing.where
        await trio.to_thread.run_sync(self._kept.keep, where, digest, location)

    async def _drop(self) -> None:
        where = self._pushing.where
        await trio.to_thread.run_sync(self._kept.drop, where, self._blob.digest)


class _OutOfStep(Exception):
    """The registry has another number of bytes than we think."""


async def patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """Again and again while the registry is Unavailable, in growing steps. Cancel-safe."""
    for failures in range(1, MAX_TRIES):
        try:
            return await ask()
        except Unavailable as exc:
            await trio.sleep(wait_s(failures, exc))
    return await ask()


def wait_s(failures: int, exc: Unavailable) -> float:
    """How long to wait: as long as the registry asks, within bounds."""
    asked = exc.retry_after_s
    return min(FIRST_WAIT_S * 2 ** (failures - 1) if asked is None else asked, MAX_WAIT_S)


def _at(session: Session, received: int) -> Session:
    return type(session)(session.location, received, session.least_chunk_bytes)


def _authorization(held: Held) -> tuple[tuple[str, str], ...]:
    return () if held.authorization is None else (("Authorization", held.authorization),)


_ERRORS: dict[FaultKind, type[P2PCacheError]] = {
    FaultKind.DENIED: Denied,
    FaultKind.UNTRUSTED: Untrusted,
    FaultKind.LOCAL: LocalFault,
    FaultKind.DISK_FULL: DiskFull,
}


def _error(fault: Fault) -> P2PCacheError:
    if (kind := _ERRORS.get(fault.kind)) is None:
        return Unavailable(fault.message, retry_after_s=fault.retry_after_s)
    hint = None
    if kind is LocalFault:
        hint = "`p2pcache verify --repair` fetches damaged blocks again"
    return kind(fault.message, hint=hint)
