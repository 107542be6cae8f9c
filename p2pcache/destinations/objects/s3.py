"""S3, and what speaks like it, as an object store.

boto3 lists, begins and completes uploads in a worker process (`s3_calls`); the bytes go by PUTs
that fetch workers sign and send (`lanes.send_part`), each signed over its sha256: every store that
checks signatures checks the bytes with them. A file of more than one part is an upload in parts,
each with its sha256 as S3's own checksum, too: that is how a part that went out before a crash is
known again, whoever sent it.
"""

from __future__ import annotations

import base64
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import trio

from p2pcache.content.push_record import SHA256_METADATA
from p2pcache.destinations.objects import s3_calls as calls
from p2pcache.destinations.objects.folder import Folder
from p2pcache.destinations.objects.port import Same, Stored
from p2pcache.destinations.objects.s3_calls import Part
from p2pcache.errors import P2PCacheError, Untrusted, plain_errors
from p2pcache.lanes.faults import xml_code
from p2pcache.lanes.orders import BLOCK_BYTES, Tls
from p2pcache.lanes.send_part import PartOrder, digest_of, hashes_of
from p2pcache.sources.headers import strong_etag
from p2pcache.sources.s3.client import request_for
from p2pcache.sources.s3.errors import Refusal, of_refusal
from p2pcache.sources.s3.listing import grant_s3
from p2pcache.sources.s3.options import PUBLIC_S3
from p2pcache.sources.s3.sign import object_url, signed_headers
from p2pcache.store.durable import local_faults

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from p2pcache.content.s3_refs import S3Ref
    from p2pcache.destinations.objects.port import Condition, Upload
    from p2pcache.destinations.uploads import Count, Uploads
    from p2pcache.lanes.send_part import PartReport
    from p2pcache.sources.port import AwsLogin
    from p2pcache.sources.s3.listing import S3Object
    from p2pcache.sources.s3.options import S3Options
    from p2pcache.sources.s3.sign import Grant

PART_BYTES = 16 << 20  # 16 of 300 MB; what a crash costs, four at once
MAX_PARTS = 9_000  # of the 10,000 of S3
ABORT_S = 3.0  # to say that an upload ends: whoever cancelled waits for it
CHECKS_AT_ONCE = 4  # threads that hash parts that may be there
SHA256_HEADER = "x-amz-checksum-sha256"


@dataclass(frozen=True)
class _Signed:
    """Signs a PUT of bytes by their sha256; S3 checks that, and keeps it."""

    checksum: ClassVar[str] = "sha256"
    grant: Grant = field(repr=False)
    url: str
    headers: tuple[tuple[str, str], ...]

    def __call__(self, digest: bytes) -> dict[str, str]:
        headers = dict(self.headers) | {SHA256_HEADER: base64.b64encode(digest).decode()}
        return signed_headers(
            self.grant, "PUT", self.url, headers, digest.hex(), now_unix_s=time.time()
        )


@dataclass(frozen=True, slots=True)
class _Begun:
    """An upload in parts. `have`: parts of our bytes that it has already, and no others; `others`:
    uploads of the same kind that broke off, and are not needed.
    """

    upload: str
    have: Mapping[int, Part] = field(default_factory=dict)
    others: tuple[str, ...] = ()


