"""What a Hugging Face cache holds into a bucket: blobs, then manifests, then refs.

Only finished blobs go, and only after their bytes were hashed: what a name says is checked before
anybody else could believe it. Each write has a condition, so that of two who push at once none
undoes what the other did. What fails is told with its repository; the others go out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from p2pcache.agent.bucket.hashing import hash_named
from p2pcache.agent.bucket.place import opened, place_of
from p2pcache.agent.bucket.plan import LocalRevision, plan_all, selected
from p2pcache.agent.bucket.pull import hub_ref
from p2pcache.agent.bucket.remote import read_remote
from p2pcache.destinations.objects.port import Same, Upload
from p2pcache.errors import (
    Conflict,
    Denied,
    NotFound,
    P2PCacheError,
    Unavailable,
    Untrusted,
    plain_errors,
)
from p2pcache.formats.hf_cache_sync import layout
from p2pcache.formats.hf_cache_sync.documents import (
    MAX_MANIFEST_BYTES,
    MAX_REF_BYTES,
    BucketFile,
    BucketManifest,
    manifest_bytes,
    merged,
    parse_manifest,
    parse_ref,
)
from p2pcache.store.hfcache import read
from p2pcache.store.hfcache.scan import scan
from p2pcache.transfer.progress import Progress

if TYPE_CHECKING:
    from pathlib import Path

    from p2pcache.agent.args import Args
    from p2pcache.agent.bucket.plan import BlobToSend, RefToWrite, RevisionPlan
    from p2pcache.agent.bucket.remote import Remote
    from p2pcache.agent.parts import Emit, Parts
    from p2pcache.destinations.objects.port import ObjectStore
    from p2pcache.sources.port import Credentials
    from p2pcache.store.hfcache.scan import CachedRevision

MAX_WORKERS = 64
WORKERS = 8  # blobs at once, as hf-cache-sync
ROUNDS = 5  # of reading and merging a manifest anew, while others write it, too
TELL_S = 0.2  # between two words on the progress
UNKNOWN = "whether it is gated or private cannot be told: the hub does not answer for it"
RESTRICTED = "it is gated or private at its hub"
_ALLOW = "if its licence lets you pass it on so: --allow-gated, or team.allow_gated"


async def bucket_push(parts: Parts, args: Args, emit: Emit) -> dict[str, Any]:
    """Send what the bucket lacks, or with `dry_run` say what that is.

    Safe to repeat; if cancelled, what arrived stays there, and no manifest names what did not.
    """
    place = place_of(args)
    dry_run, repos = args.flag("dry_run"), args.texts("repos")
    workers = min(args.size("workers") or WORKERS, MAX_WORKERS)
    await emit({"type": "progress", **Progress("planning").to_wire()})
    notes: list[str] = []
    revisions = await trio.to_thread.run_sync(local_revisions, place.cache, notes)
    revisions = selected(revisions, repos)
    rate_bytes_per_s = args.positive("limit_rate")
    async with opened(parts, place, rate_bytes_per_s=rate_bytes_per_s) as store:
        remote = await read_remote(store)
        run = _Push(parts, store, remote, emit, place.credentials, workers)
        run.notes += [*notes, *remote.notes]
        run.plan(revisions)
        await run.leave_restricted(allowed=args.flag("allow_gated"))
        if not dry_run:
            try:
                await run.send()
            finally:
                run.count_sent()
        if not store.conditional:
            run.notes.append(f"{store.where} knows no conditions: push from one machine at a time")
    return run.answer(store.where, dry_run=dry_run)


def local_revisions(cache: Path, notes: list[str]) -> list[LocalRevision]:
    """The snapshots of a cache as manifests. Blocking."""
    found = []
    for one in scan(cache).revisions:
        files, sources = _files(cache, one)
        left_out = [f.path for f in one.files if f.path not in {file.path for file in files}]
        if one.unusable or left_out:
            first = sorted([*one.unusable, *left_out])[0]
            notes.append(
                f"{one.repo.repo_id}@{one.commit[:12]}: {len(one.unusable) + len(left_out)} files "
                f"are not here or have no name, and are left out, as `{first}`"
            )
        if files:
            manifest = BucketManifest(one.repo, one.commit, tuple(files))
            found.append(LocalRevision(manifest, one.refs, sources))
    return found


def _files(cache: Path, one: CachedRevision) -> tuple[list[BucketFile], dict[str, Path]]:
    """A copy in place of a link has no name: the commit's list of files may tell it."""
    files, sources = [], {}
    listed = None
    for file in one.files:
        name = file.etag_hex
        if name is None:
            if listed is None:
                tree = read.tree(cache, one.repo.repo_type, one.repo.repo_id, one.commit) or ()
                listed = {entry.path: entry.etag_hex for entry in tree}
            name = listed.get(file.path)
        if name is not None:
            files.append(BucketFile(file.path, name, file.payload.size))
            sources[name] = file.source
    return files, sources


