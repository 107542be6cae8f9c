"""Azure Blob Storage as a source.

Listing and the login run in a worker process (`listing.list_azure`, through the runner that the
constructor is given). Addresses are signed here with the account's key, one for each blob and anew
when one has expired; a SAS goes along as it was given, a token in a header. `If-Match` keeps two
versions apart.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from p2pcache.content.cloud_refs import AzureRef
from p2pcache.errors import UsageError
from p2pcache.lanes.orders import Location, Tls
from p2pcache.sources.azure.listing import AzureAnswer, list_azure, read_file_key
from p2pcache.sources.azure.login import AzureRequest, grant_azure
from p2pcache.sources.azure.sign import READ, AzureGrant
from p2pcache.sources.grants import Grants
from p2pcache.sources.port import SourceKind

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from p2pcache.content.refs import Ref
    from p2pcache.sources.azure.options import AzureOptions
    from p2pcache.sources.port import Credentials, Listing


class AzureSource:
    """The adapter. `run_sync` runs a plain function with one picklable argument."""

    name = "azure"
    kind = SourceKind.ORIGIN

    def __init__(
        self,
        run_sync: Callable[[Callable[[AzureRequest], Any], AzureRequest], Awaitable[Any]],
        options: AzureOptions,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._run_sync = run_sync
        self._options = options
        self._now = now
        self._grants: Grants[AzureGrant] = Grants(options.max_grants, self._usable_s)

    def accepts(self, ref: Ref) -> bool:
        """Whether the ref is of a container of Azure's."""
        return isinstance(ref, AzureRef)

    def endpoint(self, ref: Ref, credentials: Credentials) -> str:
        """The account's: the caller's or the configured one, else Azure's."""
        return self._request(ref, credentials).endpoint

    async def list(self, ref: Ref, credentials: Credentials) -> Listing:
        """What a blob or a folder holds now; raises by the table of `rest.refusal`.

        If cancelled, the worker may go on until its own deadline; nothing depends on it.
        """
        request = self._request(ref, credentials)
        answer: AzureAnswer = await self._run_sync(list_azure, request)
        self._grants.keep((request.account, credentials.azure), answer.grant)
        return answer.listing

    async def gives(self, ref: Ref, immutable: str | None, credentials: Credentials) -> bool:
        """Whether the ETags are what they were."""
        return immutable in (None, (await self.list(ref, credentials)).immutable)

    async def locate(self, listing: Listing, key: str, credentials: Credentials) -> Location:
        """A signed address for the listed version; no request is made while the login is fresh."""
        account, container, quoted, etag = read_file_key(key)
        request = AzureRequest(account, container, self._options, credentials.azure)

        async def renew() -> AzureGrant:
            grant: AzureGrant = await self._run_sync(grant_azure, request)
            return grant

        grant = await self._grants.get((account, credentials.azure), renew)
        query = grant.query(
            container, unquote(quoted), READ,
            now_unix_s=self._now(), valid_s=self._options.url_valid_s,
        )  # fmt: skip
        url = f"{request.endpoint}/{container}/{quoted}" + (f"?{query}" if query else "")
        sent = grant.headers() | ({} if etag is None else {"If-Match": f'"{etag}"'})
        return Location(url, tuple(sent.items()), Tls(ca_file=self._options.rest.ca_file))

    async def aclose(self) -> None:
        """Forget what signs."""
        self._grants.clear()

    def _usable_s(self, grant: AzureGrant) -> float:
        left_s = math.inf if grant.token is None else grant.token.usable_s(self._now())
        return min(self._options.grant_s, left_s)

    def _request(self, ref: Ref, credentials: Credentials) -> AzureRequest:
        if not isinstance(ref, AzureRef):
            raise UsageError(f"not a ref of Azure: {ref}")
        login = credentials.azure
        return AzureRequest(ref.account, ref.container, self._options, login, ref.key, ref.folder)
