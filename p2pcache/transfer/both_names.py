"""From one name of a blob to the other, as far as `store.pairs` remembers it. Blocking."""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pcache.content import cid as cids
from p2pcache.content import digests, refs
from p2pcache.content.unixfs import LEAF_BYTES
from p2pcache.store.rooted import is_root

if TYPE_CHECKING:
    from collections.abc import Iterable

    from p2pcache.sources.port import ListedFile
    from p2pcache.store.pairs import Pair, Pairs


def pair_of(pairs: Pairs, ref: refs.Ref) -> Pair | None:
    """Both names of the blob that a digest or a CID is."""
    if isinstance(ref, refs.CidRef) and ref.path is None and is_root(ref.cid):
        return pairs.of_root(ref.cid)
    sha256 = _sha256_of(ref)
    return None if sha256 is None else pairs.of_sha256s([sha256]).get(sha256)


def asked_of_kubo(pairs: Pairs, ref: refs.DigestRef | refs.CidRef) -> refs.CidRef | None:
    """By what a Kubo would have it: a digest by its root, where that is known, else as the one
    block that it may be. None: by nothing.
    """
    sha256 = _sha256_of(ref)
    if sha256 is None:
        return ref if isinstance(ref, refs.CidRef) else None
    pair = pair_of(pairs, ref)
    return refs.CidRef(cids.raw_cid(sha256) if pair is None else pair.root)


def roots_of(pairs: Pairs, files: Iterable[ListedFile]) -> dict[bytes, bytes]:
    """By digest, the roots that were proven for files of more than a block, here or gone."""
    large = [
        digests.raw(file.digest)
        for file in files
        if file.digest is not None
        and digests.is_sha256(file.digest)
        and (file.size or 0) > LEAF_BYTES
    ]
    found = pairs.of_sha256s(large)
    return {digests.sha256_digest(sha256): pair.root for sha256, pair in found.items()}


def _sha256_of(ref: refs.Ref) -> bytes | None:
    """The raw sha2-256 that a ref states of a whole blob."""
    if isinstance(ref, refs.DigestRef):
        digest = ref.digest
    elif isinstance(ref, refs.CidRef) and ref.path is None and cids.codec(ref.cid) == cids.RAW:
        digest = cids.multihash(ref.cid)
    else:
        return None
    return digests.raw(digest) if digests.is_sha256(digest) else None