class _Push:
    """One push. `plans` become fewer as revisions fail or are left out."""

    def __init__(
        self,
        parts: Parts,
        store: ObjectStore,
        remote: Remote,
        emit: Emit,
        credentials: Credentials,
        workers: int,
    ) -> None:
        self.notes: list[str] = []
        self._parts = parts
        self._store = store
        self._remote = remote
        self._emit = emit
        self._credentials = credentials
        self._limit = trio.CapacityLimiter(workers)
        self._plans: list[RevisionPlan] = []
        self._whole = 0  # revisions that the bucket has already
        self._restricted: list[dict[str, str]] = []
        self._failed: list[dict[str, str]] = []
        self._broken: dict[str, P2PCacheError] = {}  # blobs that did not go out, and why
        self._sent: dict[str, int] = {}
        self._sent_bytes = 0
        self._written = 0

    def plan(self, revisions: list[LocalRevision]) -> None:
        """What each revision needs."""
        for plan in plan_all(revisions, self._remote):
            if isinstance(plan, tuple):
                self._fail(plan[0].manifest, plan[1])
                continue
            self.notes += plan.notes
            if plan.is_empty:
                self._whole += 1
            else:
                self._plans.append(plan)

    async def leave_restricted(self, *, allowed: bool) -> None:
        """Without `allowed`, what its hub gives to some only stays here: by the hub's own flag."""
        if allowed:
            return
        stay = []
        for plan in self._plans:
            why = await self._restriction(plan.local.manifest)
            if why is None:
                stay.append(plan)
            else:
                self._restricted.append(_named(plan.local.manifest) | {"reason": why})
        self._plans = stay

    async def _restriction(self, manifest: BucketManifest) -> str | None:
        ref = hub_ref(manifest.repo, manifest.commit)
        try:
            resolution = await self._parts.resolver.resolve(ref, self._credentials)
        except (NotFound, Denied):
            return RESTRICTED  # a hub says of what is private that it is not there
        except (Unavailable, Untrusted):
            return UNKNOWN
        return RESTRICTED if resolution.listing.gated else None

    @property
    def _blobs(self) -> dict[str, BlobToSend]:
        return {name: blob for plan in self._plans for name, blob in plan.blobs.items()}

    async def send(self) -> None:
        """Blobs, each once; then of each revision whose blobs are there its manifest and refs."""
        blobs = self._blobs
        total = sum(blob.file.size for blob in blobs.values())
        with plain_errors():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._tell, total)
                async with trio.open_nursery() as sending:
                    for blob in blobs.values():
                        sending.start_soon(self._send_blob, blob)
                nursery.cancel_scope.cancel()
        for plan in self._plans:
            broken = [self._broken[name] for name in plan.blobs if name in self._broken]
            if broken:
                self._fail(plan.local.manifest, broken[0])
                continue
            try:
                if plan.manifest is not None:
                    await self._write_manifest(plan.manifest, plan)
                for ref in plan.refs:
                    await self._write_ref(ref)
            except P2PCacheError as exc:
                self._fail(plan.local.manifest, exc)

    def count_sent(self) -> None:
        """For `status --origins`: what went out, also of a push that was stopped."""
        if self._sent:
            sent = sum(self._sent.values()), len(self._sent)
            self._parts.origins.spending.sent(self._store.endpoint, *sent)

    async def _tell(self, total: int) -> None:
        while True:
            done = min(self._sent_bytes, total)
            await self._emit(
                {"type": "progress", **Progress("sending", None, done, total).to_wire()}
            )
            await trio.sleep(TELL_S)

    async def _send_blob(self, blob: BlobToSend) -> None:
        async with self._limit:
            try:
                await self._send_one(blob)
            except P2PCacheError as exc:
                self._broken[blob.file.blob] = exc
            else:
                self._sent[blob.file.blob] = blob.file.size

    async def _send_one(self, blob: BlobToSend) -> None:
        file, key = blob.file, layout.blob_key(blob.file.blob)
        hashed = await trio.to_thread.run_sync(
            hash_named, blob.source, file.blob, file.size, trio.from_thread.check_cancelled
        )
        condition = blob.condition
        while True:
            upload = Upload(
                key, str(blob.source), file.size, hashed.sha256, condition, hashed.hashes
            )
            try:
                await self._store.put(upload, self._count)
            except Conflict:
                there = (await self._store.look([key])).get(key)
                if there is not None and there.size == file.size:
                    return  # somebody else pushes the same
                if there is None or condition == Same(there.version):
                    raise
                condition = Same(there.version)
            else:
                return

    def _count(self, more: int, *, resumed: bool = False) -> None:
        self._sent_bytes += more

    async def _write_manifest(self, manifest: BucketManifest, plan: RevisionPlan) -> None:
        """With what others wrote into it meanwhile. Raises Untrusted, Conflict."""
        condition = plan.manifest_condition
        for _ in range(ROUNDS):
            try:
                await self._store.put_small(manifest.key, manifest_bytes(manifest), condition)
            except Conflict:
                found = await self._store.get_small(manifest.key, MAX_MANIFEST_BYTES)
                if found is None:
                    raise
                there = parse_manifest(found[0], manifest.key)
                manifest = merged(manifest, there)
                if manifest.files == there.files:
                    return
                condition = Same(found[1])
            else:
                self._written += 1
                return
        raise Conflict(f"others keep writing {manifest.key}", hint="run it again")

    async def _write_ref(self, ref: RefToWrite) -> None:
        """Raises Conflict where it means something else than when the push began."""
        try:
            await self._store.put_small(ref.key, ref.commit.encode(), ref.condition)
        except Conflict as exc:
            found = await self._store.get_small(ref.key, MAX_REF_BYTES)
            there = None if found is None else parse_ref(found[0], ref.key)
            if there != ref.commit:
                raise Conflict(
                    f"another push moved `{ref.ref}` to {there} meanwhile: it is left so",
                    hint="run it again if yours is the newer one",
                ) from exc
        else:
            self._written += 1

    def _fail(self, manifest: BucketManifest, error: P2PCacheError) -> None:
        self._failed.append(
            _named(manifest)
            | {"error": error.message, "hint": error.hint or "", "code": error.code}
        )

    def answer(self, where: str, *, dry_run: bool) -> dict[str, Any]:
        """What the caller is told; of a dry run, what would have been sent."""
        blobs = self._blobs
        sent = {n: blob.file.size for n, blob in blobs.items()} if dry_run else self._sent
        there = {f.blob for plan in self._plans for f in plan.local.manifest.files} - set(blobs)
        return {
            "where": where,
            "dry_run": dry_run,
            "revisions": len(self._plans),
            "unchanged": self._whole,
            "sent_blobs": len(sent),
            "sent_bytes": sum(sent.values()),
            "there_blobs": len(there),
            "written": sum(
                (plan.manifest is not None) + len(plan.refs) for plan in self._plans
            ) if dry_run else self._written,
            "restricted": self._restricted,
            "failed": self._failed,
            "notes": list(dict.fromkeys(self.notes)),
        }  # fmt: skip


def _named(manifest: BucketManifest) -> dict[str, str]:
    return {
        "repo": manifest.repo.repo_id,
        "repo_type": manifest.repo.repo_type,
        "commit": manifest.commit,
    }
