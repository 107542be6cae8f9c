"""Google Cloud Storage as an object store, by its JSON API.

A file goes in one session: part after part, for Google takes no two of one file at once there;
several files go side by side. The session's URI is kept on this disk with what Google has for
certain, so that a push goes on behind that after a crash. The object's MD5 is told at the start and
compared at the end, by Google and by us; our own blocks are verified before they go out.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import trio

from p2pcache.content.cloud_refs import GcsRef, gcs_text
from p2pcache.destinations.objects import gcs_calls as calls
from p2pcache.destinations.objects.folder import Folder
from p2pcache.destinations.objects.port import Stored
from p2pcache.destinations.objects.s3_calls import conflict
from p2pcache.errors import Conflict, Denied, LocalFault, NotFound, Untrusted, UsageError
from p2pcache.lanes.orders import Tls
from p2pcache.lanes.send_part import PartOrder, digest_of, hashes_of
from p2pcache.sources.gcs.listing import refused
from p2pcache.sources.gcs.login import GcsRequest
from p2pcache.sources.rest import Answer
from p2pcache.store.durable import local_faults

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from p2pcache.destinations.objects.port import Upload
    from p2pcache.destinations.sessions import Sessions
    from p2pcache.destinations.uploads import Count, Uploads
    from p2pcache.sources.gcs.listing import GcsObject
    from p2pcache.sources.gcs.options import GcsOptions
    from p2pcache.sources.port import GcsLogin

PART_BYTES = 16 << 20  # of one request, a multiple of 256 KiB: what a crash costs
WHOLE_BYTES = 1 << 20  # up to here a file is one request, and no session, where no rate is kept
MORE = 308  # "resume incomplete"
_RANGE = re.compile(r"bytes=0-([0-9]{1,19})")


@dataclass(frozen=True, slots=True)
class _Session:
    """`offset`: bytes that the store has for certain; `md5`: of all of them, in base64."""

    uri: str = field(repr=False)
    offset: int
    md5: str

    def encode(self) -> str:
        """As it is kept."""
        return json.dumps({"uri": self.uri, "offset": self.offset, "md5": self.md5})


def _decode(kept: str | None) -> _Session | None:
    """None for what is no session."""
    try:
        told = json.loads(kept or "")
        return _Session(str(told["uri"]), int(told["offset"]), str(told["md5"]))
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


class GcsStore(Folder):
    """A folder of a bucket. `run_sync` runs a plain function in an SDK worker."""

    name = "gcs"

    def __init__(
        self,
        ref: GcsRef,
        options: GcsOptions,
        login: GcsLogin | None,
        run_sync: Callable[..., Awaitable[Any]],
        uploads: Uploads,
        sessions: Sessions,
    ) -> None:
        self._request = GcsRequest(ref.bucket, options, login)
        super().__init__(calls, self._request, ref.key, run_sync, _stored)
        self._uploads = uploads
        self._sessions = sessions
        self.where = gcs_text(GcsRef(ref.bucket, ref.key)) + "/"
        self.endpoint = self._request.endpoint
        self.conditional = True

    async def aclose(self) -> None:
        """See the port."""

    async def put(self, upload: Upload, count: Count) -> str:
        """See the port."""
        if upload.size <= (0 if self._uploads.keeps_a_rate else WHOLE_BYTES):
            return await self._put_whole(upload, count)
        condition = upload.condition
        names = (
            f"{self.endpoint} {self.where}{upload.key}", f"{upload.sha256.hex()} {condition!r}"
        )  # fmt: skip
        kept = _decode(await trio.to_thread.run_sync(self._sessions.find, *names))
        if kept is not None and kept.offset < upload.size:
            count(kept.offset, resumed=True)
            try:
                made = await self._send_all(upload, kept, names, count)
                if await self._is_there(upload.key, made):
                    return made
            except NotFound:
                pass  # it ended, as they do after a week
        md5 = base64.b64encode(await trio.to_thread.run_sync(_md5, upload)).decode()
        key = self._prefix + upload.key
        uri = await self._ask(calls.begin, key, upload.size, upload.sha256, md5, condition)
        return await self._send_all(upload, _Session(uri, 0, md5), names, count)

    async def _put_whole(self, upload: Upload, count: Callable[[int], None]) -> str:
        data = await trio.to_thread.run_sync(_checked, upload)
        key = self._prefix + upload.key
        made = await self._ask(calls.put_small, key, data, upload.condition, upload.sha256)
        count(upload.size)
        return str(made)

    async def _is_there(self, key: str, generation: str) -> bool:
        """Whether an object is still what a session made: one whose last answer was lost goes on to
        answer with it, also when it is gone.
        """
        there = (await self.look([key])).get(key)
        return there is not None and there.version == generation

    async def _send_all(
        self,
        upload: Upload,
        session: _Session,
        names: tuple[str, str],
        count: Callable[[int], None],
    ) -> str:
        """The rest of a session; the generation that it makes."""
        while True:
            await trio.to_thread.run_sync(self._sessions.keep, *names, session.encode())
            try:
                answer = await self._send(upload, session, count)
                if answer.status != MORE:
                    break
                session = replace(session, offset=self._has(answer, upload, session))
            except (Conflict, NotFound, Denied, Untrusted, UsageError):
                await trio.to_thread.run_sync(self._sessions.drop, *names)  # it leads nowhere
                raise
        await trio.to_thread.run_sync(self._sessions.drop, *names)
        try:
            made = calls.written(answer, self.endpoint, upload.size, session.md5)
        except Untrusted:
            if (generation := calls.generation_of(answer)) is not None:
                await self._ask(calls.delete, self._prefix + upload.key, generation)
            raise
        return made.generation

    async def _send(
        self, upload: Upload, session: _Session, count: Callable[[int], None]
    ) -> Answer:
        """One part. Raises Conflict, NotFound (no such session), and by `rest.refusal`."""
        start = session.offset
        end = min(upload.size, start + PART_BYTES)
        told = f"bytes {start}-{end - 1}/{upload.size}"
        order = PartOrder(
            "PUT",
            session.uri,
            (("Content-Range", told), ("Content-Type", "application/octet-stream")),
            upload.path,
            start,
            end,
            hashes_of(upload.hashes, start, end),
            tls=Tls(ca_file=self._request.options.rest.ca_file),
        )
        report = await self._uploads.put(order, count)
        answer, name = Answer(report.status, report.headers, report.body), self.where + upload.key
        if answer.status in (200, 201, MORE):
            return answer
        if upload.condition is not None and answer.status == calls.FAILED:
            raise conflict(name)
        raise refused(answer, name, self.endpoint, login=True)

    def _has(self, answer: Answer, upload: Upload, session: _Session) -> int:
        """How much Google has. Raises Untrusted for less than it said, and for all."""
        found = _RANGE.fullmatch(answer.headers.get("range", ""))
        has = 0 if found is None else int(found[1]) + 1
        if not session.offset <= has < upload.size:
            raise Untrusted(f"{self.endpoint} lost track of {upload.key!r}", hint="push it again")
        return has


def _stored(one: GcsObject) -> Stored:
    return Stored(one.key, one.size, one.generation, one.sha256)


def _md5(upload: Upload) -> bytes:
    """Blocking: 2 s a GB. Raises LocalFault."""
    with local_faults(f"reading {upload.path}"):
        return digest_of(upload.path, 0, upload.size, "md5")


def _checked(upload: Upload) -> bytes:
    """All bytes of a small file. Blocking. Raises LocalFault, also for damaged ones."""
    with local_faults(f"reading {upload.path}"), open(upload.path, "rb") as stream:
        data = stream.read(upload.size + 1)
    if hashlib.sha256(data).digest() != upload.sha256:
        raise LocalFault(
            f"{upload.path} is damaged on this disk",
            hint="`p2pcache verify --repair` fetches damaged blocks again",
        )
    return data
