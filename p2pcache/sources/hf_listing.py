"""Ask a Hugging Face Hub what a revision holds, with the huggingface_hub library.

`list_hf` is plain and synchronous, and its argument, result and errors pickle: the agent runs it
in a worker process, so that the library never becomes part of the agent's memory. The library is
imported inside the call for the same reason.

The library leaves open what a hostile or broken hub can do: pages without end, bodies without end,
silence without a timeout, a next page on another host (with our token). `_Guard` closes that with
the hooks of the library's own HTTP client. Works with huggingface_hub 1.31 to 2.x (httpx, httpx2).
"""

from __future__ import annotations

import contextlib
import ssl
import threading
import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from p2pcache.content.digests import git_sha1_digest, sha256_digest
from p2pcache.content.names import safe_path
from p2pcache.errors import NotFound, Unavailable, Untrusted
from p2pcache.sources import headers
from p2pcache.sources.hf_errors import as_ours, refuse_status
from p2pcache.sources.port import ListedFile, Listing

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMIT_HEX_CHARS = 40


@dataclass(frozen=True, slots=True)
class HfListRequest:
    """One question to a hub. `path`: only this file, or what is below this folder."""

    endpoint: str
    repo_type: str  # "model", "dataset" or "space"
    repo_id: str
    revision: str
    path: str | None = None
    token: str | None = field(default=None, repr=False)
    ca_file: str | None = None
    request_timeout_s: float = 10.0  # the Hub answers in well under 1 s; its own client waits 10
    deadline_s: float = 120.0  # 1e6 files are 1000 pages at 0.1 s
    max_files: int = 1_000_000  # as a manifest
    max_body_bytes: int = 512 << 20  # of all replies together: 1e6 entries of 300 bytes, and room

    @property
    def url(self) -> str:
        """The repository's page, for people."""
        return f"{self.endpoint}/{url_prefix(self.repo_type)}{self.repo_id}"


def url_prefix(repo_type: str) -> str:
    """Where repositories of a type live below the endpoint: models have no prefix."""
    return "" if repo_type == "model" else f"{repo_type}s/"


def list_hf(request: HfListRequest) -> Listing:
    """Resolve the revision to a commit and list that commit's files.

    Raises NotFound (repository, revision, path), Denied (gated, private, refused token),
    Unavailable (429, 5xx, no connection), Untrusted (a reply that makes no sense), UsageError.
    Not cancellable from inside; bounded by `deadline_s` between and during replies.
    """
    with _guarded(request), as_ours(request):
        from huggingface_hub import HfApi

        api = HfApi(
            endpoint=request.endpoint,
            token=request.token or False,  # False: the library must not look for one by itself
            library_name="p2pcache",
        )
        info = api.repo_info(
            request.repo_id, revision=request.revision, repo_type=request.repo_type
        )
        commit = _commit(info.sha, request)
        gated = bool(getattr(info, "gated", False))
        if gated:
            _check_access(api, request)
        files = _files(api, request, commit)
    return Listing(
        source="hf",
        endpoint=request.endpoint,
        immutable=commit,
        mutable=request.revision != commit,
        files=tuple(files),
        gated=gated or bool(getattr(info, "private", False)),
        credential_used=request.token is not None,
    )


def _commit(sha: object, request: HfListRequest) -> str:
    if not _is_hex(sha, COMMIT_HEX_CHARS):
        raise Untrusted(f"{request.endpoint} names no commit for {request.revision!r}")
    commit = str(sha)
    if _is_hex(request.revision, COMMIT_HEX_CHARS) and request.revision != commit:
        raise Untrusted(
            f"{request.endpoint} was asked for commit {request.revision} and answered {commit}"
        )
    return commit


def _check_access(api: Any, request: HfListRequest) -> None:
    """Ask for the right to read before anything is planned: a gated repository lists publicly.

    A hub that does not know this call (404) will say no when the first file is fetched.
    """
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

    try:
        api.auth_check(request.repo_id, repo_type=request.repo_type)
    except GatedRepoError:
        raise
    except HfHubHTTPError as exc:
        if exc.response.status_code != 404:
            raise


def _files(api: Any, request: HfListRequest, commit: str) -> Iterator[ListedFile]:
    if request.path is None:
        yield from _tree(api, request, commit, None, recursive=True)
        return
    parent, _, _ = request.path.rpartition("/")
    for entry in _tree(api, request, commit, parent or None, recursive=False, folders=True):
        if entry.path == request.path:
            if entry.key:
                yield entry
            else:
                yield from _tree(api, request, commit, request.path, recursive=True)
            return
    raise NotFound(
        f"{request.repo_id} has no {request.path!r} at {request.revision!r}",
        hint=f"see what it has at {request.url}/tree/{quote(request.revision, safe='')}",
    )


def _tree(
    api: Any,
    request: HfListRequest,
    commit: str,
    below: str | None,
    *,
    recursive: bool,
    folders: bool = False,
) -> Iterator[ListedFile]:
    """The entries of one /tree question; with `folders` also these, with an empty key."""
    from huggingface_hub.hf_api import RepoFile

    entries = api.list_repo_tree(
        request.repo_id, below, recursive=recursive, revision=commit, repo_type=request.repo_type
    )
    for count, entry in enumerate(entries, 1):
        if count > request.max_files:
            raise Untrusted(f"{request.repo_id} lists more than {request.max_files} entries")
        if isinstance(entry, RepoFile):
            yield _listed(entry, request, commit)
        elif folders:
            yield ListedFile(safe_path(_text(entry.path)), None, None, key="")


