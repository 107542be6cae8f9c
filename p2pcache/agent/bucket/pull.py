"""One repository out of a bucket into the Hugging Face cache.

Its files are those of a commit, so the swarm is that of everybody who wants this commit, from
whatever origin: other agents first, then the bucket, and every byte is verified by the digest that
names its blob. Where the bucket fails, the hub may take its place.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import trio

from p2pcache.agent.args import Args
from p2pcache.agent.bucket.place import asked, opened, place_of, source_of
from p2pcache.agent.bucket.remote import find_revision
from p2pcache.agent.bucket.source import as_listing
from p2pcache.agent.get import get, trim
from p2pcache.agent.keep_receipt import keep_receipt
from p2pcache.agent.peering import count_received, maybe_peers, tell_complete
from p2pcache.content import refs
from p2pcache.errors import NotFound, P2PCacheError, Unavailable, Untrusted, UsageError
from p2pcache.formats.hf_cache_sync import layout
from p2pcache.store.hfcache.layout import REPO_TYPES, is_git_sha1, is_sha256
from p2pcache.store.hfcache.read import find_blob
from p2pcache.store.hfcache.write import LinkedFile, materialise
from p2pcache.transfer.progress import Progress
from p2pcache.transfer.pull import pull
from p2pcache.transfer.receipts import receipt

if TYPE_CHECKING:
    from p2pcache.agent.bucket.place import BucketPlace
    from p2pcache.agent.parts import Emit, Parts
    from p2pcache.agent.pulls import Watch
    from p2pcache.formats.hf_cache_sync.documents import BucketFile, BucketManifest
    from p2pcache.sources.port import ListedFile
    from p2pcache.store.hfcache.layout import RepoFolder
    from p2pcache.store.placing import Placed
    from p2pcache.store.store import Hold
    from p2pcache.transfer.resolve import Resolution
    from p2pcache.transfer.want import PullReport

FALLBACK = "hf-hub"
_HUB_PREFIX = {"model": "", "dataset": "datasets/", "space": "spaces/"}


@dataclass(frozen=True, slots=True)
class _Request:
    """A checked call. `revision`: a commit, or a ref of the bucket."""

    place: BucketPlace
    repo_id: str
    repo_type: str | None
    revision: str
    dry_run: bool
    fallback: bool
    rate_bytes_per_s: float | None


def _request(args: Args) -> _Request:
    fallback, repo_type = args.optional_text("fallback"), args.optional_text("repo_type")
    if fallback not in (None, FALLBACK):
        raise UsageError(f"`fallback` is `{FALLBACK}`, not `{fallback[:40]}`")
    if repo_type is not None and repo_type not in REPO_TYPES:
        raise UsageError(f"`{repo_type[:40]}` is no type", hint=f"one of {', '.join(REPO_TYPES)}")
    repo_id, repo_type = layout.named_repo(args.text("repo"), repo_type)
    return _Request(
        place=place_of(args),
        repo_id=repo_id,
        repo_type=repo_type,
        revision=args.optional_text("revision") or layout.MAIN,
        dry_run=args.flag("dry_run"),
        fallback=fallback is not None,
        rate_bytes_per_s=args.positive("limit_rate"),
    )


async def bucket_pull(parts: Parts, args: Args, emit: Emit) -> dict[str, Any]:
    """Bring one revision, verified, and show it in the cache. Nothing of it is shown unless all of
    it arrived; if cancelled, what was verified stays in the store. Raises as `get`.
    """
    request = _request(args)
    try:
        return await _of_bucket(parts, request, emit)
    except (NotFound, Unavailable, Untrusted) as exc:
        if not request.fallback or request.dry_run:
            raise
        return await _of_hub(parts, request, args, emit, exc)


async def _of_hub(
    parts: Parts, request: _Request, args: Args, emit: Emit, why: P2PCacheError
) -> dict[str, Any]:
    """What `get hf://` does. What the bucket denied never comes here: a login is to be mended."""
    prefix = _HUB_PREFIX[request.repo_type or REPO_TYPES[0]]
    call = {
        "ref": f"hf://{prefix}{request.repo_id}@{request.revision}",
        "hf_cache": str(request.place.cache),
        "limit_rate": request.rate_bytes_per_s,
    }
    try:
        answer = await get(parts, Args({**call, "credentials": args.text_map("credentials")}), emit)
    except P2PCacheError as exc:
        exc.message = f"{exc.message}; before that, the bucket: {why.message}"
        raise
    return {
        "repo": request.repo_id,
        "repo_type": request.repo_type or REPO_TYPES[0],
        "commit": answer["immutable"],
        "source": FALLBACK,
        **{name: answer[name] for name in (
            "path", "files", "total_bytes", "fetched_bytes", "reused_bytes", "seconds", "pull",
        )},
        "notes": [f"not from the bucket: {why.message}", *answer["notes"]],
        "dry_run": None,
    }  # fmt: skip


async def _of_bucket(parts: Parts, request: _Request, emit: Emit) -> dict[str, Any]:
    await emit({"type": "progress", **Progress("resolving").to_wire()})
    async with opened(parts, request.place) as store:
        manifest = await find_revision(store, request.repo_id, request.repo_type, request.revision)
    run = _Run(parts, request, manifest, emit)
    if request.dry_run:
        missing = await trio.to_thread.run_sync(run.missing)
        return run.answer(None, None, missing)
    started_at, started = parts.now(), trio.current_time()
    try:
        with parts.store.running() as hold:
            report, placed = await run.all(hold)
    except P2PCacheError as exc:
        await run.save(started_at, trio.current_time() - started, exc)
        raise
    unsaved = await run.save(started_at, trio.current_time() - started, None)
    if report.statistics.fetched_bytes:
        await trim(parts)
    answer = run.answer(report, placed, None) | {"seconds": trio.current_time() - started}
    answer["notes"] += [] if unsaved is None else [unsaved]
    return answer


class _Run:
    """One revision."""

    def __init__(
        self, parts: Parts, request: _Request, manifest: BucketManifest, emit: Emit
    ) -> None:
        self._id = uuid.uuid4().hex[:12]
        self._parts = parts
        self._request = request
        self._manifest = manifest
        self._emit = emit
        self._resolution: Resolution | None = None
        self._report: PullReport | None = None
        self._files: tuple[ListedFile, ...] = ()

    async def all(self, hold: Hold) -> tuple[PullReport, Placed]:
        """Bring and place."""
        parts, request = self._parts, self._request
        resolution = self._resolution = await self._resolved()
        self._files = resolution.listing.files
        source = source_of(parts, request.place)
        # as the hub's own ref: its files may lie in the cache already
        as_hub = replace(resolution, ref=hub_ref(self._manifest.repo, self._manifest.commit))

        async def start(watch: Watch, held: Hold) -> PullReport:
            return await pull(
                parts.context,
                as_hub,
                self._files,
                source,
                request.place.credentials,
                rate_bytes_per_s=request.rate_bytes_per_s,
                watch=watch,
                note=self._note,
                hold=held,
                peers=maybe_peers(parts, resolution, self._files, request.place.credentials),
            )

        async def tell(progress: Progress) -> None:
            await self._emit({"type": "progress", **progress.to_wire()})

        key = ("bucket", resolution.canonical, resolution.listing.endpoint,
               request.place.credentials)  # fmt: skip
        report = self._report = await parts.pulls.wait_pulled(
            key, resolution.canonical, start, tell, hold
        )
        await tell_complete(parts, resolution)
        placed = await trio.to_thread.run_sync(self._place, report)
        return report, placed

    async def _resolved(self) -> Resolution:
        """The manifest as what the store keeps: under the ref of its object, seen as a folder. Who
        may read the bucket only with a login keeps it from agents that do not prove theirs.
        """
        place, manifest = self._request.place, self._manifest
        listing = await asked(self._parts, place, manifest.key)
        listing = as_listing(listing, place.root.bucket, place.root.key or "", manifest)
        return await trio.to_thread.run_sync(
            self._parts.resolver.record, place.ref(manifest.key, folder=True), listing
        )

    def _note(self, report: PullReport) -> None:
        self._report = report
        count_received(self._parts, report)

    def _place(self, report: PullReport) -> Placed:
        """Blocking."""
        manifest, revision = self._manifest, self._request.revision
        return materialise(
            self._request.place.cache,
            manifest.repo.repo_type,
            manifest.repo.repo_id,
            manifest.commit,
            [
                LinkedFile(
                    f.path, f.blob, f.size, report.blobs[f.path].path,
                    lfs_sha256=f.blob if is_sha256(f.blob) else None,
                )
                for f in manifest.files
            ],
            revisions=[] if is_git_sha1(revision) else [revision],
            on_file=lambda _: trio.from_thread.check_cancelled(),
        )  # fmt: skip

    def missing(self) -> list[BucketFile]:
        """What neither the store nor, by its name and size, the cache has. Blocking."""
        parts, repo, cache = self._parts, self._manifest.repo, self._request.place.cache
        here = parts.store.find_any_of([file.digest for file in self._manifest.files])
        lacks = []
        for file in self._manifest.files:
            if file.digest in here:
                continue
            found = find_blob(cache, repo.repo_type, repo.repo_id, file.blob)
            if found is None or found.stat().st_size != file.size:
                lacks.append(file)
        return lacks

    def answer(
        self, report: PullReport | None, placed: Placed | None, missing: list[BucketFile] | None
    ) -> dict[str, Any]:
        """What the caller is told. `missing`: of a dry run."""
        fetched = 0 if report is None else report.statistics.fetched_bytes
        replaced = [] if placed is None else placed.replaced
        return {
            "repo": self._manifest.repo.repo_id,
            "repo_type": self._manifest.repo.repo_type,
            "commit": self._manifest.commit,
            "source": "bucket",
            "path": None if placed is None else str(placed.directory),
            "files": len(self._manifest.files),
            "total_bytes": self._manifest.size,
            "fetched_bytes": fetched,
            "reused_bytes": max(0, self._manifest.size - fetched),
            "seconds": 0.0,
            "pull": None if report is None else self._id,
            "notes": [f"replaced `{name}`, which had other content" for name in replaced],
            "dry_run": None
            if missing is None
            else {
                "missing_files": len(missing),
                "missing_bytes": sum(file.size for file in missing),
            },
        }

    async def save(
        self, started_at: float, seconds: float, error: P2PCacheError | None
    ) -> str | None:
        """Write the receipt that `why` shows. Returns why it could not be written, if so."""
        place = self._request.place
        made = receipt(
            pull=self._id,
            ref=refs.canonical(place.ref(self._manifest.key, folder=True)),
            started_at=started_at,
            seconds=seconds,
            times={},
            resolution=self._resolution,
            total_bytes=self._manifest.size,
            report=self._report,
            error=error,
        )
        return await keep_receipt(self._parts.store, made)


def hub_ref(repo: RepoFolder, commit: str) -> refs.HfRef:
    """A commit of a repository, as a hub is asked for it."""
    return refs.HfRef(cast("refs.RepoType", repo.repo_type), repo.repo_id, commit)
