"""From pointers to what p2pcache brings: a ref, a digest where there is one, a safe name. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from p2pcache.content import digests, refs
from p2pcache.content.names import safe_path
from p2pcache.content.patterns import Selection
from p2pcache.errors import P2PCacheError, Untrusted, UsageError
from p2pcache.formats.bptr.pointers import S3, Azure, Gcs, Http, Model, Pointer

if TYPE_CHECKING:
    from collections.abc import Mapping

_HEX64 = re.compile(r"[0-9a-f]{64}")
_HEX40 = re.compile(r"[0-9a-f]{40}")
_AZURE_URL = re.compile(r"https://([a-z0-9-]+)\.blob\.core\.windows\.net/(.*)")
_PUBLIC_HUB = "https://huggingface.co"


@dataclass(frozen=True, slots=True)
class Target:
    """One file to bring. `ref` is all of what it belongs to, `inner` its path there; None: the ref
    is this one file.

    `size` in bytes and `digest` (a multihash, None: only the arrived bytes can name it) are what
    the pointer promises. It is put at `path` (safe) below `folder`. `expired`: the URL in it works
    no more.
    """

    ref: refs.Ref
    inner: str | None
    folder: str
    path: str
    size: int
    digest: bytes | None
    secret: str
    expired: bool = False
    hashed_by: str = ""


def target_of(
    pointer: Pointer, folders: Mapping[str, str], now: float, hub: str | None = None
) -> Target:
    """What to bring for one pointer. `folders`: see `place_of`; `hub`: where the caller's hub is.

    Raises Untrusted (a name, a URL that makes no sense) and UsageError (a kind of storage that no
    source reads).
    """
    folder, path = place_of(pointer.file_name, folders)
    resolution = pointer.resolution
    digest = content_digest(pointer)
    ref, inner = _ref(pointer, digest, hub)
    expired = isinstance(resolution, Http) and resolution.expires_at <= now
    return Target(
        ref, inner, folder, path, pointer.size, digest, pointer.secret,
        # A hub's address has no signature that could end: it is made again.
        expired=expired and not isinstance(ref, refs.HfRef),
        hashed_by=pointer.hashtype,
    )  # fmt: skip


def place_of(file_name: str, folders: Mapping[str, str]) -> tuple[str, str]:
    """The folder and the safe path below it that a `file_name` means.

    `folders`: prefix of absolute names -> folder; "" is for relative ones. The longest prefix
    counts. Raises Untrusted for a name that would be elsewhere.
    """
    name = re.sub("/{2,}", "/", file_name)
    if not name.startswith("/"):
        return folders[""], safe_path(name)
    for prefix in sorted(filter(None, folders), key=len, reverse=True):
        if name.startswith(prefix.rstrip("/") + "/"):
            return folders[prefix], safe_path(name[len(prefix.rstrip("/")) + 1 :])
    raise Untrusted(
        f"the file name {file_name[:80]!a} is refused: it is absolute, and not below "
        f"{' or '.join(sorted(filter(None, folders)))}",
        hint="--model-path says which folder such names begin with",
    )


def content_digest(pointer: Pointer) -> bytes | None:
    """The multihash that a pointer's hash is, by its length; None where it is none of content.

    `sha256` is what it says. The ETag of a URL with 64 digits is a sha2-256 and one with 40 a git
    blob id: so Hugging Face's are, which is where truss-transfer takes them from. Buckets' ETags,
    MD5 sums and BLAKE3 are left aside.
    """
    kind, value = pointer.hashtype.lower(), pointer.hash.lower()
    if kind == "sha256" or (kind == "etag" and isinstance(pointer.resolution, Http)):
        if _HEX64.fullmatch(value):
            return digests.sha256_digest(bytes.fromhex(value))
        if kind == "etag" and _HEX40.fullmatch(value):
            return digests.git_sha1_digest(bytes.fromhex(value))
    return None


def _ref(pointer: Pointer, digest: bytes | None, hub: str | None) -> tuple[refs.Ref, str | None]:
    match pointer.resolution:
        case Http(url):
            return _of_url(url, digest, hub, pointer.file_name)
        case S3(bucket, key):
            text = f"s3://{bucket}/{quote(key)}"
        case Gcs(bucket, path):
            text = f"gs://{bucket}/{quote(path)}"
        case Azure(account, container, blob):
            text = f"az://{account}/{container}/{quote(blob)}"
    return parsed(text), None


def parsed(text: str) -> refs.Ref:
    """A ref that stands in a pointer file. Raises UsageError, which says that it cannot be read."""
    try:
        return refs.parse_ref(text)
    except UsageError as exc:
        raise UsageError(f"the pointer file names `{text[:200]}`: {exc.message}") from exc


def _of_url(
    url: str, digest: bytes | None, hub: str | None, file_name: str
) -> tuple[refs.Ref, str | None]:
    """A hub's `resolve` address is the file of a repository: any hub or mirror can give it."""
    text, below = url, (hub or "").rstrip("/") + "/"
    if hub and url.startswith(below):
        text = f"{_PUBLIC_HUB}/{url[len(below) :]}"
    try:
        if urlsplit(text).scheme not in ("http", "https"):
            raise UsageError("it is not http or https")
        ref = refs.parse_ref(text)
    except (P2PCacheError, ValueError) as exc:
        raise Untrusted(f"the URL of `{file_name[:80]}` makes no sense") from exc
    if isinstance(ref, refs.HfRef) and ref.path is not None:
        return refs.HfRef(ref.repo_type, ref.repo_id, ref.revision), ref.path
    if isinstance(ref, refs.HfRef):
        raise Untrusted(f"the URL of `{file_name[:80]}` names no file of its repository")
    assert isinstance(ref, refs.HttpRef)
    if ref.is_folder:
        raise Untrusted(f"the URL of `{file_name[:80]}` names no file")
    if digest is not None and digests.is_sha256(digest):
        return refs.HttpRef(ref.url, digests.raw(digest)), None
    return ref, None


def model_ref(model: Model) -> str:
    """The ref that a model means. A bucket's address counts whatever `kind` says."""
    repo = model.repo
    if found := _AZURE_URL.fullmatch(repo):
        return f"az://{found[1]}/{found[2]}"
    if repo.startswith("azure://"):
        return "az://" + repo.removeprefix("azure://")
    if repo.startswith(("s3://", "r2://", "cw://", "gs://", "az://")):
        return repo
    if model.kind != "http":
        raise UsageError(f"`{repo[:200]}` is no address of the kind {model.kind}")
    text = repo if "://" in repo else f"hf://{repo}"
    return f"{text}@{model.revision}" if model.revision else text


def model_selection(model: Model) -> Selection:
    """Which files of a model are wanted: `*` alone is a wildcard there, and crosses `/`."""
    return Selection(
        [_literal(pattern) for pattern in model.allow or ()],
        [_literal(pattern) for pattern in model.ignore or ()],
    )


def _literal(pattern: str) -> str:
    return re.sub(r"[\[?]", lambda found: f"[{found[0]}]", pattern)


def model_file_name(model_path: str, volume: str, path: str) -> str:
    """As truss-transfer joins them."""
    return "/".join(part for part in (model_path.rstrip("/"), volume.strip("/"), path) if part)