class S3Store(Folder):
    """A folder of a bucket. `run_sync` runs a plain function in an SDK worker, `put` an order in a
    fetch worker.
    """

    name = "s3"

    def __init__(
        self,
        ref: S3Ref,
        options: S3Options,
        login: AwsLogin | None,
        run_sync: Callable[..., Awaitable[Any]],
        uploads: Uploads,
    ) -> None:
        self._request = request_for(options, ref.bucket, login)
        super().__init__(calls, self._request, ref.key, run_sync, _stored)
        self._uploads = uploads
        self._ca_file = options.ca_file
        self._grant_s = options.grant_s
        self._granted: tuple[Grant, float] | None = None
        self._granting = trio.Lock()
        self.where = f"s3://{ref.bucket}/{self._prefix}"
        self.endpoint = self._request.bucket_options.endpoint or PUBLIC_S3
        self.conditional = True

    async def list(self) -> list[Stored]:
        """See the port."""
        found, grant = await self._ask(calls.list_below, self._prefix)
        self._keep(grant)
        return list(self._stored(found))

    async def get_many(self, keys: Sequence[str], most_bytes: int) -> dict[str, tuple[bytes, str]]:
        """See the port."""
        whole = tuple(self._prefix + key for key in keys)
        told = await self._ask(calls.get_many, whole, most_bytes)
        return {
            key.removeprefix(self._prefix): (data, version or "")
            for key, (data, version) in told.items()
        }

    async def put_small(self, key: str, data: bytes, condition: Condition) -> str:
        """See the port."""
        return self._written(await self._ask(calls.put_small, self._prefix + key, data, condition))

    async def aclose(self) -> None:
        """See the port."""
        self._granted = None

    async def put(self, upload: Upload, count: Count) -> str:
        """See the port."""
        if upload.size <= PART_BYTES:
            return await self._put_whole(upload, count)
        begun = await self._upload(upload)
        count(sum(part.size for part in begun.have.values()), resumed=True)
        version = await self._put_parts(upload, begun, count)
        if not begun.have or await self._is_named_right(upload, version):
            return version
        new: str = await self._ask(calls.begin, self._prefix + upload.key, upload.sha256)
        return await self._put_parts(replace(upload, condition=Same(version)), _Begun(new), count)

    async def _put_parts(self, upload: Upload, begun: _Begun, count: Callable[[int], None]) -> str:
        """Send what an upload lacks, and make an object of it; its version."""
        upload_id, parts = begun.upload, dict(begun.have)
        try:
            await self._send_parts(upload, upload_id, parts, count)
        except BaseException:
            if not parts:  # nobody could tell later that it is ours
                with trio.move_on_after(ABORT_S, shield=True), suppress(P2PCacheError):
                    await self._ask(calls.abort, self._prefix + upload.key, upload_id)
            raise
        complete = tuple(parts[number] for number in sorted(parts))
        return self._written(
            await self._ask(
                calls.complete,
                self._prefix + upload.key, upload_id, complete, upload.condition, begun.others,
            )
        )  # fmt: skip

    async def _is_named_right(self, upload: Upload, version: str) -> bool:
        """Whether the sha256 in the metadata is that of the bytes. An upload that broke off got it
        when it began, maybe for another file with the same first parts: no list tells that.
        """
        one = (await self.look([upload.key])).get(upload.key)
        return one is None or one.version != version or one.sha256 == upload.sha256

    async def _upload(self, upload: Upload) -> _Begun:
        """An upload for a file, with the parts that are there already."""
        key = self._prefix + upload.key
        begun = await self._ask(calls.begin_or_find, key, upload.sha256)
        self._keep(begun.grant)
        if begun.new is not None:
            return _Begun(begun.new)
        same = {one: await _unchanged(upload, parts) for one, parts in begun.uploads.items()}
        ours = [one for one, parts in begun.uploads.items() if 0 < len(parts) == len(same[one])]
        if not ours:
            return _Begun(await self._ask(calls.begin, key, upload.sha256))
        ours.sort(key=lambda one: len(same[one]))
        best = ours.pop()
        return _Begun(best, same[best], tuple(ours))

    # -- bytes ------------------------------------------------------------------------------------

    async def _put_whole(self, upload: Upload, count: Callable[[int], None]) -> str:
        condition = upload.condition if self.conditional else None
        kept = {f"x-amz-meta-{SHA256_METADATA}": upload.sha256.hex()}
        report = await self._send(
            upload, 0, upload.size, None, kept | calls.headers_of(condition), count
        )
        code = xml_code(report.body) or ""
        if condition is not None and calls.refuses_condition(report.status, code):
            self.conditional = False
            report = await self._send(upload, 0, upload.size, None, kept, count)
        elif calls.fails_condition(report.status, code, condition):
            raise calls.conflict(self.where + upload.key)
        return self._etag(report, upload.key)

    async def _send_parts(
        self,
        upload: Upload,
        upload_id: str,
        parts: dict[int, Part],
        count: Callable[[int], None],
    ) -> None:
        """Those that are not in `parts`, into it."""
        part_bytes = _part_bytes(upload.size)

        async def send(number: int) -> None:
            start = (number - 1) * part_bytes
            end = min(upload.size, start + part_bytes)
            query = {"partNumber": str(number), "uploadId": upload_id}
            report = await self._send(upload, start, end, query, {}, count)
            etag = self._etag(report, upload.key)
            parts[number] = Part(number, end - start, etag, report.headers.get(SHA256_HEADER))

        wanted = range(1, -(-upload.size // part_bytes) + 1)
        await self._uploads.each([partial(send, one) for one in wanted if one not in parts])

    async def _send(
        self,
        upload: Upload,
        start: int,
        end: int,
        query: dict[str, str] | None,
        headers: dict[str, str],
        count: Callable[[int], None],
    ) -> PartReport:
        async with self._uploads.turn:
            grant = await self._grant()
            url = object_url(grant, self._prefix + upload.key, query)
            order = PartOrder(
                "PUT",
                url,
                (),  # those that are signed say all
                upload.path,
                start,
                end,
                hashes_of(upload.hashes, start, end),
                _Signed(grant, url, tuple(headers.items())),
                Tls(ca_file=self._ca_file),
            )
            return await self._uploads.put_now(order, count)

    # -- answers ----------------------------------------------------------------------------------

    async def _ask(self, call: Callable[..., Any], *args: object) -> Any:  # noqa: ANN401
        region = None if self._granted is None else self._granted[0].region
        return await self._run_sync(call, replace(self._request, region=region), *args)

    async def _grant(self) -> Grant:
        async with self._granting:  # many parts begin at once, and one grant is for all
            if self._granted is None or trio.current_time() >= self._granted[1]:
                self._keep(await self._ask(grant_s3))
            assert self._granted is not None
            return self._granted[0]

    def _keep(self, grant: Grant) -> None:
        self._granted = grant, trio.current_time() + self._grant_s

    def _written(self, written: calls.Written) -> str:
        self.conditional = self.conditional and written.kept
        return written.version

    def _etag(self, report: PartReport, key: str) -> str:
        """The version that a PUT made. Raises by the table of `sources.s3.errors`."""
        name = self.where + key
        if report.status != 200:
            told = Refusal(report.status, xml_code(report.body) or "", report.headers)
            raise of_refusal(told, name, self.endpoint, signed=not self._anonymous)
        etag = strong_etag(report.headers.get("etag"))
        if etag is None:
            raise Untrusted(f"{self.endpoint} does not say which version of {name} it keeps")
        return etag

    @property
    def _anonymous(self) -> bool:
        return self._granted is not None and self._granted[0].access_key is None


def _stored(one: S3Object) -> Stored:
    return Stored(one.key, one.size, one.etag or "", one.sha256)


def _part_bytes(size: int) -> int:
    """The same for the same file, whoever sends it."""
    blocks = -(-size // (MAX_PARTS * BLOCK_BYTES))
    return max(PART_BYTES, blocks * BLOCK_BYTES)


async def _unchanged(upload: Upload, parts: tuple[Part, ...]) -> dict[int, Part]:
    """Those parts that are of this file, by their checksum. A store that has no sha256 of a part
    has its MD5 for an ETag, or it is sent again.
    """
    same: dict[int, Part] = {}
    part_bytes = _part_bytes(upload.size)

    async def check(part: Part) -> None:
        start = (part.number - 1) * part_bytes
        end = min(upload.size, start + part_bytes)
        if part.size == end - start > 0 and await trio.to_thread.run_sync(
            _is_of, part, upload.path, start, end
        ):
            same[part.number] = part

    todo = iter(parts)

    async def work() -> None:
        for part in todo:
            await check(part)

    with plain_errors():
        async with trio.open_nursery() as nursery:
            for _ in range(CHECKS_AT_ONCE):
                nursery.start_soon(work)
    return same


def _is_of(part: Part, path: str, start: int, end: int) -> bool:
    """Blocking. Raises LocalFault."""
    with local_faults(f"reading {path}"):
        if part.sha256 is None:
            return digest_of(path, start, end, "md5").hex() == part.etag
        return base64.b64encode(digest_of(path, start, end)).decode() == part.sha256
