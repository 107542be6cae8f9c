"""From a ref to an immutable manifest, kept with where it came from and when.

A mutable name is asked of its origin, unless it was asked moments ago; an immutable one (a commit,
a digest) never twice. When the origin cannot be reached, the last resolution is used and says so:
our own, or the word of another agent (`transfer.names`) when that is newer.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import msgpack
import trio

from p2pcache.content import cid as cids
from p2pcache.content import digests, refs
from p2pcache.content.address_secrets import plain_key, without_secrets
from p2pcache.content.manifest import FileEntry, Manifest
from p2pcache.content.names import safe_path
from p2pcache.errors import Denied, NotFound, P2PCacheError, Unavailable, Untrusted, UsageError
from p2pcache.sources.port import BLOCKS, FETCHED, KUBO, Credentials, ListedFile, Listing
from p2pcache.store.blobs import BlobInfo
from p2pcache.store.records import Resolution as Record
from p2pcache.store.rooted import RootedBlob, is_root
from p2pcache.transfer import both_names
from p2pcache.transfer.folders import Folders
from p2pcache.transfer.known import check_sizes, with_known_digests
from p2pcache.transfer.names import (
    OTHERS,
    NameOptions,
    choose_word,
    listing_of,
    still_counts,
    with_age,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from p2pcache.sources.port import Source
    from p2pcache.store.rooted import AnyBlob
    from p2pcache.store.store import Store
    from p2pcache.transfer.names import Names

_LEFT = "it is not here; both names were proven here, when it was"
_KUBO = "; `--kubo` or the setting `ipfs.kubo` names a Kubo that may have it"
_FOLDERS = (
    "; another agent's folder goes by the CID of its manifest, which `push` printed before its root"
)


@dataclass(frozen=True, slots=True)
class ResolveOptions:
    """Bounds of a resolution."""

    ttl_s: float = 10.0  # a branch asked twice within this is asked once: storms of `get main`
    timeout_s: float = 60.0  # a 100,000-file listing of 100 pages takes tens of seconds
    names: NameOptions = field(default_factory=NameOptions)


@dataclass(frozen=True, slots=True)
class Resolution:
    """What a ref means. `manifest` is None while some file has no content hash yet."""

    ref: refs.Ref
    canonical: str
    listing: Listing
    manifest: Manifest | None
    resolved_at: float
    from_record: bool

    @property
    def notes(self) -> tuple[str, ...]:
        """Honest remarks for the user."""
        return self.listing.notes

    @property
    def total_bytes(self) -> int:
        """Promised bytes; files of unknown size count as nothing."""
        return sum(f.size or 0 for f in self.listing.files)


class Resolver:
    """Asks sources, remembers answers. `now` gives unix seconds. `here`: lists CIDs that are in the
    store as blocks.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        store: Store,
        options: ResolveOptions,
        now: Callable[[], float],
        names: Names | None = None,
        here: Source | None = None,
    ) -> None:
        self._here = here
        self._sources = tuple(sources)
        self._names = names
        self._store = store
        self._options = options
        self._now = now
        self.folders = Folders(store)

    def source_for(self, ref: refs.Ref) -> Source:
        """The adapter of a ref. Raises UsageError when there is none."""
        for source in self._sources:
            if source.accepts(ref):
                return source
        raise UsageError(f"no source understands `{refs.canonical(ref)}`")

    def understands(self, ref: refs.Ref) -> bool:
        """Whether there is an adapter of it."""
        return any(source.accepts(ref) for source in self._sources)

    async def resolve(
        self,
        ref: refs.Ref,
        credentials: Credentials,
        *,
        offline: bool = False,
        refresh: bool = False,
        trust: NameOptions | None = None,
        kubo: Source | None = None,
        beside: Callable[[], None] = lambda: None,
    ) -> Resolution:
        """The manifest of a ref now. Raises NotFound, Denied, Unavailable, Untrusted.

        `offline`: no origin is asked; other agents are. `refresh`: nothing but the origin counts,
        and Unavailable is raised when it does not answer. `trust`: whose word counts, when not the
        configured ones'. `kubo`: asked for a CID or digest that is not here; why it does not bring
        it is the cause of the NotFound. `beside` is called before an origin is asked what nobody
        here knows: what its files will need can be made ready meanwhile.
        """
        if isinstance(ref, refs.DigestRef | refs.CidRef):
            try:
                return await trio.to_thread.run_sync(self.held, ref)
            except NotFound as exc:
                missing = exc
            if self._here is not None and self._here.accepts(ref):
                try:
                    return await self._of_blocks(ref, ref, self._here, missing)
                except NotFound:
                    pass
            asked = await trio.to_thread.run_sync(both_names.asked_of_kubo, self._store.pairs, ref)
            if kubo is None or asked is None or not kubo.accepts(asked):
                raise missing
            return await self._of_blocks(ref, asked, kubo, missing)
        canonical = refs.canonical(ref)
        source = self.source_for(ref)
        ours = source.endpoint(ref, credentials)
        known = await trio.to_thread.run_sync(self.recorded, ref)
        record = known if known is not None and known.listing.hub == ours else None
        if record is not None and not refresh and self._is_fresh(record):
            return record
        names = self._options.names if trust is None else trust
        if offline:
            known = await self._without_origin(ref, known, ours, names)
            if known is None:
                raise _unknown_offline(canonical, names)
            return known
        if record is None:
            beside()
        try:
            with trio.fail_after(self._options.timeout_s):
                listing = _checked(await source.list(ref, credentials))
            if not refresh:
                listing = with_known_digests(listing, None if record is None else record.listing)
            await trio.to_thread.run_sync(check_sizes, listing, self._store)
            return await trio.to_thread.run_sync(self.record, ref, listing)
        except trio.TooSlowError as exc:
            error = Unavailable("the origin did not answer in time")
            error.__cause__ = exc
        except Unavailable as exc:
            error = exc
        except (Denied, NotFound) as exc:
            return await self._by_grant(ref, ours, names, exc)
        if refresh:
            if known is not None:
                hint = "without --refresh what was resolved before is used"
                error.hint = f"{error.hint}; {hint}" if error.hint else hint
            raise error
        known = await self._without_origin(ref, known, ours, names)
        return self._fall_back(known, error)

    def remembered(self, ref: refs.Ref) -> Resolution | None:
        """A blob that is not here, by a name of it that was proven when it was. Blocking."""
        pair = both_names.pair_of(self._store.pairs, ref)
        if pair is None:
            return None
        is_asked_by_root = isinstance(ref, refs.CidRef) and is_root(ref.cid)
        path = cids.format_cid(pair.root) if is_asked_by_root else pair.sha256.hex()
        digest, canonical = digests.sha256_digest(pair.sha256), refs.canonical(ref)
        files = (ListedFile(path, pair.size, digest, "", root=pair.root),)
        listing = replace(_here(canonical, files), notes=(_LEFT,))
        return Resolution(ref, canonical, listing, manifest_of(listing), self._now(), True)

    async def _of_blocks(
        self,
        ref: refs.DigestRef | refs.CidRef,
        asked: refs.Ref,
        source: Source,
        missing: NotFound,
    ) -> Resolution:
        """What a Kubo lists for a CID, or whoever else has its nodes; for a digest, the file that
        it has under the CID `asked`.
        """
        try:
            with trio.fail_after(self._options.timeout_s):
                listing = _checked(await source.list(asked, Credentials()))
        except trio.TooSlowError as exc:
            raise missing from Unavailable(
                f"{source.name} did not list it in time", hint=str(exc) or None
            )
        except (NotFound, Unavailable, Untrusted, Denied) as exc:
            raise missing from exc
        canonical = refs.canonical(ref)
        if asked != ref:
            name = ref.digest if isinstance(ref, refs.DigestRef) else cids.multihash(ref.cid)
            if len(listing.files) != 1:
                raise missing
            file = replace(listing.files[0], path=digests.raw(name).hex(), digest=name)
            listing = replace(listing, files=(file,), immutable=canonical)
        return Resolution(ref, canonical, listing, manifest_of(listing), self._now(), False)

    async def _by_grant(
        self, ref: refs.Ref, ours: str, options: NameOptions, refused: Denied | NotFound
    ) -> Resolution:
        """What other agents say a ref means whose origin refuses us, when the network's admin
        granted this agent access to it; raises what the origin said when not. Our own record does
        not count: a grant opens content to who asks the others for it by its name.
        """
        private = isinstance(refused, Denied) or refused.hidden
        canonical = refs.canonical(ref)
        if not private or self._names is None or not await self._names.granted(canonical):
            raise refused
        found = await self._without_origin(ref, None, ours, options)
        if found is None:
            raise refused
        note = f"{refused.message}; the network's admin lets this agent read it from other agents"
        return replace(found, listing=replace(found.listing, notes=(*found.notes, note)))

    async def _without_origin(
        self, ref: refs.Ref, record: Resolution | None, ours: str, options: NameOptions
    ) -> Resolution | None:
        """The best that is known of a ref; says so when it is what another hub than `ours` said.

        A mirror's address may change, and each agent may have its own: what was said elsewhere is
        better than nothing, and never taken where the origin itself can answer.
        """
        known = await self._ask_others(ref, record, ours, options)
        if known is None or known.listing.hub == ours:
            return known
        note = f"this is what {known.listing.hub} calls so; {ours} could not be asked"
        return replace(known, listing=replace(known.listing, notes=(*known.notes, note)))

    async def _ask_others(
        self, ref: refs.Ref, record: Resolution | None, ours: str, options: NameOptions
    ) -> Resolution | None:
        """Our own record or another agent's word: our hub's before another's, then the newer."""
        canonical = refs.canonical(ref)
        if record is not None and not still_counts(
            record.listing, record.resolved_at, options, self._now()
        ):
            record = None
        if self._names is None or not options.ask:
            return record
        is_ours = record is not None and record.listing.hub == ours
        if record is not None and is_ours and not record.listing.mutable:
            return record
        words = await self._names.words(canonical)
        word = choose_word(words, canonical, options, self._now(), ours)
        if word is None:
            return record
        if record is not None and (is_ours, record.resolved_at) >= (
            word.endpoint == ours, word.resolved_at,
        ):  # fmt: skip
            return record
        manifest = await self._names.manifest(word.manifest)
        if manifest is None:
            return record
        self._names.keep(word)
        listing = listing_of(word, manifest, self._now())
        # Who signs may leave the mark out: what comes by a grant is gated, and what anybody marks.
        marked = any(w.restricted and w.manifest == word.manifest for w in words)
        if marked or await self._names.granted(canonical):
            listing = replace(listing, gated=True)
        return await trio.to_thread.run_sync(self.record, ref, _checked(listing), word.resolved_at)

    def record(
        self, ref: refs.Ref, listing: Listing, resolved_at: float | None = None
    ) -> Resolution:
        """Remember what a ref means from now on, or has meant since `resolved_at`. Blocking:
        seconds for 100,000 files, or while another process writes to the index.
        """
        canonical = refs.canonical(ref)
        manifest = manifest_of(listing)
        resolved_at = self._now() if resolved_at is None else resolved_at
        if manifest is not None:  # without digests there is nothing to keep yet
            self._store.put_manifest(manifest)
            self._store.record_resolution(
                Record(
                    canonical=canonical,
                    manifest=manifest.cid(),
                    immutable=listing.immutable,
                    source=listing.source,
                    endpoint=listing.endpoint,
                    resolved_at=resolved_at,
                    gated=listing.gated,
                    credential_used=listing.credential_used,
                    extras=_pack(listing),
                )
            )
        return Resolution(ref, canonical, listing, manifest, resolved_at, False)

    def named_by_arrival(self, resolution: Resolution, blobs: Mapping[str, AnyBlob]) -> Resolution:
        """The same resolution with the digests that only the arrived bytes could tell. Blocking.
        Of a folder with files that have none yet it is noted what is to be listed once they have.

        When not all of it was asked for, it is narrowed to the files whose digest is known; what
        the ref means as a whole stays unrecorded.
        """
        if resolution.manifest is not None:
            by_nodes = resolution.listing.source in (KUBO, BLOCKS, FETCHED)
            is_new = by_nodes and not resolution.from_record and _needs_record(resolution)
            return self.record(resolution.ref, resolution.listing) if is_new else resolution
        files = tuple(
            f if f.digest is not None else _named(f, blobs[f.path])
            for f in resolution.listing.files
            if f.digest is not None or f.path in blobs
        )
        listing = replace(resolution.listing, files=files)
        if any(isinstance(blob, RootedBlob) for blob in blobs.values()):
            is_all = len(files) == len(resolution.listing.files)
            if is_all and (len(files) > 1 or _needs_record(resolution)):
                self._keep_unlisted(replace(resolution, listing=listing))
            return resolution
        if len(files) == len(resolution.listing.files):
            recorded = self.record(resolution.ref, listing)
            if recorded.manifest is not None and not listing.gated:
                arrived = _from_origin_alone(resolution.listing, blobs)
                self._store.rights.give(recorded.manifest.cid(), arrived)
            return recorded
        manifest = manifest_of(listing)
        if manifest is not None:
            keep = self._store.restrict if listing.gated else self._store.put_manifest
            keep(manifest)  # so that `ls` shows it, and `rm` can free it
        return replace(resolution, listing=listing, manifest=manifest)

    # -- folders whose files are known by their roots alone ---------------------------------------

    def _keep_unlisted(self, resolution: Resolution) -> None:
        listing = resolution.listing
        noted = [resolution.canonical, resolution.resolved_at, _pack(listing), dict(listing.nodes)]
        packed: bytes = msgpack.packb(noted)
        self._store.unlisted.put(resolution.canonical, packed)

    def unlisted(self, canonical: str) -> Resolution | None:
        """What a ref means of which all is here, and some file has no sha2-256 yet. Blocking."""
        packed = self._store.unlisted.get(canonical)
        return None if packed is None else _noted(packed)

    def every_unlisted(self) -> list[Resolution]:
        """All of those. Blocking."""
        return [_noted(packed) for packed in self._store.unlisted.every()]

    # -- records ----------------------------------------------------------------------------------

    def _is_fresh(self, record: Resolution) -> bool:
        if record.listing.source == OTHERS:  # the origin tells more: where the files lie
            return False
        age_s = self._now() - record.resolved_at
        return not record.listing.mutable or 0.0 <= age_s < self._options.ttl_s

    def recorded(self, ref: refs.Ref) -> Resolution | None:
        """What the ref meant last time, whichever origin said so."""
        canonical = refs.canonical(ref)
        row = self._store.resolution(canonical)
        if row is None:
            return None
        listing = with_age(_unpack(row.extras), row.resolved_at, self._now())
        if isinstance(ref, refs.HttpRef):
            listing = _signed_as(listing, ref.url)
        return Resolution(ref, canonical, listing, manifest_of(listing), row.resolved_at, True)

    def _fall_back(self, record: Resolution | None, error: P2PCacheError) -> Resolution:
        if record is None:
            raise error
        note = f"{error.message}; using what was resolved before"
        return replace(record, listing=replace(record.listing, notes=(*record.notes, note)))

    def _recorded_here(self, ref: refs.Ref) -> Resolution | None:
        """What the ref meant last time, if all of that is here."""
        known = self.recorded(ref)
        if known is None or known.manifest is None:
            return None
        return known if self._store.is_complete(known.manifest.cid()) else None

    def _blob(self, name: bytes) -> AnyBlob | None:
        try:
            return self._store.find_any(name)
        except UsageError:  # of a hash that no blob goes by
            return None

    def held(self, ref: refs.DigestRef | refs.CidRef) -> Resolution:
        """A digest or CID: what this store holds under that name. Blocking. Raises NotFound.

        There is no manifest of a blob whose sha2-256 is not known yet (`store.rooted`).
        """
        canonical = refs.canonical(ref)
        name = ref.digest if isinstance(ref, refs.DigestRef) else ref.cid
        manifest = None
        if isinstance(ref, refs.CidRef) and cids.codec(ref.cid) == cids.DAG_CBOR:
            manifest = self._store.get_manifest(ref.cid)
        elif (found := self._blob(name)) is not None:
            path = path_of(ref, found)
            if isinstance(found, BlobInfo):
                manifest = Manifest.from_entries([FileEntry(path, found.size, found.digest)])
            elif isinstance(ref, refs.CidRef) and ref.path is None:
                listing = _here(canonical, (ListedFile(path, found.size, None, path),))
                return Resolution(ref, canonical, listing, None, self._now(), True)
        elif isinstance(ref, refs.CidRef) and is_root(ref.cid):
            of_folder = self.folders.manifest_of(ref.cid)
            manifest = None if of_folder is None else self._store.get_manifest(of_folder)
        known = self._recorded_here(ref) if manifest is None else None
        if known is not None:
            return known
        if manifest is None and isinstance(ref, refs.CidRef) and ref.path is not None:
            whole = self._recorded_here(refs.CidRef(ref.cid))
            manifest = None if whole is None else whole.manifest
        if manifest is None:
            raise NotFound(
                f"nobody that this agent may ask has `{refs.as_typed(ref)}`",
                hint="give a ref with an origin (hf://, https://), or `p2pcache push` it"
                + (_FOLDERS if is_root(name) else "")
                + (_KUBO if isinstance(ref, refs.CidRef) else ""),
            )
        below = ref.path if isinstance(ref, refs.CidRef) else None
        files = tuple(
            ListedFile(f.path, f.size, f.digest, f.path)
            for f in manifest.files
            if below is None or f.path == below or f.path.startswith(f"{below}/")
        )
        if not files and below is not None:
            raise NotFound(
                f"`{below}` is not in `{cids.format_cid(name)}`",
                hint="paths work below the CID of a manifest, or of a folder that is here",
            )
        listing = _here(canonical, files)
        return Resolution(ref, canonical, listing, manifest_of(listing), self._now(), True)


