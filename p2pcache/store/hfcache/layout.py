"""Names and paths of the Hugging Face cache, relative to its root, and where that root is.

models--org--name/
    blobs/<etag>                      sha256 (LFS) or git sha1 (others); may be a link into blobs/
    refs/main, refs/refs/pr/1         the commit, without a newline
    snapshots/<commit>/dir/file       -> ../../../blobs/<etag>
    trees/<commit>.json               every file of the commit: what "complete" means
    .no_exist/<commit>/dir/file       the Hub said that there is no such file
blobs/ab/<xet hash>                   payloads shared by all repositories
CACHEDIR.TAG  .locks/
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from p2pcache.content.names import safe_path
from p2pcache.errors import Untrusted, UsageError

REPO_TYPES = ("model", "dataset", "space")
TREE_FORMAT_VERSION = 1  # huggingface_hub ignores files that say anything else
CACHEDIR_TAG = "CACHEDIR.TAG"
CACHEDIR_TAG_TEXT = (
    b"Signature: 8a477f597d28d172789f06886806bc55\n"  # fixed by the standard, below
    b"# A cache directory tag: backup programs may skip this directory.\n"
    b"# See https://bford.info/cachedir/\n"
)
_SHA1 = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class RepoFolder:
    """The folder of one repository in the cache. UsageError for a type or an id that none has."""

    repo_type: str
    repo_id: str

    def __post_init__(self) -> None:
        if self.repo_type not in REPO_TYPES:
            raise UsageError(
                f"{self.repo_type!r} is not a repository type", hint=f"one of {REPO_TYPES}"
            )
        # `--` is the separator of the folder's name: with it, two repositories share a folder.
        try:
            safe_path(self.repo_id)
        except Untrusted as exc:
            raise UsageError(f"{self.repo_id!r} is not a repository id") from exc
        if self.repo_id.count("/") > 1 or "--" in self.repo_id:
            raise UsageError(f"{self.repo_id!r} is not a repository id")

    @property
    def name(self) -> str:
        """Of the folder: `models--org--name`."""
        return "--".join([f"{self.repo_type}s", *self.repo_id.split("/")])


def blob_path(etag_hex: str) -> str:
    """Below the repository's folder. Untrusted unless it is a sha256 or a git sha1."""
    if not is_etag(etag_hex):
        raise Untrusted(f"{etag_hex[:80]!a} is neither a sha256 nor a git sha1")
    return f"blobs/{etag_hex}"


def is_etag(name: str) -> bool:
    """Whether a file of this name in `blobs/` is a finished blob: no `.incomplete`, no `.tmp`."""
    return is_sha256(name) or is_git_sha1(name)


def is_sha256(name: str) -> bool:
    """Whether it is 64 lower-case hex digits: an LFS file's blob."""
    return _SHA256.fullmatch(name) is not None


def is_git_sha1(name: str) -> bool:
    """Whether it is 40 lower-case hex digits: a commit, or a regular file's blob."""
    return _SHA1.fullmatch(name) is not None


def check_commit(commit: str) -> str:
    """The commit itself; Untrusted unless it is 40 hex digits."""
    if not is_git_sha1(commit):
        raise Untrusted(f"{commit[:80]!a} is not a commit id")
    return commit


def snapshot_path(commit: str, path: str = "") -> str:
    """Below the repository's folder: a snapshot, or a file of it."""
    folder = f"snapshots/{check_commit(commit)}"
    return f"{folder}/{safe_path(path)}" if path else folder


def pointer_text(path: str, etag_hex: str) -> str:
    """What the symbolic link at `snapshot_path(commit, path)` says."""
    return "../" * (2 + path.count("/")) + blob_path(etag_hex)


def ref_path(revision: str) -> str:
    """Below the repository's folder: `main` is refs/main, `refs/pr/1` is refs/refs/pr/1."""
    return f"refs/{safe_path(revision)}"


def tree_path(commit: str) -> str:
    """Below the repository's folder: the list of every file of the commit."""
    return f"trees/{check_commit(commit)}.json"


def no_exist_path(commit: str, path: str = "") -> str:
    """Below the repository's folder: the mark that says that the commit has no such file."""
    folder = f".no_exist/{check_commit(commit)}"
    return f"{folder}/{safe_path(path)}" if path else folder
