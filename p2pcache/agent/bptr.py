"""Bring what pointer files name: each ref as `get` would, each file under the pointer's name.

A repository of a hub is pulled as itself, so that its swarm is that of everybody who wants the same
commit. What a pointer promises (size, digest) is compared with what the origin lists before a byte
moves, and with what arrived before anything is shown.
"""

from __future__ import annotations

import uuid
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from p2pcache.agent.bptr_group import Group, GroupOptions, differs
from p2pcache.agent.bptr_logins import login_of, takes_login
from p2pcache.agent.get import MAX_NOTES, trim
from p2pcache.content import digests, refs
from p2pcache.errors import (
    Denied,
    NotFound,
    P2PCacheError,
    UsageError,
    plain_errors,
)
from p2pcache.formats.bptr.load import load_pointers
from p2pcache.formats.bptr.plan import (
    Target,
    model_file_name,
    model_ref,
    model_selection,
    parsed,
    place_of,
    target_of,
)
from p2pcache.store.blobs import BlobInfo
from p2pcache.store.folder import FolderFile, materialise_folder
from p2pcache.transfer.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from p2pcache.agent.args import Args
    from p2pcache.agent.parts import Emit, Parts
    from p2pcache.formats.bptr.pointers import Model, PointerFile
    from p2pcache.sources.port import Credentials
    from p2pcache.store.rooted import AnyBlob
    from p2pcache.store.store import Hold
    from p2pcache.transfer.resolve import Resolution

MAX_AT_ONCE = 64  # refs; each may have a listing and a driver of its own


@dataclass(frozen=True, slots=True)
class _Request:
    """A checked call. `folders`: see `plan.place_of`; `secrets`: the caller's logins by name."""

    files: tuple[str, ...]
    inline: str | None
    folders: dict[str, str]
    model_path: str
    secrets: dict[str, str] = field(repr=False)
    credentials: Credentials
    links: bool
    offline: bool
    rate_bytes_per_s: float | None
    at_once: int


def _request(args: Args, links: bool) -> _Request:
    folders, files = args.text_map("folders"), args.texts("files")
    for path in (*files, *folders.values(), *filter(None, folders)):
        if not path.startswith("/"):
            raise UsageError(f"`{path}` must be an absolute path")
    if "" not in folders:
        raise UsageError("`folders` says nothing about relative names")
    at_once = args.size("at_once") or 1
    return _Request(
        files=files,
        inline=args.optional_text("inline"),
        folders=folders,
        model_path=args.optional_text("model_path") or "",
        secrets=args.text_map("secrets"),
        credentials=args.credentials(),
        links=args.flag("links", links),
        offline=args.flag("offline"),
        rate_bytes_per_s=args.positive("limit_rate"),
        at_once=min(at_once, MAX_AT_ONCE),
    )


async def pull_pointers(parts: Parts, args: Args, emit: Emit) -> dict[str, Any]:
    """Bring every file that the pointer files name, verified, and show them in their folders.

    Nothing is shown unless all of it arrived. If cancelled, what was verified stays in the store.
    Raises as `get`; Untrusted also for what differs from a pointer's word, Denied for a pointer
    that expired.
    """
    request = _request(args, parts.config.links)
    started = trio.current_time()
    file = await trio.to_thread.run_sync(load_pointers, request.files, request.inline)
    with parts.store.running() as hold:
        run = _Run(parts, request, emit, hold)
        with plain_errors():
            targets = await run.all(file)
        placed = await trio.to_thread.run_sync(_place, request, targets, run.blobs)
    if run.fetched_bytes:
        await trim(parts)
    total = sum(target.size for target in targets)
    notes = [*file.notes, *dict.fromkeys(run.notes), *placed.notes]
    more = len(notes) - MAX_NOTES
    return {
        "folders": sorted({target.folder for target in targets}),
        "files": len(targets),
        "total_bytes": total,
        "fetched_bytes": run.fetched_bytes,
        "reused_bytes": max(0, total - run.fetched_bytes),
        "seconds": trio.current_time() - started,
        "made": dict(placed.made),
        "pulls": run.pulls,
        "notes": notes if more <= 0 else [*notes[:MAX_NOTES], f"and {more} more notes like these"],
    }


@dataclass(slots=True)
class _Placed:
    made: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)


def _place(
    request: _Request, targets: Sequence[Target], blobs: Mapping[Target, AnyBlob]
) -> _Placed:
    """Blocking. Links where links work; what is right already stays."""
    done = _Placed()
    for folder in dict.fromkeys(target.folder for target in targets):
        wanted = [
            FolderFile(target.path, blobs[target].size, blobs[target].path)
            for target in targets
            if target.folder == folder
        ]
        shown = materialise_folder(
            Path(folder), wanted, links=request.links,
            on_file=lambda _: trio.from_thread.check_cancelled(),
        )  # fmt: skip
        done.made.update({str(kind): count for kind, count in shown.made.items()})
        done.notes += [f"replaced `{name}`, which had other content" for name in shown.replaced]
    return done