def path_of(ref: refs.DigestRef | refs.CidRef, blob: AnyBlob) -> str:
    """The name of the one file that a digest or CID means: its sha2-256, or the root it was asked
    by, which is known before.
    """
    if isinstance(ref, refs.CidRef) and is_root(ref.cid):
        return cids.format_cid(ref.cid)
    assert isinstance(blob, BlobInfo), "who goes by another name than the root has a sha2-256"
    return blob.sha256.hex()


def _needs_record(resolution: Resolution) -> bool:
    """Not where a ref is the name of one blob, for the name says all; but of a restricted one."""
    ref = resolution.ref
    if resolution.listing.gated:
        return True
    if not isinstance(ref, refs.CidRef):
        return not isinstance(ref, refs.DigestRef)
    is_one = [file.root for file in resolution.listing.files] == [ref.cid]
    return ref.path is not None or not (is_one or cids.codec(ref.cid) == cids.RAW)


def _here(canonical: str, files: tuple[ListedFile, ...]) -> Listing:
    return Listing("store", "", canonical, False, files)


def _unknown_offline(canonical: str, names: NameOptions) -> NotFound:
    """The error of a name that nobody who counts told; what keeps others from counting is named."""
    if names == NameOptions():
        return NotFound(
            f"`{canonical}` was never resolved here, no other agent told its meaning, "
            "and this is offline",
            hint="run the same command once with a network",
        )
    return NotFound(
        f"`{canonical}` was never resolved here, no other agent's word on it counts, "
        "and this is offline",
        hint="fewer words count than usual: try `--trust any`, a longer `--max-age`, or the "
        "settings `names.trust` and `names.max_age`; or run it once with a network",
    )


