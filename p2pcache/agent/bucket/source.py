"""A manifest of hf-cache-sync's as the folder that it lists: a ref like every other one.

`s3://bucket/manifests/org__name@<commit>.json/`, with the slash, is what a pull out of a bucket is
recorded under. So its origin can be asked whether it still has it, and for damaged bytes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from p2pcache.content.s3_refs import S3Ref, s3_text
from p2pcache.destinations.port import Place
from p2pcache.errors import NotFound, UsageError
from p2pcache.formats.hf_cache_sync import layout
from p2pcache.formats.hf_cache_sync.documents import MAX_MANIFEST_BYTES, parse_manifest
from p2pcache.sources.port import ListedFile, SourceKind
from p2pcache.sources.s3.listing import file_key

if TYPE_CHECKING:
    from p2pcache.agent.parts import OpenObjects
    from p2pcache.content.refs import Ref
    from p2pcache.formats.hf_cache_sync.documents import BucketManifest
    from p2pcache.lanes.orders import Location
    from p2pcache.sources.port import Credentials, Listing, Source


class BucketSource:
    """Wraps the source of buckets, which locates the blobs. To be asked before it."""

    name = "hf-cache-sync"
    kind = SourceKind.ORIGIN

    def __init__(self, buckets: Source, objects: OpenObjects) -> None:
        self._buckets = buckets
        self._objects = objects

    def accepts(self, ref: Ref) -> bool:
        """Whether it is a manifest, with the slash of a folder."""
        return isinstance(ref, S3Ref) and ref.folder and _split(ref) is not None

    def endpoint(self, ref: Ref, credentials: Credentials) -> str:
        """That of the bucket."""
        return self._buckets.endpoint(_object(ref), credentials)

    async def list(self, ref: Ref, credentials: Credentials) -> Listing:
        """The files of the manifest. Raises as S3 does, and Untrusted."""
        one = _object(ref)
        listing = await self._buckets.list(one, credentials)
        root, name = _parts(one)
        store = self._objects(Place(s3_text(S3Ref(one.bucket, root or None)), credentials))
        try:
            found = await store.get_small(name, MAX_MANIFEST_BYTES)
        finally:
            await store.aclose()
        if found is None:
            raise NotFound(f"{listing.endpoint} has no {s3_text(one)}")
        return as_listing(listing, one.bucket, root, parse_manifest(found[0], name))

    async def gives(self, ref: Ref, immutable: str | None, credentials: Credentials) -> bool:
        """Whether the manifest is there: a commit has one content."""
        return await self._buckets.gives(_object(ref), None, credentials)

    async def locate(self, listing: Listing, key: str, credentials: Credentials) -> Location:
        """Where a blob is."""
        return await self._buckets.locate(listing, key, credentials)

    async def aclose(self) -> None:
        """Nothing is open here."""


def as_listing(listing: Listing, bucket: str, root: str, manifest: BucketManifest) -> Listing:
    """What a bucket says of the manifest's object, with the manifest's own files. Whatever version
    of a blob is read: its digest is checked.
    """
    start = f"{root}/" if root else ""
    files = tuple(
        ListedFile(
            file.path, file.size, file.digest,
            file_key(bucket, start + layout.blob_key(file.blob), None, None),
        )
        for file in manifest.files
    )  # fmt: skip
    return replace(listing, immutable=manifest.commit, mutable=False, files=files, notes=())


def _object(ref: Ref) -> S3Ref:
    if not isinstance(ref, S3Ref):
        raise UsageError(f"not a manifest in a bucket: {ref}")
    return replace(ref, folder=False)


def _parts(ref: S3Ref) -> tuple[str, str]:
    found = _split(ref)
    if found is None:
        raise UsageError(f"not a manifest in a bucket: {ref}")
    return found


def _split(ref: S3Ref) -> tuple[str, str] | None:
    """The prefix of a bucket, and the manifest's key below it."""
    root, found, name = f"/{ref.key or ''}".rpartition(f"/{layout.MANIFESTS}")
    key = f"{layout.MANIFESTS}{name}"
    if not found or "/" in name or layout.read_manifest_key(key) is None:
        return None
    return root.removeprefix("/"), key
