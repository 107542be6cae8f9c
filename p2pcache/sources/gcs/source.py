"""Google Cloud Storage as a source.

Listing and the login run in a worker process (`listing.list_gcs`, through the runner that the
constructor is given). The bytes come with the same token; an address names the generation that was
listed, and another one never answers to it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from p2pcache.content.cloud_refs import GcsRef
from p2pcache.errors import UsageError
from p2pcache.lanes.orders import Location, Tls
from p2pcache.sources.gcs.listing import GcsAnswer, bearer, list_gcs, read_file_key
from p2pcache.sources.gcs.login import GcsRequest, token_gcs
from p2pcache.sources.grants import Grants
from p2pcache.sources.port import SourceKind

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from p2pcache.content.refs import Ref
    from p2pcache.sources.gcs.options import GcsOptions
    from p2pcache.sources.port import Credentials, GcsLogin, Listing
    from p2pcache.sources.tokens import Token


class GcsSource:
    """The adapter. `run_sync` runs a plain function with one picklable argument."""

    name = "gcs"
    kind = SourceKind.ORIGIN

    def __init__(
        self,
        run_sync: Callable[[Callable[[GcsRequest], Any], GcsRequest], Awaitable[Any]],
        options: GcsOptions,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._run_sync = run_sync
        self._options = options
        self._now = now
        self._tokens: Grants[Token | None] = Grants(options.max_grants, self._usable_s)

    def accepts(self, ref: Ref) -> bool:
        """Whether the ref is of a bucket of Google's."""
        return isinstance(ref, GcsRef)

    def endpoint(self, ref: Ref, credentials: Credentials) -> str:
        """The caller's or the configured one; else Google's."""
        return self._request(ref, credentials).endpoint

    async def list(self, ref: Ref, credentials: Credentials) -> Listing:
        """What a key or a folder holds now; raises by the table of `rest.refusal`.

        If cancelled, the worker may go on until its own deadline; nothing depends on it.
        """
        answer: GcsAnswer = await self._run_sync(list_gcs, self._request(ref, credentials))
        self._tokens.keep(credentials.gcs, answer.token)
        return answer.listing

    async def gives(self, ref: Ref, immutable: str | None, credentials: Credentials) -> bool:
        """Whether the generations are what they were."""
        return immutable in (None, (await self.list(ref, credentials)).immutable)

    async def locate(self, listing: Listing, key: str, credentials: Credentials) -> Location:
        """The listed generation, and a token; no request is made while that is fresh."""
        login = credentials.gcs
        bucket, quoted, generation = read_file_key(key)
        request = GcsRequest(bucket, self._options, login)

        async def renew() -> Token | None:
            token: Token | None = await self._run_sync(token_gcs, request)
            return token

        token = await self._tokens.get(login, renew)
        return object_location(
            request.endpoint, bucket, unquote(quoted), generation, token,
            self._options.rest.ca_file,
        )  # fmt: skip

    async def aclose(self) -> None:
        """Forget all tokens."""
        self._tokens.clear()

    def _usable_s(self, token: Token | None) -> float:
        most_s = self._options.grant_s
        return most_s if token is None else min(most_s, token.usable_s(self._now()))

    def _request(self, ref: Ref, credentials: Credentials) -> GcsRequest:
        if not isinstance(ref, GcsRef):
            raise UsageError(f"not a ref of Google Cloud Storage: {ref}")
        login: GcsLogin | None = credentials.gcs
        return GcsRequest(ref.bucket, self._options, login, ref.key, ref.generation, ref.folder)


def object_location(
    endpoint: str, bucket: str, key: str, generation: str, token: Token | None, ca_file: str | None
) -> Location:
    """Where one generation of an object is read."""
    path = f"/download/storage/v1/b/{quote(bucket)}/o/{quote(key, safe='')}"
    url = f"{endpoint}{path}?alt=media&generation={generation}"
    return Location(url, tuple(bearer(token).items()), Tls(ca_file=ca_file), pinned=True)
