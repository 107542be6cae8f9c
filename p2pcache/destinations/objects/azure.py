"""Azure Blob Storage as an object store.

A file of more than one part is staged block by block, and becomes a blob with the list of its
blocks. A block's id is made of the file's sha256 and its number, so that what was staged before a
crash is known again, whoever staged it. Every PUT has the MD5 of its bytes, which Azure compares;
our own blocks are verified by their sha256 before they go out.
"""

from __future__ import annotations

import base64
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote, urlencode

from p2pcache.content.cloud_refs import AzureRef, azure_text
from p2pcache.destinations.objects import azure_calls as calls
from p2pcache.destinations.objects.folder import Folder
from p2pcache.destinations.objects.port import Stored
from p2pcache.destinations.objects.s3_calls import conflict
from p2pcache.lanes.orders import BLOCK_BYTES, Tls
from p2pcache.lanes.send_part import PartOrder, hashes_of
from p2pcache.sources.azure.listing import refused
from p2pcache.sources.azure.login import AzureRequest, grant_azure
from p2pcache.sources.azure.sign import SEND, AzureGrant
from p2pcache.sources.grants import Grants
from p2pcache.sources.rest import Answer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from p2pcache.destinations.objects.port import Condition, Upload
    from p2pcache.destinations.uploads import Count, Uploads
    from p2pcache.sources.azure.listing import AzureBlob
    from p2pcache.sources.azure.options import AzureOptions
    from p2pcache.sources.port import AzureLogin

PART_BYTES = 16 << 20  # what a crash costs, so many at once; Azure takes 4000 MiB
MAX_PARTS = 50_000  # of Azure


@dataclass(frozen=True)
class _WithMd5:
    """Tells the MD5 of the bytes: Azure refuses others."""

    checksum: ClassVar[str] = "md5"

    def __call__(self, digest: bytes) -> dict[str, str]:
        return {"Content-MD5": base64.b64encode(digest).decode()}


class AzureStore(Folder):
    """A folder of a container. `run_sync` runs a plain function in an SDK worker."""

    name = "azure"

    def __init__(
        self,
        ref: AzureRef,
        options: AzureOptions,
        login: AzureLogin | None,
        run_sync: Callable[..., Awaitable[Any]],
        uploads: Uploads,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._request = AzureRequest(ref.account, ref.container, options, login)
        super().__init__(calls, self._request, ref.key, run_sync, _stored)
        self._uploads = uploads
        self._now = now
        self._grants: Grants[AzureGrant] = Grants(1, self._usable_s)
        self.where = azure_text(AzureRef(ref.account, ref.container, ref.key)) + "/"
        self.endpoint = self._request.endpoint
        self.conditional = True

    async def list(self) -> list[Stored]:
        """See the port."""
        found, grant = await self._ask(calls.list_below, self._prefix)
        self._grants.keep(None, grant)
        return list(self._stored(found))

    async def aclose(self) -> None:
        """See the port."""
        self._grants.clear()

    async def put(self, upload: Upload, count: Count) -> str:
        """See the port."""
        if upload.size <= PART_BYTES:
            return await self._put_whole(upload, count)
        key, part_bytes = self._prefix + upload.key, _part_bytes(upload.size)
        staged: dict[str, int] = await self._ask(calls.begun, key)
        ids = [
            calls.block_id(number, upload.sha256) for number in range(-(-upload.size // part_bytes))
        ]
        jobs: list[Callable[[], Awaitable[None]]] = []
        there_bytes = 0
        for number, one in enumerate(ids):
            start = number * part_bytes
            end = min(upload.size, start + part_bytes)
            if staged.get(one) == end - start:
                there_bytes += end - start
            else:
                jobs.append(partial(self._stage, upload, one, start, end, count))
        count(there_bytes, resumed=True)
        await self._uploads.each(jobs)
        condition = upload.condition
        made = await self._ask(calls.complete, key, tuple(ids), upload.sha256, condition)
        return str(made)

    async def _stage(
        self, upload: Upload, one: str, start: int, end: int, count: Callable[[int], None]
    ) -> None:
        fields = {"comp": "block", "blockid": one}
        await self._send(upload, start, end, fields, {}, None, count)

    async def _put_whole(self, upload: Upload, count: Callable[[int], None]) -> str:
        headers = {
            "x-ms-blob-type": "BlockBlob",
            "Content-Type": "application/octet-stream",
            calls.SHA256_HEADER: upload.sha256.hex(),
            **calls.headers_of(upload.condition),
        }
        condition = upload.condition
        answer = await self._send(upload, 0, upload.size, {}, headers, condition, count)
        return calls.etag_of(answer, self.where + upload.key)

    async def _send(
        self,
        upload: Upload,
        start: int,
        end: int,
        fields: dict[str, str],
        headers: dict[str, str],
        condition: Condition,
        count: Callable[[int], None],
    ) -> Answer:
        """One PUT. Raises Conflict, and by the table of `rest.refusal`."""
        async with self._uploads.turn:
            grant = await self._grants.get(None, self._renew)
            order = self._order(grant, upload, start, end, fields, headers)
            report = await self._uploads.put_now(order, count)
        answer, name = Answer(report.status, report.headers, report.body), self.where + upload.key
        if condition is not None and answer.status in calls.FAILED:
            raise conflict(name)
        if answer.status != 201:
            raise refused(answer, name, self.endpoint, login=grant.is_login)
        return answer

    def _order(
        self,
        grant: AzureGrant,
        upload: Upload,
        start: int,
        end: int,
        fields: dict[str, str],
        headers: dict[str, str],
    ) -> PartOrder:
        container, key = self._request.container, self._prefix + upload.key
        valid_s = self._request.options.url_valid_s
        login = grant.query(container, key, SEND, now_unix_s=self._now(), valid_s=valid_s)
        query = "&".join(filter(None, (urlencode(fields), login)))
        return PartOrder(
            "PUT",
            f"{self.endpoint}/{container}/{quote(key)}?{query}",
            tuple((grant.headers() | headers).items()),
            upload.path,
            start,
            end,
            hashes_of(upload.hashes, start, end),
            _WithMd5(),
            Tls(ca_file=self._request.options.rest.ca_file),
        )

    async def _renew(self) -> AzureGrant:
        grant: AzureGrant = await self._run_sync(grant_azure, self._request)
        return grant

    def _usable_s(self, grant: AzureGrant) -> float:
        most_s = self._request.options.grant_s
        return most_s if grant.token is None else min(most_s, grant.token.usable_s(self._now()))


def _stored(one: AzureBlob) -> Stored:
    return Stored(one.key, one.size, one.etag or "", one.sha256)


def _part_bytes(size: int) -> int:
    """The same for the same file, whoever sends it."""
    blocks = -(-size // (MAX_PARTS * BLOCK_BYTES))
    return max(PART_BYTES, blocks * BLOCK_BYTES)
