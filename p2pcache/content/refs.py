"""Refs: what a user types, parsed once. Pure; nothing is asked of anybody here.

    hf://[datasets/|spaces/]org/name[@revision][/path]     org/name     https://huggingface.co/...
    https://host/path[#sha256=<hex>]     file:/path  ./path  ../path  /path  ~/path
    sha256:<hex>  <hex>     <cid>[/path]  /ipfs/<cid>[/path]     ipfs://<cid>[/path]
    s3://bucket[/key][@versionId]     r2://account.bucket[/key]     cw://bucket[/key]
    gs://bucket[/key][@generation]     az://account/container[/blob]     (`cloud_refs`)
    oci://host/name[:tag|@digest]     ollama://[host/]model[:tag]     (`registry_refs`)

In `ipfs://` and those of buckets, and in no other, `a%20b` is `a b`.

`canonical` gives one text for all spellings of one ref: the key of resolutions.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import quote, unquote, urlsplit

from p2pcache.content import cid as cids
from p2pcache.content import digests
from p2pcache.content.address_secrets import without_secrets
from p2pcache.content.cloud_refs import (
    AzureRef,
    GcsRef,
    azure_of_url,
    azure_text,
    gcs_text,
    parse_azure,
    parse_gcs,
)
from p2pcache.content.names import safe_path
from p2pcache.content.registry_refs import (
    OciRef,
    OllamaRef,
    canonical_oci,
    canonical_ollama,
    parse_oci,
    parse_ollama,
)
from p2pcache.content.s3_refs import STORES, S3Ref, parse_s3, s3_text
from p2pcache.errors import Untrusted, UsageError

RepoType = Literal["model", "dataset", "space"]

DEFAULT_REVISION = "main"
MAX_REF_CHARS = 8192
SHOWN_CHARS = 400  # of an error about a ref, which it quotes
KNOWN = (
    "hf://, s3://, r2://, cw://, gs://, az://, oci://, ollama://, https://, http://, file:, "
    "sha256:, ipfs://, a CID, org/name, or a path"
)
_HUB_HOSTS = {"huggingface.co", "www.huggingface.co", "hf.co"}
_PREFIX: dict[str, RepoType] = {"datasets": "dataset", "spaces": "space", "models": "model"}
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}")  # huggingface_hub validate_repo_id
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+-]{0,254}")  # git ref names that hubs give out
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class HfRef:
    """A repository of a Hugging Face hub, or one file or folder of it (`path`).

    `revision` None: the default branch. Which hub is the caller's choice, not a part of the name.
    """

    repo_type: RepoType
    repo_id: str
    revision: str | None = None
    path: str | None = None


@dataclass(frozen=True, slots=True)
class HttpRef:
    """A URL of a file, or of a folder (it ends with a slash). `sha256` (raw) is a pin:
    `#sha256=<hex>`. Who signed the URL is not a part of the name (`canonical`).
    """

    url: str
    sha256: bytes | None = None

    @property
    def is_folder(self) -> bool:
        """Whether it names a folder by an index page."""
        return urlsplit(self.url).path.endswith("/") or not urlsplit(self.url).path


@dataclass(frozen=True, slots=True)
class FileRef:
    """A file or folder of this machine, as typed (`~` and relative paths are the caller's)."""

    path: str


@dataclass(frozen=True, slots=True)
class DigestRef:
    """A blob by its multihash."""

    digest: bytes


@dataclass(frozen=True, slots=True)
class CidRef:
    """Content by its binary CID, or a path below it. `typed`: the CID as the user wrote it."""

    cid: bytes
    path: str | None = None
    typed: str = field(default="", compare=False)


Address = HttpRef | S3Ref | GcsRef | AzureRef | OciRef | OllamaRef
"""Refs that name the server themselves: whoever chooses one chooses whom we ask."""

Ref = HfRef | FileRef | DigestRef | CidRef | Address


def parse_ref(text: str, *, revision: str | None = None) -> Ref:
    """What a text means. `revision` (the --revision option) is for hub refs without one.

    Raises UsageError that says what was expected.
    """
    if not text or len(text) > MAX_REF_CHARS or any(ord(c) < 32 for c in text):
        raise UsageError("a ref is empty, over-long, or has control characters")
    if not _encodes(text, "surrogateescape"):  # what the system gives for names that are not UTF-8
        raise UsageError("a ref is not text")
    try:
        ref = _parse(text)
    except UsageError as exc:
        if len(exc.message) <= SHOWN_CHARS:
            raise
        raise UsageError(f"{exc.message[:SHOWN_CHARS]}...", hint=exc.hint) from exc
    if revision is None:
        return ref
    if not isinstance(ref, HfRef):
        raise UsageError(
            f"`{shown_ref(text)}` has no revisions", hint="--revision is for hf:// refs"
        )
    if ref.revision is not None and ref.revision != revision:
        raise UsageError(f"`{text}` already names the revision `{ref.revision}`")
    return HfRef(ref.repo_type, ref.repo_id, _revision(revision), ref.path)


def _parse(text: str) -> Ref:
    if is_ipfs_path(text):
        return _cid_ref(text)
    if text.startswith(("/ipns/", "ipns://")):
        raise _ipns(text)
    if text[0] in "/~" or text in (".", "..") or text.startswith(("./", "../")):
        return FileRef(text)
    if not _encodes(text, "strict"):
        raise UsageError("a ref is not UTF-8", hint="write the file's path, with / or ./ first")
    scheme, colon, rest = text.partition(":")
    if colon and re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):
        return _with_scheme(scheme.lower(), rest, text)
    if _SHA256.fullmatch(text):  # before CIDs: one in base16 has an odd number of letters
        return DigestRef(digests.sha256_digest(bytes.fromhex(text)))
    if cids.looks_like_cid(text.partition("/")[0]):
        return _cid_ref(text)
    if "/" in text:
        return _hub(text, text)
    raise UsageError(f"`{text}` is not a ref", hint=f"known: {KNOWN}")


