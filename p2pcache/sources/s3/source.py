"""S3 buckets as a source: Amazon's and every store that speaks the same (MinIO, R2, B2, Ceph).

Listing and the login are boto3's, in a worker process (`listing.list_s3`, through the runner
that the constructor is given); addresses are signed here (`sign`), one for each file and anew
when one has expired. A version that was listed is the one that is read: by its id where the bucket
keeps versions, else by `If-Match`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import trio

from p2pcache.content.s3_refs import S3Ref
from p2pcache.errors import UsageError
from p2pcache.lanes.orders import Location, Tls
from p2pcache.sources.port import SourceKind
from p2pcache.sources.s3.client import S3Request, bucket_options, request_for
from p2pcache.sources.s3.listing import S3Answer, grant_s3, list_s3, read_file_key
from p2pcache.sources.s3.options import PUBLIC_S3, S3Options
from p2pcache.sources.s3.sign import PAYER, Grant, signed_url

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from p2pcache.content.refs import Ref
    from p2pcache.sources.port import AwsLogin, Credentials, Listing


@dataclass(frozen=True, slots=True)
class _Kept:
    grant: Grant
    until: float  # on trio's clock


class S3Source:
    """The S3 adapter. `run_sync` runs a plain function with one picklable argument.

    A login that the caller brings is the caller's: what it signs is kept apart from what others'
    do, for some minutes and in memory alone.
    """

    name = "s3"
    kind = SourceKind.ORIGIN

    def __init__(
        self,
        run_sync: Callable[[Callable[[S3Request], Any], S3Request], Awaitable[Any]],
        options: S3Options,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._run_sync = run_sync
        self._options = options
        self._now = now
        self._grants: dict[tuple[str, AwsLogin | None], _Kept] = {}
        self._renewing = trio.Lock()

    def accepts(self, ref: Ref) -> bool:
        """Whether the ref is of a bucket."""
        return isinstance(ref, S3Ref)

    def endpoint(self, ref: Ref, credentials: Credentials) -> str:
        """The bucket's own, the caller's or the configured one; else Amazon's."""
        if not isinstance(ref, S3Ref):
            raise UsageError(f"not a ref of S3: {ref}")
        return bucket_options(self._options, ref.bucket, credentials.aws).endpoint or PUBLIC_S3

    async def list(self, ref: Ref, credentials: Credentials) -> Listing:
        """What a key or a folder holds now; raises by the table of `errors`.

        If cancelled, the worker may go on until its own deadline; nothing depends on it.
        """
        return (await self._ask(ref, credentials, heads=True)).listing

    async def gives(self, ref: Ref, immutable: str | None, credentials: Credentials) -> bool:
        """Whether the ETags are what they were: pages of a list, and no object is asked."""
        answer = await self._ask(ref, credentials, heads=False)
        return immutable in (None, answer.listing.immutable)

    async def locate(self, listing: Listing, key: str, credentials: Credentials) -> Location:
        """A signed address for the listed version; no request is made while the login is fresh."""
        bucket, quoted, version, etag = read_file_key(key)
        grant = await self._grant(bucket, credentials.aws)
        url = signed_url(
            grant, unquote(quoted), version,
            now_unix_s=self._now(), valid_s=self._options.url_valid_s,
        )  # fmt: skip
        sent: tuple[tuple[str, str], ...] = (PAYER,) if grant.requester_pays else ()
        if etag is not None:
            sent = (*sent, ("If-Match", f'"{etag}"'))
        return Location(url, sent, Tls(ca_file=self._options.ca_file))

    async def aclose(self) -> None:
        """Forget what signs."""
        self._grants.clear()

    async def _ask(self, ref: Ref, credentials: Credentials, *, heads: bool) -> S3Answer:
        if not isinstance(ref, S3Ref):
            raise UsageError(f"not a ref of S3: {ref}")
        request = self._request(ref.bucket, credentials.aws)
        request = replace(request, key=ref.key, version=ref.version, folder=ref.folder, heads=heads)
        answer: S3Answer = await self._run_sync(list_s3, request)
        self._keep(ref.bucket, credentials.aws, answer.grant)
        return answer

    async def _grant(self, bucket: str, login: AwsLogin | None) -> Grant:
        async with self._renewing:  # many files are located at once, and one grant is for all
            kept = self._grants.get((bucket, login))
            if kept is not None and trio.current_time() < kept.until:
                return kept.grant
            grant: Grant = await self._run_sync(grant_s3, self._request(bucket, login))
            self._keep(bucket, login, grant)
            return grant

    def _keep(self, bucket: str, login: AwsLogin | None, grant: Grant) -> None:
        self._grants.pop((bucket, login), None)
        while len(self._grants) >= self._options.max_grants:
            del self._grants[next(iter(self._grants))]  # the oldest
        until = trio.current_time() + self._options.grant_s
        self._grants[bucket, login] = _Kept(grant, until)

    def _request(self, bucket: str, login: AwsLogin | None) -> S3Request:
        kept = self._grants.get((bucket, login))
        found = None if kept is None else kept.grant.region  # a bucket stays in its region
        return request_for(self._options, bucket, login, found)