class _Run:
    """One call: its targets, grouped by the ref that they belong to, several groups at a time."""

    def __init__(self, parts: Parts, request: _Request, emit: Emit, hold: Hold) -> None:
        self.blobs: dict[Target, AnyBlob] = {}
        self.notes: list[str] = []
        self.pulls: list[str] = []
        self.fetched_bytes = 0
        self._parts = parts
        self._request = request
        self._emit = emit
        self._hold = hold
        self._limit = trio.CapacityLimiter(request.at_once)
        self._total_bytes = self._total_files = 0
        self._done: dict[str, int] = {}  # bytes, by what brings them

    async def all(self, file: PointerFile) -> list[Target]:
        """Every target, in the order of the file; `blobs` has them all then."""
        hub = self._request.credentials.hf_endpoint
        now = self._parts.now()
        targets = [target_of(p, self._request.folders, now, hub) for p in file.pointers]
        for model in file.models:
            targets += await self._of_model(model)
        targets = self._once(targets)
        self._total_bytes = sum(target.size for target in targets)
        self._total_files = len(targets)
        await trio.to_thread.run_sync(self._find_here, targets)
        missing = [target for target in targets if target not in self.blobs]
        for target in missing:
            if target.expired:
                raise _expired(target)
        groups: dict[tuple[str, str], list[Target]] = {}
        for target in missing:
            groups.setdefault((refs.canonical(target.ref), target.secret), []).append(target)
        await self._tell("here", Progress("resolving"))
        async with trio.open_nursery() as nursery:
            for group in groups.values():
                nursery.start_soon(self._bring, group)
        return targets

    def _once(self, targets: Sequence[Target]) -> list[Target]:
        """One target a place; the first counts, as for the pointers of several files."""
        first: dict[tuple[str, str], Target] = {}
        for target in targets:
            known = first.setdefault((target.folder, target.path), target)
            if (known.digest, known.size) != (target.digest, target.size):
                self.notes.append(f"`{target.path}` is named twice: the first counts")
        return list(first.values())

    async def _of_model(self, model: Model) -> list[Target]:
        """What a model means now: it is listed at every pull."""
        ref = parsed(model_ref(model))
        resolution = await self._resolve(ref, model.secret)
        selection = model_selection(model)
        files = [f for f in resolution.listing.files if selection.takes(f.path)]
        if not files:
            raise NotFound(
                f"no file of `{resolution.canonical}` matches", hint="`*` also crosses `/`"
            )
        commit = refs.at_commit(resolution.canonical, resolution.listing.immutable)
        pinned = ref if commit is None else refs.parse_ref(commit)
        targets = []
        for f in files:
            name = model_file_name(self._request.model_path, model.volume, f.path)
            folder, path = place_of(name, self._request.folders)
            if f.size is None:
                raise UsageError(f"the origin does not say how long `{f.path}` is")
            targets.append(Target(pinned, f.path, folder, path, f.size, f.digest, model.secret))
        return targets

    def _find_here(self, targets: Sequence[Target]) -> None:
        """Blocking. What the store has needs no origin, and no pointer that still works."""
        store = self._parts.store
        found = store.find_held([t.digest for t in targets if t.digest is not None], self._hold)
        for target in targets:
            blob = None if target.digest is None else found.get(target.digest)
            if blob is not None:
                self._keep(target, blob)
        self._done["here"] = sum(target.size for target in self.blobs)

    def _keep(self, target: Target, blob: AnyBlob) -> None:
        if blob.size != target.size:
            raise differs(target, f"{target.size} bytes", f"{blob.size}")
        digest = target.digest
        if digest is not None and digests.is_sha256(digest):
            assert isinstance(blob, BlobInfo), "no pointer names a root"
            if blob.digest != digest:
                raise differs(target, digests.describe(digest), digests.describe(blob.digest))
        self.blobs[target] = blob

    def _credentials(self, ref: refs.Ref, name: str) -> Credentials:
        return login_of(ref, name, self._request.credentials, self._request.secrets)

    async def _resolve(self, ref: refs.Ref, secret: str) -> Resolution:
        resolution = await self._parts.resolver.resolve(
            ref, self._credentials(ref, secret), offline=self._request.offline
        )
        self._tell_unused(ref, secret)
        return resolution

    def _tell_unused(self, ref: refs.Ref, secret: str) -> None:
        if not takes_login(ref) and secret in self._request.secrets:
            self.notes.append(f"the login `{secret}` is for hubs and S3: no other origin gets it")

    async def _bring(self, group: Sequence[Target]) -> None:
        async with self._limit:
            ref, secret = group[0].ref, group[0].secret
            pull_id, started_at, started = (
                uuid.uuid4().hex[:12],
                self._parts.now(),
                trio.current_time(),
            )
            options = GroupOptions(
                self._credentials(ref, secret),
                self._request.offline,
                self._request.rate_bytes_per_s,
            )
            one = Group(self._parts, options, group)
            try:
                if isinstance(ref, refs.HttpRef):
                    self._tell_unused(ref, secret)
                    resolution = await one.of_url(ref)
                else:
                    resolution = await self._resolve(ref, secret)
                report = await one.bring(resolution, self._tell, self._hold)
                for target in group:
                    self._keep(target, report.blobs[one.listed[target].path])
            except P2PCacheError as exc:
                await one.save(pull_id, started_at, trio.current_time() - started, exc)
                raise
            unsaved = await one.save(pull_id, started_at, trio.current_time() - started, None)
            self.pulls.append(pull_id)
            self.notes += [*([] if unsaved is None else [unsaved]), *one.notes]
            self.fetched_bytes += report.statistics.fetched_bytes

    async def _tell(self, what: str, progress: Progress) -> None:
        """All groups together."""
        self._done[what] = max(progress.done_bytes, self._done.get(what, 0))
        whole = replace(
            progress,
            done_bytes=sum(self._done.values()),
            total_bytes=self._total_bytes,
            files_done=len(self.blobs),
            files_total=self._total_files,
        )
        await self._emit({"type": "progress", **whole.to_wire()})


def _expired(target: Target) -> Denied:
    return Denied(
        f"the pointer to `{target.path}` has expired: its URL is not asked",
        hint="make the pointer file again, where the files are",
    )
