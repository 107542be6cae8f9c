"""Keys of objects, relative to the prefix of a bucket, as hf-cache-sync 0.1.0 writes them. Pure.

    blobs/<etag>                                 sha256 (LFS) or git sha1 (others), as in a cache
    manifests/<org>__<name>@<commit>.json
    refs/<org>__<name>/<ref>                     the commit
    _p2pcache/refs/<type>s/<org>%2F<name>/<ref>  the same, of ours

`__` stands for `/`, and is a part of names, too; and a model and a dataset of one name share their
keys. So a manifest's own words count and not its key, and each ref is written under our key, too:
it is used where the shared one belongs to another repository.
"""

from __future__ import annotations

from urllib.parse import quote, unquote

from p2pcache.content.names import safe_path
from p2pcache.errors import Untrusted, UsageError
from p2pcache.store.hfcache.layout import REPO_TYPES, RepoFolder, blob_path, check_commit, is_etag

BLOBS, MANIFESTS, REFS = "blobs/", "manifests/", "refs/"
OURS = "_p2pcache/refs/"
MAIN = "main"


def blob_key(etag_hex: str) -> str:
    """Untrusted unless it is a sha256 or a git sha1."""
    return blob_path(etag_hex)


def shared_name(repo_id: str) -> str:
    """What stands for a repository, of whatever type, and maybe for others."""
    return repo_id.replace("/", "__")


def manifest_key(repo_id: str, commit: str) -> str:
    """Of one commit."""
    return f"{MANIFESTS}{shared_name(repo_id)}@{check_commit(commit)}.json"


def shared_ref_key(repo_id: str, ref: str) -> str:
    """The one that hf-cache-sync reads. Untrusted for a ref that is no safe name."""
    return f"{REFS}{shared_name(repo_id)}/{safe_path(ref)}"


def own_ref_key(repo: RepoFolder, ref: str) -> str:
    """Ours: no two repositories share it."""
    return f"{OURS}{repo.repo_type}s/{quote(repo.repo_id, safe='')}/{safe_path(ref)}"


def read_blob_key(key: str) -> str | None:
    """The name of a finished blob; None for anything else, such as what broke off."""
    name = key.removeprefix(BLOBS)
    return name if name != key and is_etag(name) else None


def read_manifest_key(key: str) -> tuple[str, str] | None:
    """The shared name and the commit; None for what is no manifest."""
    body = key.removeprefix(MANIFESTS).removesuffix(".json")
    if len(body) != len(key) - len(MANIFESTS) - len(".json"):
        return None
    name, at, commit = body.rpartition("@")
    try:
        return (name, check_commit(commit)) if at and name else None
    except Untrusted:
        return None


def read_shared_ref_key(key: str) -> tuple[str, str] | None:
    """The shared name and the ref."""
    if not key.startswith(REFS):
        return None
    name, slash, ref = key.removeprefix(REFS).partition("/")
    return (name, ref) if name and slash and _is_safe(ref) else None


def read_own_ref_key(key: str) -> tuple[RepoFolder, str] | None:
    """The repository and the ref."""
    parts = key.removeprefix(OURS).split("/", 2)
    if not key.startswith(OURS) or len(parts) != 3 or not _is_safe(parts[2]):
        return None
    repo_type = parts[0].removesuffix("s")
    try:
        repo = RepoFolder(repo_type, unquote(parts[1]))
    except UsageError:
        return None
    return (repo, parts[2]) if own_ref_key(repo, parts[2]) == key else None


def named_repo(name: str, repo_type: str | None = None) -> tuple[str, str | None]:
    """The id, and the type where one is said: `org/name`, with `datasets/` or the like before it
    as hf-cache-sync and our lists show it. Raises UsageError.
    """
    head, slash, rest = name.partition("/")
    said = head.removesuffix("s") if slash and head.endswith("s") else None
    if said in REPO_TYPES and "/" in rest:
        if repo_type not in (None, said):
            raise UsageError(f"`{name}` is a {said}, but the type that is given is {repo_type}")
        name, repo_type = rest, said
    repo = RepoFolder(repo_type or REPO_TYPES[0], name)
    return repo.repo_id, repo_type


def _is_safe(ref: str) -> bool:
    try:
        safe_path(ref)
    except Untrusted:
        return False
    return True
