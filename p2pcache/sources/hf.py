"""Hugging Face Hubs as a source: models, datasets and spaces of huggingface.co or a mirror.

Listing runs elsewhere (`hf_listing.list_hf` in a worker process, through the runner that the
constructor is given); locating is a pure function of the listing. Xet is left aside on purpose:
its hashes do not verify what we store, and plain /resolve always works.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from p2pcache.content.refs import HfRef
from p2pcache.errors import UsageError
from p2pcache.lanes.orders import Location, Tls
from p2pcache.sources.hf_listing import HfListRequest, list_hf
from p2pcache.sources.port import Credentials, SourceKind

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from p2pcache.content.refs import Ref
    from p2pcache.sources.port import Listing

PUBLIC_HUB = "https://huggingface.co"
DEFAULT_REVISION = "main"
MAX_TOKEN_CHARS = 4096  # Hub tokens have 37; OAuth ones up to about 2000


@dataclass(frozen=True, slots=True)
class HfOptions:
    """Where the Hub is and how it is asked."""

    endpoint: str = PUBLIC_HUB  # HF_ENDPOINT
    ca_file: str | None = None  # a private authority, instead of the system's
    request_timeout_s: float = 10.0  # see HfListRequest
    deadline_s: float = 120.0
    max_files: int = 1_000_000


class HfSource:
    """The Hugging Face adapter. `run_sync` runs a plain function with one picklable argument.

    A token comes from the caller's `Credentials`: it is the calling user's. It goes to the
    configured endpoint and nowhere else: a record of another hub is read without one.
    """

    name = "hf"
    kind = SourceKind.ORIGIN

    def __init__(
        self,
        run_sync: Callable[[Callable[[HfListRequest], Listing], HfListRequest], Awaitable[Listing]],
        options: HfOptions = HfOptions(),
    ) -> None:
        self._run_sync = run_sync
        self._options = options

    def accepts(self, ref: Ref) -> bool:
        """Whether the ref names a repository of a Hub."""
        return isinstance(ref, HfRef)

    def endpoint(self, ref: Ref, credentials: Credentials) -> str:
        """The caller's hub, else the configured one."""
        return normalised(credentials.hf_endpoint or self._options.endpoint)

    async def list(self, ref: Ref, credentials: Credentials) -> Listing:
        """Resolve a revision to a commit and list it (see `hf_listing.list_hf` for errors).

        If cancelled, the worker may go on until its own deadline; nothing depends on it.
        """
        return await self._run_sync(list_hf, self._request(ref, credentials))

    async def gives(self, ref: Ref, immutable: str | None, credentials: Credentials) -> bool:
        """Whether the hub has that commit still, whatever the branch means now: one request, which
        raises NotFound where it has not.
        """
        request = self._request(ref, credentials)
        request = replace(request, revision=immutable or request.revision, commit_only=True)
        listing = await self._run_sync(list_hf, request)
        return immutable in (None, listing.immutable)

    async def is_open(self, ref: HfRef, endpoint: str) -> bool:
        """Whether who brings no token may read a repository: it is neither gated nor private. One
        request. `endpoint`: of its hub; "": the configured one. Errors as of `list`: NotFound or
        Denied for what is private.
        """
        nobody = Credentials(hf_endpoint=endpoint or None)
        request = replace(self._request(ref, nobody), commit_only=True)
        return not (await self._run_sync(list_hf, request)).gated

    def _request(self, ref: Ref, credentials: Credentials) -> HfListRequest:
        if not isinstance(ref, HfRef):
            raise UsageError(f"not a Hugging Face ref: {ref}")
        endpoint = self.endpoint(ref, credentials)
        options = self._options
        return HfListRequest(
            endpoint=endpoint,
            repo_type=ref.repo_type,
            repo_id=ref.repo_id,
            revision=ref.revision or DEFAULT_REVISION,
            path=ref.path,
            token=self._token(endpoint, credentials),
            ca_file=options.ca_file,
            request_timeout_s=options.request_timeout_s,
            deadline_s=options.deadline_s,
            max_files=options.max_files,
        )

    async def locate(self, listing: Listing, key: str, credentials: Credentials) -> Location:
        """`{endpoint}/[datasets/|spaces/]id/resolve/{commit}/{path}`: no request is made."""
        token = self._token(listing.endpoint, credentials)
        authorization = () if token is None else (("Authorization", f"Bearer {token}"),)
        url = f"{listing.endpoint}/{key}"
        return Location(url, authorization, Tls(ca_file=self._options.ca_file))

    async def aclose(self) -> None:
        """Nothing is open."""

    def _token(self, endpoint: str, credentials: Credentials) -> str | None:
        if endpoint != normalised(credentials.hf_endpoint or self._options.endpoint):
            return None
        return usable_token(credentials.hf_token)


def normalised(endpoint: str) -> str:
    """An endpoint without its trailing slash. A path is kept: a gateway may live below one."""
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(
            f"not an endpoint: {endpoint[:200]!r}",
            hint="HF_ENDPOINT is like https://huggingface.co",
        )
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise UsageError("an endpoint has neither a password, a query nor a fragment")
    return endpoint.rstrip("/")


def usable_token(token: str | None) -> str | None:
    """The token without the newline that files end in. Raises UsageError if no header can hold it.

    The message never shows it.
    """
    token = (token or "").strip()
    if not token:
        return None
    if len(token) > MAX_TOKEN_CHARS or not (token.isascii() and token.isprintable()):
        raise UsageError("the Hugging Face token holds characters that no header can carry")
    return token