def is_ipfs_path(text: str) -> bool:
    """Whether it is `/ipfs/<cid>`, which is no path of this machine."""
    word = text.removeprefix("/ipfs/").partition("/")[0]
    return text.startswith("/ipfs/") and cids.looks_like_cid(word)


def _encodes(text: str, errors: str) -> bool:
    try:
        text.encode("utf-8", errors)
    except UnicodeEncodeError:
        return False
    return True


def _with_scheme(scheme: str, rest: str, text: str) -> Ref:
    if scheme == "hf":
        return _hub(rest.removeprefix("//"), text)
    if scheme in ("http", "https"):
        return _url(text)
    if scheme == "file":
        return _file(rest, text)
    if scheme == "sha256":
        if not _SHA256.fullmatch(rest):
            raise UsageError(f"`{text}` is not a digest", hint="sha256: and 64 hex digits")
        return DigestRef(digests.sha256_digest(bytes.fromhex(rest)))
    if scheme == "s3":
        return parse_s3(rest, text)
    if scheme in STORES:
        return parse_s3(rest, text, scheme)
    if scheme in ("gs", "gcs"):
        return parse_gcs(rest, text)
    if scheme in ("az", "azure"):
        return parse_azure(rest, text)
    if scheme == "ipfs":
        return _ipfs_url(rest.removeprefix("//"), text)
    if scheme in ("oci", "docker"):  # skopeo's and podman's name for the same
        return parse_oci(rest, text)
    if scheme == "ollama":
        return parse_ollama(rest, text)
    raise UsageError(f"`{scheme}:` is not a known kind of ref", hint=f"known: {KNOWN}")


def _file(rest: str, text: str) -> FileRef:
    path = rest.removeprefix("//localhost") if rest.startswith("//localhost/") else rest
    path = path[2:] if path.startswith("///") else path
    if path.startswith("//") or not path:
        raise UsageError(f"`{text}` names another host or nothing", hint="file:/absolute/path")
    path = unquote(path, errors="surrogateescape")
    if "\0" in path:
        raise UsageError(f"`{text}` has a NUL: no file has one in its name")
    return FileRef(path)


