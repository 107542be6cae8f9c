"""What lies in such a bucket besides blobs: manifests, and refs. Bounded; only Untrusted comes out.

hf-cache-sync refuses a manifest whose files have more fields than three, so none is added.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from p2pcache.content import digests
from p2pcache.content.manifest import MAX_FILE_BYTES, MAX_FILES, FileEntry, Manifest
from p2pcache.errors import Untrusted, UsageError
from p2pcache.formats.hf_cache_sync.layout import manifest_key
from p2pcache.store.hfcache.layout import RepoFolder, blob_path, check_commit, is_sha256

MAX_MANIFEST_BYTES = 64 << 20  # 400,000 files of 160 bytes, indented as they are
MAX_REF_BYTES = 100  # 40 digits, and what an editor adds
MAX_VALUES = 5_000_000  # of JSON: four a file of 400,000 and commas in names; 60 bytes or so each
_SHOWN_CHARS = 100


@dataclass(frozen=True, slots=True)
class BucketFile:
    """One file. `blob`: the hex digits of its sha256, or of git's sha1, in lower case."""

    path: str
    blob: str
    size: int

    @property
    def digest(self) -> bytes:
        """As a multihash."""
        raw = bytes.fromhex(self.blob)
        is_whole = is_sha256(self.blob)
        return digests.sha256_digest(raw) if is_whole else digests.git_sha1_digest(raw)


@dataclass(frozen=True, slots=True)
class BucketManifest:
    """The files of one commit that are in the bucket, by path. It may have more."""

    repo: RepoFolder
    commit: str
    files: tuple[BucketFile, ...]

    @property
    def key(self) -> str:
        """Where it lies."""
        return manifest_key(self.repo.repo_id, self.commit)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def parse_manifest(data: bytes, key: str) -> BucketManifest:
    """What a manifest says. `key` is for messages. Raises Untrusted, and then nothing of it counts.

    Every name has passed its check: no path leaves its folder, every blob is named by a digest.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise Untrusted(f"{key} has more than {MAX_MANIFEST_BYTES} bytes")
    if data.count(b",") + data.count(b"[") + data.count(b"{") > MAX_VALUES:
        raise Untrusted(f"{key} has more than {MAX_VALUES} values")  # it would fill the memory
    try:
        top = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise Untrusted(f"{key} is not JSON") from exc
    if not isinstance(top, dict) or not isinstance(top.get("files"), list):
        raise Untrusted(f"{key} is no manifest: it has no list of files")
    if len(top["files"]) > MAX_FILES:
        raise Untrusted(f"{key} lists more than {MAX_FILES} files")
    try:
        repo = RepoFolder(_text(top, "repo_type", key, "model"), _text(top, "repo", key))
    except UsageError as exc:
        raise Untrusted(f"{key}: {exc.message}") from exc
    files = [_file(entry, key) for entry in top["files"]]
    # also refuses a path that is listed twice, or as a file and a folder
    Manifest.from_entries(FileEntry(file.path, file.size, file.digest) for file in files)
    ordered = tuple(sorted(files, key=lambda file: file.path))
    return BucketManifest(repo, check_commit(_text(top, "revision", key)), ordered)


def manifest_bytes(manifest: BucketManifest) -> bytes:
    """As hf-cache-sync writes it."""
    document = {
        "repo": manifest.repo.repo_id,
        "revision": manifest.commit,
        "repo_type": manifest.repo.repo_type,
        "files": [{"path": f.path, "blob": f.blob, "size": f.size} for f in manifest.files],
    }
    return json.dumps(document, indent=2).encode()


def merged(ours: BucketManifest, theirs: BucketManifest) -> BucketManifest:
    """Both lists of one commit's files as one: a cache may have a part of a repository. Raises
    Untrusted where they call one file by two digests: a commit has one content.
    """
    by_path = {file.path: file for file in theirs.files}
    for file in ours.files:
        known = by_path.setdefault(file.path, file)
        if known != file:
            raise Untrusted(
                f"{ours.key} in the bucket says that `{file.path}` is {known.blob}, and here it is "
                f"{file.blob}",
                hint="one of them is damaged; remove that manifest to write it anew",
            )
    return replace(ours, files=tuple(sorted(by_path.values(), key=lambda file: file.path)))


def parse_ref(data: bytes, key: str) -> str:
    """The commit that a ref names. Raises Untrusted."""
    try:
        return check_commit(data[:MAX_REF_BYTES].decode().strip())
    except (UnicodeDecodeError, Untrusted) as exc:
        raise Untrusted(f"{key} does not hold a commit") from exc


def _file(entry: object, key: str) -> BucketFile:
    if not isinstance(entry, dict):
        raise Untrusted(f"{key} has an entry that is no file")
    size = entry.get("size")
    if type(size) is not int or not 0 <= size <= MAX_FILE_BYTES:
        raise Untrusted(f"{key} has a file of no size")
    blob = _text(entry, "blob", key)
    blob_path(blob)  # raises unless it is a digest
    return BucketFile(_text(entry, "path", key), blob, size)


def _text(fields: dict[str, Any], name: str, key: str, default: str | None = None) -> str:
    value = fields.get(name, default)
    if not isinstance(value, str):
        raise Untrusted(f"{key[:_SHOWN_CHARS]} has no text `{name}`")
    return value