def manifest_of(listing: Listing) -> Manifest | None:
    """The manifest of a listing, or None while a digest or a size is unknown."""
    if any(f.digest is None or f.size is None for f in listing.files):
        return None
    return Manifest.from_entries(
        [FileEntry(f.path, f.size or 0, f.digest or b"") for f in listing.files]
    )


def _checked(listing: Listing) -> Listing:
    """Names from outside pass one function, here, before anything else sees them."""
    for file in listing.files:
        safe_path(file.path)
    return listing


def _from_origin_alone(listing: Listing, blobs: Mapping[str, AnyBlob]) -> list[bytes]:
    """What had no name before it arrived: nobody else could be asked for it. An address that is
    signed is a login.
    """
    unnamed = [f for f in listing.files if f.name is None and plain_key(f.key) == f.key]
    found = [blobs[f.path] for f in unnamed]
    return [blob.digest for blob in found if isinstance(blob, BlobInfo)]


def _named(file: ListedFile, blob: AnyBlob) -> ListedFile:
    if not isinstance(blob, BlobInfo):
        return file
    return replace(file, digest=blob.digest, size=blob.size)


def hub_of(row: Record) -> str:
    """The origin whose name a recorded one is, whoever told us; "" where that is not recorded."""
    return _unpack(row.extras).hub if row.extras else ""


