"""What a name means among what is here: a manifest, one blob, or a DAG of blocks.

Every name that `get`, `push` and `ls` print is one of these, in any spelling. Nobody is asked.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from p2pcache.content import cid as cids
from p2pcache.content import digests, refs
from p2pcache.errors import NotFound, UsageError
from p2pcache.store.blobs import BlobInfo
from p2pcache.store.rooted import is_root

if TYPE_CHECKING:
    from collections.abc import Iterable

    from p2pcache.agent.parts import Parts
    from p2pcache.store.records import Resolution
    from p2pcache.store.rooted import AnyBlob
    from p2pcache.store.store import Store


@dataclass(frozen=True, slots=True)
class OfManifest:
    """A ref, a manifest's CID, or the root of a folder that is here."""

    cid: bytes


@dataclass(frozen=True, slots=True)
class OfBlob:
    """One blob, by its digest or root; manifests may list it, too."""

    blob: AnyBlob


@dataclass(frozen=True, slots=True)
class OfDag:
    """The root of a DAG that is neither: it is pinned, or at least its first block is here."""

    root: bytes


Meant = OfManifest | OfBlob | OfDag


def meant(parts: Parts, text: str) -> Meant:
    """What a ref, as typed, means here. Blocking. Raises NotFound, UsageError."""
    ref = refs.parse_ref(text)
    if (manifest := _manifest(parts, ref)) is not None:
        return OfManifest(manifest)
    if (blob := _blob(parts, ref)) is not None:
        return OfBlob(blob)
    root = root_typed(ref)
    if root is not None and _is_dag(parts, root):
        return OfDag(root)
    if isinstance(ref, refs.CidRef) and ref.path is not None:
        raise UsageError(
            f"`{text}` is a path in a DAG, and this is about whole names",
            hint="name the DAG, or the file by its own CID, which `p2pcache resolve` prints",
        )
    raise NotFound(f"`{text}` is not here", hint="see `p2pcache ls`, or get it first")


def _is_dag(parts: Parts, root: bytes) -> bool:
    if root in parts.store.dag_pins.roots():
        return True
    return parts.ipfs.blocks.local.length(root) is not None


def manifest_named(parts: Parts, text: str) -> bytes:
    """The manifest that a ref, as typed, means here. Blocking. Raises NotFound."""
    found = _manifest(parts, refs.parse_ref(text))
    if found is None:
        raise NotFound(f"`{text}` is not here", hint="see `p2pcache ls`, or get it first")
    return found


def root_typed(ref: refs.Ref) -> bytes | None:
    """The CIDv1 that a ref is, where it is one and nothing below it."""
    return cids.as_v1(ref.cid) if isinstance(ref, refs.CidRef) and ref.path is None else None


def row_of(parts: Parts, ref: refs.Ref) -> Resolution | None:
    """What the ref means here; a commit that `ls` shows is what its branch or tag means."""
    row = parts.store.resolution(refs.canonical(ref))
    if row is not None:
        return row
    if not isinstance(ref, refs.HfRef) or ref.revision is None:
        return None
    for row in parts.store.resolutions():
        if row.immutable != ref.revision:
            continue
        known = refs.parse_ref(row.canonical)
        if isinstance(known, refs.HfRef) and replace(known, revision=ref.revision) == ref:
            return row
    return None


def _manifest(parts: Parts, ref: refs.Ref) -> bytes | None:
    root = root_typed(ref)
    if root is not None and parts.store.get_manifest(root) is not None:
        return root
    if root is not None and is_root(root):
        of_folder = parts.resolver.folders.manifest_of(root)
        if of_folder is not None:
            return of_folder
    row = row_of(parts, ref)
    return None if row is None else row.manifest


def _blob(parts: Parts, ref: refs.Ref) -> AnyBlob | None:
    root = root_typed(ref)
    name = ref.digest if isinstance(ref, refs.DigestRef) else root
    if name is None:
        return None
    try:
        return parts.store.find_any(name)
    except UsageError:  # a CID that no file goes by
        return None


def both_names(blob: AnyBlob) -> tuple[str | None, str | None]:
    """Its sha2-256 in hex and its root as text, as far as they are known."""
    sha256 = blob.sha256.hex() if isinstance(blob, BlobInfo) else None
    return sha256, None if blob.root_cid is None else cids.format_cid(blob.root_cid)


def name_of(blob: AnyBlob) -> str:
    """The ref that a blob goes by where no other is known: by its root, where it has one of its
    own, as a Kubo has it.
    """
    root = blob.root_cid
    if root is not None and is_root(root):
        return refs.canonical(refs.CidRef(root))
    assert isinstance(blob, BlobInfo), "who has no sha2-256 yet has a root of its own"
    return digests.describe(blob.digest)


def single_manifests(parts: Parts, blob: AnyBlob) -> tuple[set[bytes], set[bytes]]:
    """The manifests that have this blob alone, and those that have others, too. Blocking."""
    names = [name for name in blob.names if not is_root(name)]
    listed = set().union(*parts.store.manifests_with(names).values())
    found = {cid: parts.store.get_manifest(cid) for cid in listed}
    alone = {cid for cid, m in found.items() if m is not None and len(m.files) == 1}
    return alone, listed - alone


def blobs_named(store: Store, names: Iterable[bytes]) -> list[AnyBlob]:
    """Those that a pin of a DAG keeps, by raw sha2-256 or root, as far as they are here."""
    full = [name if is_root(name) else digests.sha256_digest(name) for name in names]
    return list(store.find_any_of(full).values())