def _cid_ref(text: str) -> CidRef:
    word, _, path = text.removeprefix("/ipfs/").partition("/")
    cid = cids.parse_cid(word)
    if cids.codec(cid) == cids.LIBP2P_KEY:
        raise _ipns(text)
    return CidRef(cid, _path(path) if path.strip("/") else None, typed=word)


def _ipns(typed: str) -> UsageError:
    return UsageError(
        f"`{typed}` is an IPNS name, which p2pcache does not resolve",
        hint="`ipfs name resolve` tells the CID that it means now: use that",
    )


def _ipfs_url(rest: str, typed: str) -> CidRef:
    """`<cid>[/path]`, each name of the path percent-encoded: none of them has a slash."""
    try:
        names = [unquote(name, errors="strict") for name in rest.split("/")]
    except UnicodeDecodeError as exc:
        raise UsageError(f"`{typed}` is not UTF-8 where it is percent-decoded") from exc
    if any("/" in name for name in names):
        raise UsageError(f"`{typed}` has %2F in a name: no file has a slash in its name")
    return _cid_ref("/".join(names))


def _hub(text: str, typed: str) -> HfRef:
    """`[datasets/|spaces/]org/name[@rev][/path]`; a name alone (gpt2) with hf:// or @ only."""
    head, at, tail = text.partition("@")
    parts = head.split("/")
    repo_type: RepoType = "model"
    if parts[0] in _PREFIX and len(parts) > 1:
        repo_type = _PREFIX[parts.pop(0)]
    if at:
        if len(parts) > 2:
            raise UsageError(f"`{typed}` has a path before its revision", hint="org/name@rev/path")
        revision, path = _split_revision(tail)
        return HfRef(repo_type, _repo("/".join(parts), typed), revision, path)
    path = "/".join(parts[2:])
    return HfRef(repo_type, _repo("/".join(parts[:2]), typed), None, _path(path) if path else None)


def _split_revision(tail: str) -> tuple[str, str | None]:
    """`rev/path`. `refs/pr/N` and `refs/convert/x` have slashes of their own; other revisions
    with a slash are written with %2F.
    """
    count = 3 if tail.startswith("refs/") else 1
    parts = tail.split("/")
    revision, path = "/".join(parts[:count]), "/".join(parts[count:])
    return _revision(unquote(revision)), _path(path) if path else None


def _repo(text: str, typed: str) -> str:
    parts = text.split("/")
    good = all(_NAME.fullmatch(p) and "--" not in p and ".." not in p for p in parts)
    if not 1 <= len(parts) <= 2 or not good:
        raise UsageError(f"`{typed}` does not name a repository", hint="hf://org/name[@revision]")
    return text


def _revision(text: str) -> str:
    if not _REVISION.fullmatch(text) or ".." in text or text.endswith("/"):
        raise UsageError(f"`{text}` is not a revision", hint="a branch, tag, commit or refs/pr/N")
    return text


def _path(text: str) -> str:
    try:
        return safe_path(text.rstrip("/"))
    except Untrusted as exc:
        raise UsageError(exc.message) from exc


def _url(text: str) -> Ref:
    try:
        url = urlsplit(text)
        host = (url.hostname or "").lower()
        _ = url.port  # a port that is no number raises here
    except ValueError as exc:
        raise UsageError(f"`{_shown(text)}` is not a URL: {exc}") from exc
    if not host:
        raise UsageError(f"`{_shown(text)}` has no host")
    if host in _HUB_HOSTS:
        return _hub_url(unquote(url.path).strip("/"), _shown(text))
    if "@" in url.netloc:
        raise UsageError(
            "a URL with a user name or password in it would be stored and shown",
            hint="leave it out",
        )
    if (blob := azure_of_url(text)) is not None:
        return blob
    pin = None
    if url.fragment:
        name, _, value = url.fragment.partition("=")
        if name != "sha256" or not _SHA256.fullmatch(value):
            raise UsageError(f"`#{url.fragment}` is not a pin", hint="#sha256= and 64 hex digits")
        pin = bytes.fromhex(value)
    return HttpRef(url._replace(scheme=url.scheme.lower(), fragment="").geturl(), pin)