def _pack(listing: Listing) -> bytes:
    """A listing for the index: our own plain values, read back by `_unpack` alone."""
    packed: bytes = msgpack.packb(
        {
            "source": listing.source,
            "endpoint": listing.endpoint,
            "asked": listing.asked,
            "immutable": listing.immutable,
            "mutable": listing.mutable,
            "gated": listing.gated,
            "credential_used": listing.credential_used,
            "notes": list(listing.notes),
            "files": [
                [
                    f.path,
                    f.size,
                    f.digest,
                    plain_key(f.key),
                    f.oid,
                    f.xet_hash,
                    None if f.is_recent else f.validator,
                    False,
                    f.root if f.digest is None else None,
                ]
                for f in listing.files
            ],
        }
    )
    return packed


def _signed_as(listing: Listing, url: str) -> Listing:
    """With the address as it was typed now: it is kept without what signs it."""
    plain = without_secrets(url)
    if plain == url:
        return listing
    files = (replace(f, key=url) if f.key == plain else f for f in listing.files)
    return replace(listing, files=tuple(files))


def _noted(packed: bytes) -> Resolution:
    canonical, resolved_at, plain, nodes = msgpack.unpackb(packed)
    listing = replace(_unpack(plain), nodes=nodes)
    return Resolution(refs.parse_ref(canonical), canonical, listing, None, resolved_at, True)


def _unpack(packed: bytes) -> Listing:
    plain = msgpack.unpackb(packed)
    return Listing(
        source=plain["source"],
        endpoint=plain["endpoint"],
        asked=plain.get("asked", ""),  # records from before there were words have none
        immutable=plain["immutable"],
        mutable=plain["mutable"],
        gated=plain["gated"],
        credential_used=plain["credential_used"],
        notes=tuple(plain["notes"]),
        files=tuple(ListedFile(*row) for row in plain["files"]),
    )