def _listed(entry: Any, request: HfListRequest, commit: str) -> ListedFile:
    path = safe_path(_text(entry.path))
    if not _is_hex(entry.blob_id, 40):
        raise Untrusted(f"{request.endpoint} gives no git id for {path!r}")
    size = entry.size
    if entry.lfs is None:
        digest = git_sha1_digest(bytes.fromhex(entry.blob_id))
    elif _is_hex(entry.lfs.sha256, 64):
        size = entry.lfs.size
        digest = sha256_digest(bytes.fromhex(entry.lfs.sha256))
    else:
        raise Untrusted(f"{request.endpoint} gives no sha256 for {path!r}")
    if type(size) is not int or not 0 <= size <= headers.MAX_BLOB_BYTES:
        raise Untrusted(f"{request.endpoint} gives no size for {path!r}")
    return ListedFile(
        path=path,
        size=size,
        digest=digest,
        key=f"{url_prefix(request.repo_type)}{request.repo_id}/resolve/{commit}/{quote(path)}",
        oid=entry.blob_id,
        xet_hash=entry.xet_hash if _is_hex(entry.xet_hash, 64) else None,
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise Untrusted(f"a file name is {type(value).__name__}, not text")
    return value


def _is_hex(value: object, chars: int) -> bool:
    return isinstance(value, str) and len(value) == chars and not value.strip("0123456789abcdef")


@dataclass(slots=True)
class _Guard:
    """The bounds of the call that runs in this thread."""

    request: HfListRequest
    give_up_at: float  # monotonic
    body_bytes_left: int

    def before(self, asked: Any) -> None:
        """Runs before every request, redirects and further pages included."""
        self.in_time()
        if _origin(str(asked.url)) != _origin(self.request.endpoint):
            # the library follows a Link to the next page anywhere, with the token
            asked.headers.pop("authorization", None)
        # a compressed body could unfold to any size behind the byte budget
        asked.headers["accept-encoding"] = "identity"
        wait_s = self.request.request_timeout_s  # the library asks /tree without any timeout
        asked.extensions["timeout"] = dict.fromkeys(("connect", "read", "write", "pool"), wait_s)

    def after(self, response: Any) -> None:
        """Runs when the headers of a response are there and its body is not."""
        refuse_status(response, self.request)
        if headers.is_encoded(response.headers.get("content-encoding")):
            raise Untrusted(f"{self.request.endpoint} encodes a reply that was asked for plainly")
        response.stream = _bounded(response.stream, self)

    def in_time(self) -> None:
        if time.monotonic() > self.give_up_at:
            raise Unavailable(
                f"{self.request.endpoint} did not list {self.request.repo_id} "
                f"within {self.request.deadline_s:g} s"
            )

    def take(self, byte_count: int) -> None:
        self.in_time()
        self.body_bytes_left -= byte_count
        if self.body_bytes_left < 0:
            raise Untrusted(
                f"{self.request.endpoint} sends more than {self.request.max_body_bytes} bytes "
                f"to list {self.request.repo_id}"
            )


_guard: ContextVar[_Guard | None] = ContextVar("_guard", default=None)
_install_lock = threading.Lock()
_installed_for: list[str | None] = []  # the ca_file of the client that is installed, if any


@contextlib.contextmanager
def _guarded(request: HfListRequest) -> Iterator[None]:
    """Bind this call's bounds to the library's (process-wide) HTTP client."""
    with _install_lock:
        if _installed_for != [request.ca_file]:
            _install_client(request.ca_file)
            _installed_for[:] = [request.ca_file]
    guard = _Guard(request, time.monotonic() + request.deadline_s, request.max_body_bytes)
    token = _guard.set(guard)
    try:
        yield
    finally:
        _guard.reset(token)


def _install_client(ca_file: str | None) -> None:
    """Replace the library's client by one of the same kind with our hooks and authority."""
    import huggingface_hub
    from huggingface_hub import constants

    # Else every process asks the endpoint of its *environment* for a list of coding agents first,
    # which is neither the endpoint of this call nor anybody's wish.
    constants.HF_HUB_DISABLE_TELEMETRY = True
    plain = huggingface_hub.get_session()
    kind, library_hooks = type(plain), plain.event_hooks["request"]  # offline mode, request id

    def make() -> Any:
        context = None if ca_file is None else ssl.create_default_context(cafile=ca_file)
        return kind(
            verify=True if context is None else context,
            follow_redirects=True,
            timeout=None,
            event_hooks={"request": [*library_hooks, _before], "response": [_after]},
        )

    huggingface_hub.set_client_factory(make)


def _before(asked: Any) -> None:
    if (guard := _guard.get()) is not None:
        guard.before(asked)


def _after(response: Any) -> None:
    if (guard := _guard.get()) is not None:
        guard.after(response)


def _bounded(stream: Any, guard: _Guard) -> Any:
    """`stream`, counted. It must stay an instance of the HTTP library's own stream class."""
    base: Any = next(kind for kind in type(stream).__mro__ if kind.__name__ == "SyncByteStream")

    class Bounded(base):  # type: ignore[misc]
        def __iter__(self) -> Iterator[bytes]:
            for chunk in stream:
                guard.take(len(chunk))
                yield chunk

        def close(self) -> None:
            stream.close()

    return Bounded()


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
