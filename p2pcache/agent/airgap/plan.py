"""What goes into a bundle: for each ref its manifest, its blobs, its names, and who may read it.

Blocking, for worker threads. Nothing is fetched: what is not all here is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from p2pcache.agent.meant import manifest_named
from p2pcache.agent.sharing import own_word
from p2pcache.content import refs
from p2pcache.content.blocks import MAX_BLOCK_BYTES
from p2pcache.content.dag.listing import listed
from p2pcache.content.digests import raw
from p2pcache.errors import Denied, NotFound, Untrusted, UsageError
from p2pcache.transfer.blocks import LocalBlocks
from p2pcache.transfer.names import OTHERS
from p2pcache.units import format_count

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from p2pcache.agent.parts import Parts
    from p2pcache.content.dag.listing import Listed
    from p2pcache.content.manifest import Manifest
    from p2pcache.content.signed import SignedResolution, Signer
    from p2pcache.store.blobs import BlobInfo
    from p2pcache.store.records import Resolution
    from p2pcache.store.store import Hold, Store

MAX_NAMES = 64  # of one manifest: our own words, and what others said of the same names
MAX_DEPTH = 200  # folders in folders: readers of other tools call themselves for each


@dataclass(frozen=True, slots=True)
class Planned:
    """One ref. `blobs`: the stored blob of each path of the manifest. `roots`: other folders that
    are these files, as somebody's DAG, with their nodes, which prove what `ipfs://` names mean.
    """

    ref: str
    manifest: Manifest
    blobs: dict[str, BlobInfo]
    restricted: bool
    names: tuple[SignedResolution, ...]
    roots: tuple[Listed, ...] = ()


def plan(
    parts: Parts, texts: Sequence[str], gated: bool, signer: Callable[[], Signer], hold: Hold
) -> list[Planned]:
    """Check and collect. `hold` keeps the blobs from being evicted; `signer` makes our key where
    there is none. Raises NotFound (not all here), Denied (restricted, without `gated`), UsageError.
    """
    planned: dict[bytes, Planned] = {}
    for text in texts:
        manifest, typed = _meant(parts, text)
        if manifest.cid() in planned:
            continue
        blobs = _blobs(parts.store, manifest, text, hold)
        restricted = is_restricted(parts.store, manifest, blobs)
        if restricted and not gated:
            raise Denied(
                f"`{text}` is gated or private where it came from, and a bundle can be read by "
                "whoever gets the file",
                hint="if its licence lets you pass it on so, use --gated; it stays marked as such",
            )
        names = _names(parts.store, manifest.cid(), typed, restricted, signer)
        roots = tuple(_roots(parts, manifest))
        planned[manifest.cid()] = Planned(text, manifest, blobs, restricted, names, roots)
    return list(planned.values())


def _meant(parts: Parts, text: str) -> tuple[Manifest, str | None]:
    """The manifest that a ref means here, and the name that was typed if it is one."""
    ref = refs.parse_ref(text)
    if isinstance(ref, refs.DigestRef | refs.CidRef):
        found = parts.resolver.held(ref).manifest
        typed = None
    else:
        found, typed = parts.store.get_manifest(manifest_named(parts, text)), refs.canonical(ref)
    assert found is not None, "its row was read just now"
    if len(found.encode()) > MAX_BLOCK_BYTES:
        raise UsageError(
            f"`{text}` has {len(found.files)} files: its list is more than a block of IPFS holds",
            hint="not supported; `p2pcache get --to DIR` writes them into a folder",
        )
    if any(file.path.count("/") > MAX_DEPTH for file in found.files):
        raise UsageError(f"`{text}` has more than {MAX_DEPTH} folders in each other")
    return found, typed


def _blobs(store: Store, manifest: Manifest, text: str, hold: Hold) -> dict[str, BlobInfo]:
    found = store.find_held([file.digest for file in manifest.files], hold)
    missing = [file.path for file in manifest.files if file.digest not in found]
    if missing:
        raise NotFound(
            f"{format_count(len(missing), 'file')} of `{text}` not here, such as `{missing[0]}`",
            hint=f"`p2pcache get {text}` brings them",
        )
    return {file.path: found[file.digest] for file in manifest.files}


def is_restricted(
    store: Store, manifest: Manifest, blobs: dict[str, BlobInfo], *, of_files: bool = False
) -> bool:
    """Whether not everybody may read all of it: as `Access.may_read` decides for nobody known.
    `of_files`: it is what lies in a folder of the user's. That a bucket has the same, and wants a
    login, is no reason then: it may have got it from here. That a hub gates it is.
    """
    restricted = store.restricted_manifests()
    if of_files:
        restricted -= store.private_stores()
    private = store.adoptions.private()
    if not (restricted or private):
        return False
    if manifest.cid() in restricted:
        return True
    names = [name for blob in blobs.values() for name in blob.names]
    listed_in, given = store.manifests_with(names), store.rights.given(names)
    for blob in blobs.values():
        members = {cid for name in blob.names for cid in listed_in.get(name, ())}
        is_private = any(raw(name) in private for name in blob.names)
        if (is_private or members & restricted) and given.isdisjoint(blob.names):
            return True
    return False


def _names(
    store: Store,
    manifest: bytes,
    typed: str | None,
    restricted: bool,
    signer: Callable[[], Signer],
) -> tuple[SignedResolution, ...]:
    """Our word on each name that we asked an origin about, then what others said of the names."""
    rows = [row for row in store.resolutions_of(manifest) if _travels(row, typed)]
    words = [own_word(signer(), row) for row in rows if row.source != OTHERS]
    for row in rows:
        words += [
            word
            for word in store.others.words(row.canonical)
            if word.manifest == manifest and (restricted or not word.restricted)
        ]
    return tuple(words[:MAX_NAMES])


def _roots(parts: Parts, manifest: Manifest) -> Iterator[Listed]:
    """The folders by which IPFS knows exactly these files, all of whose nodes are here."""
    known = parts.store.ties.roots_of(manifest.cid())
    sizes = {file.path: file.size for file in manifest.files}
    local = LocalBlocks(parts.store)

    def get(cid: bytes) -> bytes:
        data = local.read(cid)
        if data is None:
            raise NotFound("a node is not here")
        return data

    for root in known[:MAX_NAMES]:
        try:
            found = listed(get, root, None)
        except (NotFound, Untrusted, UsageError):
            continue
        if (
            not any(f.is_foreign for f in found.files)
            and found.nodes
            and ({file.path for file in found.files} == sizes.keys())
        ):
            yield found


def _travels(row: Resolution, typed: str | None) -> bool:
    """Paths are names of this machine only, and an address may hold a secret: none goes along that
    was not typed.
    """
    ref = refs.parse_ref(row.canonical)
    return isinstance(ref, refs.HfRef) or (isinstance(ref, refs.Address) and row.canonical == typed)
