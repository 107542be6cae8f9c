"""Ask a Hugging Face Hub what a revision holds, with the huggingface_hub library.

`list_hf` is plain and synchronous, and its argument, result and errors pickle: the agent runs it
in a worker process, so that the library never becomes part of the agent's memory. The library is
imported inside the call for the same reason.

What a hostile or broken hub can do is bounded by `hf_guard`, and what it says is translated by
`hf_errors`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import quote

from p2pcache.content.digests import git_sha1_digest, sha256_digest
from p2pcache.content.names import safe_path
from p2pcache.errors import NotFound, Untrusted
from p2pcache.sources import headers
from p2pcache.sources.hf_errors import as_ours
from p2pcache.sources.hf_guard import guarded
from p2pcache.sources.port import ListedFile, Listing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

COMMIT_HEX_CHARS = 40


@dataclass(frozen=True, slots=True)
class HfListRequest:
    """One question to a hub. `path`: only this file, or what is below this folder. `commit_only`:
    which commit it is, and no files.
    """

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
    commit_only: bool = False
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
    with guarded(request), as_ours(request):
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
        if gated and not request.commit_only:
            _check_access(api, request)
        # a tuple here: a generator would be run down outside the bounds and the translation
        files = () if request.commit_only else tuple(_files(api, request, commit))
        # the library takes an empty object for an empty list
        if not (files or request.commit_only) and info.siblings:
            raise Untrusted(f"{request.endpoint} names files of {request.repo_id} and lists none")
    return Listing(
        source="hf",
        endpoint=request.endpoint,
        immutable=commit,
        mutable=request.revision != commit,
        files=files,
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


def _check_access(api: HfApi, request: HfListRequest) -> None:
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


def _files(api: HfApi, request: HfListRequest, commit: str) -> Iterator[ListedFile]:
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
    api: HfApi,
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


def _listed(entry: RepoFile, request: HfListRequest, commit: str) -> ListedFile:
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