def _shown(text: str) -> str:
    """A URL that may be none, as messages show it: without what may open something."""
    scheme, _, rest = text.partition("://")
    host, slash, path = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def _hub_url(path: str, typed: str) -> HfRef:
    parts = path.split("/")
    repo_type: RepoType = _PREFIX[parts.pop(0)] if parts[0] in _PREFIX else "model"
    verbs = [i for i, part in enumerate(parts) if part in ("blob", "resolve", "tree", "raw")]
    if not verbs or verbs[0] not in (1, 2):
        if len(parts) > 2:
            raise UsageError(f"`{typed}` is not a repository or a file of one")
        return HfRef(repo_type, _repo("/".join(parts), typed))
    at = verbs[0]
    repo = _repo("/".join(parts[:at]), typed)
    revision, file = _split_revision("/".join(parts[at + 1 :]) or DEFAULT_REVISION)
    return HfRef(repo_type, repo, revision, file)


def canonical(ref: Ref) -> str:
    """One text for one ref. `parse_ref` of it gives the ref back, with its revision filled in; of a
    URL without what signs it, for this is what is stored and shown.
    """
    match ref:
        case HfRef(repo_type, repo_id, revision, path):
            kind = "" if repo_type == "model" else repo_type + "s/"
            return _hub_text(f"hf://{kind}{repo_id}", revision or DEFAULT_REVISION, path)
        case HttpRef(url, sha256):
            plain = without_secrets(url)
            return plain if sha256 is None else f"{plain}#sha256={sha256.hex()}"
        case FileRef(path):
            path = "/" + path.lstrip("/") if path.startswith("/") else path
            return f"file:{quote(path, errors='surrogateescape')}"
        case S3Ref():
            return s3_text(ref)
        case GcsRef():
            return gcs_text(ref)
        case AzureRef():
            return azure_text(ref)
        case DigestRef(digest):
            return digests.describe(digest)
        case CidRef(cid, path):
            return _ipfs_text(cids.format_cid(cid), path)
        case OciRef():
            return canonical_oci(ref)
        case OllamaRef():
            return canonical_ollama(ref)


def shown_ref(text: str) -> str:
    """A ref as typed, for messages and receipts: of a URL without what signs it."""
    if text[:5].lower() not in ("http:", "https"):
        return text
    try:
        return without_secrets(text)
    except ValueError:  # no URL
        return _shown(text)


def as_typed(ref: DigestRef | CidRef) -> str:
    """The canonical text with the CID in the user's own spelling: for messages."""
    if isinstance(ref, CidRef) and ref.typed:
        return _ipfs_text(ref.typed, ref.path)
    return canonical(ref)


def _ipfs_text(cid: str, path: str | None) -> str:
    """Only what would be decoded is encoded: paths stay as people write them."""
    return f"ipfs://{cid}" + (f"/{path.replace('%', '%25')}" if path else "")


def at_commit(canonical_text: str, immutable: str | None) -> str | None:
    """The canonical text of what a ref means at a hub's commit, for ever; None for what is no ref
    of a hub, or where `immutable` is no commit.
    """
    ref = parse_ref(canonical_text)
    if not isinstance(ref, HfRef) or not _COMMIT.fullmatch(immutable or ""):
        return None
    return canonical(HfRef(ref.repo_type, ref.repo_id, immutable, ref.path))


def _hub_text(start: str, revision: str, path: str | None) -> str:
    shown = revision if revision.startswith("refs/") else revision.replace("/", "%2F")
    return f"{start}@{shown}" + (f"/{path}" if path else "")
