"""One blob into a repository: in one request where it is small, else in parts of one session.

Where a session's next bytes go is written down before they are sent: after a crash the registry is
asked how far it came. One that forgot, or cannot say, gets the blob from its beginning.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import httpx
import trio

from p2pcache.errors import P2PCacheError, Unavailable, Untrusted
from p2pcache.lanes.orders import FetchLimits, Tls
from p2pcache.lanes.send_part import PartOrder, hashes_of
from p2pcache.sources.oci.access import Held
from p2pcache.sources.oci.pushing import with_digest
from p2pcache.sources.oci.registry import Reply

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from p2pcache.destinations.registry.image import Blob
    from p2pcache.destinations.sessions import Sessions
    from p2pcache.destinations.uploads import Sent, Uploads
    from p2pcache.sources.oci.pushing import Pushing, Session

T = TypeVar("T")

WHOLE_BYTES = 8 << 20  # at most, in one request: repeated as a whole when it fails
PART_BYTES = 32 << 20  # of longer ones: what is lost where a registry drops what was cut off
SILENT_S = 60.0  # without taking a byte, or an answer: its disk may be flushing
MAX_TRIES = 5  # in a row, of what brought nothing further
MAX_ANEW = 3  # sessions of one blob
FIRST_WAIT_S, MAX_WAIT_S = 0.5, 60.0  # between tries; what a registry asks for, no longer
# How registries without parts of blobs refuse the first one.
_NO_PARTS = frozenset({400, 405, 411, 501})


@dataclass(frozen=True, slots=True)
class UploadOptions:
    """How blobs are sent."""

    ca_file: str | None = None
    whole_bytes: int = WHOLE_BYTES
    part_bytes: int = PART_BYTES
    first_wait_s: float = FIRST_WAIT_S
    silent_s: float = SILENT_S


class Patience:
    """Asks again while a registry is Unavailable, in growing steps or as it says. Cancel-safe."""

    def __init__(self, first_wait_s: float = FIRST_WAIT_S) -> None:
        self._first_wait_s = first_wait_s

    async def ask(self, once: Callable[[], Awaitable[T]]) -> T:
        """At most MAX_TRIES times."""
        for failures in range(1, MAX_TRIES):
            try:
                return await once()
            except Unavailable as exc:
                await self.wait(failures, exc)
        return await once()

    async def wait(self, failures: int, exc: Unavailable) -> None:
        """Before the next try."""
        asked = exc.retry_after_s
        wait_s = self._first_wait_s * 2 ** (failures - 1) if asked is None else asked
        await trio.sleep(min(wait_s, MAX_WAIT_S))


class Uploader:
    """Sends blobs to one repository. `sent` hears of their bytes. `notes`: what the user should
    hear.
    """

    def __init__(
        self,
        pushing: Pushing,
        kept: Sessions,
        uploads: Uploads,
        options: UploadOptions,
        sent: Sent,
    ) -> None:
        self.pushing = pushing
        self.kept = kept
        self.uploads = uploads
        self.sent = sent
        self.options = options
        self.patience = Patience(options.first_wait_s)
        self.notes: dict[str, None] = {}  # each once, in order

    async def bring(self, blob: Blob, mounts: Sequence[str]) -> int | None:
        """Have the registry hold a blob; how many bytes of it went out, None: it was mounted. If
        cancelled, or killed, it goes on where it was. Raises by the table of `sources.oci.pushing`,
        and LocalFault.
        """
        sending = _Sending(self, blob, mounts)
        if blob.size > self.options.whole_bytes:
            return await sending.in_parts()
        return await sending.whole()


class _Sending:
    """One blob on its way."""

    def __init__(self, of: Uploader, blob: Blob, mounts: Sequence[str]) -> None:
        self._of = of
        self._pushing = of.pushing
        self._patience = of.patience
        self._blob = blob
        self._mounts = mounts
        self._count = of.sent.of_file()
        self._keeps = False
        self._sent = 0

    async def whole(self) -> int | None:
        """In one request, of one session."""
        tried = False

        async def once() -> int | None:
            nonlocal tried
            if tried and await self._is_there():
                return self._blob.size
            tried = True
            return await self._whole_once()

        return await self._patience.ask(once)

    async def in_parts(self) -> int | None:
        """In parts of a session, from where it is."""
        key, busy = (self._pushing.where, self._blob.digest), self._of.kept.busy
        if key in busy:
            return await self._in_parts(None)
        busy.add(key)
        self._keeps = True
        try:
            return await self._in_parts(await self._kept_session())
        finally:
            busy.discard(key)

    async def _in_parts(self, session: Session | None) -> int | None:
        was_kept = session is not None
        for _ in range(MAX_ANEW):
            session = session or await self._patience.ask(self._begin)
            if session is None:
                return None
            try:
                if await self._fill(session) or await self._is_there():
                    await self._drop()
                    return self._sent
            except _NoParts:
                self._note("takes no parts of blobs: an upload that is cut off begins anew")
                await self._drop()
                return await self.whole()
            except Untrusted:
                await self._drop()
                if not was_kept:
                    raise
            session, was_kept = None, False  # of an old one the first bytes may be to blame
        raise Unavailable(f"{self._pushing.where} forgets uploads that have begun")

    async def _whole_once(self) -> int | None:
        session = await self._begin()
        if session is None:
            return None
        url = with_digest(session.location, self._blob.digest)
        reply = await self._request("PUT", url, 0, self._blob.size)
        if reply.status not in (201, 204):
            raise await self._refusal(reply, url)
        self._pushing.check_answer(reply.fields, self._blob.digest)
        return self._blob.size

    async def _begin(self) -> Session | None:
        return await self._pushing.begin(self._blob.digest, self._mounts)

    async def _is_there(self) -> bool:
        """Whether only the registry's last answer was lost."""
        return await self._pushing.has_blob(self._blob.digest, self._blob.size)

    async def _kept_session(self) -> Session | None:
        """The one of an earlier push, where the registry knows it still."""
        where = self._pushing.where
        location = await trio.to_thread.run_sync(self._of.kept.find, where, self._blob.digest)
        if location is None:
            return None
        session = await self._patience.ask(partial(self._pushing.resume, location))
        if session is not None and session.received <= self._blob.size:
            self._count(session.received, resumed=True)
            return session
        self._note("does not know an upload any more that had begun: that blob was sent anew")
        return None

    async def _fill(self, session: Session) -> bool:
        """Send what is missing, and close it; False: the registry lost the session."""
        failures, most = 0, session.received
        while True:
            await self._keep(session.location)
            try:
                if session.received == self._blob.size:
                    await self._pushing.end(session, self._blob.digest)
                    return True
                sent = await self._part(session)
                if sent.received <= session.received:
                    raise Unavailable(f"{self._pushing.where} takes bytes, and has no more of them")
                after: Session | None = sent
            except Unavailable as exc:
                failures += 1
                if failures == MAX_TRIES:
                    raise
                await self._patience.wait(failures, exc)
                after = await self._patience.ask(partial(self._pushing.resume, session.location))
            if after is None or after.received > self._blob.size:
                return False
            if after.received > most:
                failures, most = 0, after.received
            session = after

    async def _part(self, session: Session) -> Session:
        """Send one part. Raises Unavailable also where the registry has another number of bytes
        than we think.
        """
        options = self._of.options
        start = session.received
        end = min(start + max(options.part_bytes, session.least_chunk_bytes), self._blob.size)
        content_range = ("Content-Range", f"{start}-{end - 1}")
        reply = await self._request("PATCH", session.location, start, end, content_range)
        if reply.status in (202, 204):
            self._sent += end - start
            after = self._pushing.continued(reply.status, reply.fields, session.location)
            return after if "range" in reply.fields else replace(after, received=end)
        if reply.status in (404, 416):
            raise Unavailable(f"{self._pushing.where} does not go on with an upload where it was")
        if start == 0 and reply.status in _NO_PARTS and b"DIGEST" not in reply.body:
            raise _NoParts
        raise await self._refusal(reply, session.location)

    async def _request(
        self, method: str, url: str, start: int, end: int, *more: tuple[str, str]
    ) -> Reply:
        blob, fields = self._blob, await self._pushing.fields_for(url)
        file, options = blob.file, self._of.options
        order = PartOrder(
            method,
            url,
            (("Content-Type", "application/octet-stream"), *fields, *more),
            path="" if file is None else file.path,
            start=start,
            end=end,
            hashes=b"" if file is None else hashes_of(file.hashes, start, end),
            tls=Tls(ca_file=options.ca_file),
            data=blob.data,
            limits=FetchLimits(options.silent_s, options.silent_s, floor_bytes_per_s=0.0),
        )
        report = await self._of.uploads.put(order, self._count)
        held = Held(authorization=dict(fields).get("Authorization"))
        return Reply(report.status, httpx.Headers(report.headers), report.body, held)

    async def _refusal(self, reply: Reply, url: str) -> P2PCacheError:
        """The error for a refusal of a worker's request. A login that ended is renewed first, and
        then it is worth another try.
        """
        if reply.status == 401:
            await self._pushing.renew(url)
            fields = dict(await self._pushing.fields_for(url))
            if fields.get("Authorization") != reply.held.authorization:
                return Unavailable(f"{self._pushing.where}: the login had ended, and was renewed")
        return self._pushing.refused(reply, self._blob.digest)

    def _note(self, text: str) -> None:
        self._of.notes[f"{self._pushing.where} {text}"] = None

    async def _keep(self, location: str) -> None:
        digest, where = self._blob.digest, self._pushing.where
        if self._keeps:
            await trio.to_thread.run_sync(self._of.kept.keep, where, digest, location)

    async def _drop(self) -> None:
        where = self._pushing.where
        if self._keeps:
            await trio.to_thread.run_sync(self._of.kept.drop, where, self._blob.digest)


class _NoParts(Exception):
    """The registry takes a blob in one request alone."""
