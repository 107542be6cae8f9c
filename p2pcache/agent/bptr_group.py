"""One ref that pointers name: its files, compared with their word, brought as `get` would."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import trio

from p2pcache.agent.keep_receipt import keep_receipt
from p2pcache.agent.peering import count_received, maybe_peers, tell_complete
from p2pcache.content import digests, refs
from p2pcache.errors import NotFound, P2PCacheError, Unavailable, Untrusted
from p2pcache.sources.port import ListedFile, Listing
from p2pcache.sources.urls import file_name, origin_of, shown
from p2pcache.store.blobs import BlobInfo
from p2pcache.transfer.known import with_known_digests
from p2pcache.transfer.names import OTHERS
from p2pcache.transfer.pull import pull
from p2pcache.transfer.receipts import receipt
from p2pcache.transfer.resolve import Resolution, manifest_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from p2pcache.agent.parts import Parts
    from p2pcache.agent.pulls import Watch
    from p2pcache.formats.bptr.plan import Target
    from p2pcache.sources.port import Credentials
    from p2pcache.store.store import Hold
    from p2pcache.transfer.progress import Progress
    from p2pcache.transfer.want import PullReport

    Tell = Callable[[str, Progress], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class GroupOptions:
    """How a group is brought. `credentials`: the caller's, for this origin."""

    credentials: Credentials
    offline: bool
    rate_bytes_per_s: float | None


class Group:
    """The targets of one ref."""

    def __init__(self, parts: Parts, options: GroupOptions, targets: Sequence[Target]) -> None:
        self.listed: dict[Target, ListedFile] = {}
        self.notes: tuple[str, ...] = ()
        self._parts = parts
        self._options = options
        self._targets = targets
        self._resolution: Resolution | None = None
        self._report: PullReport | None = None

    async def of_url(self, ref: refs.HttpRef) -> Resolution:
        """What a URL has now, or offline what its pointer says of it. Raises as `Source.list`.

        It is shown and recorded without its query, which may be a signature: no receipt and no
        index is to keep it.
        """
        parts, target = self._parts, self._targets[0]
        if self._options.offline:
            if target.digest is None:
                raise NotFound(
                    f"`{target.path}` has no digest that it could be known by",
                    hint="without --offline its origin is asked",
                )
            file = ListedFile(file_name(ref.url), target.size, target.digest, key=ref.url)
            listing = Listing("http", origin_of(ref.url), None, False, (file,))
        else:
            source = parts.resolver.source_for(ref)
            try:
                with trio.fail_after(parts.config.resolve.timeout_s):
                    listing = await source.list(ref, self._options.credentials)
            except trio.TooSlowError as exc:
                raise Unavailable(f"{shown(ref.url)} did not answer in time") from exc
        plain = replace(ref, url=shown(ref.url))
        known = await trio.to_thread.run_sync(parts.resolver.recorded, plain)
        if known is not None:
            listing = _keyed(with_known_digests(_keyed(listing, plain.url), known.listing), ref.url)
        return Resolution(
            plain, refs.canonical(plain), listing, manifest_of(listing), parts.now(), False
        )

    async def bring(self, resolution: Resolution, tell: Tell, hold: Hold) -> PullReport:
        """Pull the files of the targets into the store. Raises as `transfer.pull`."""
        parts = self._parts
        resolution = self._resolution = await trio.to_thread.run_sync(self._checked, resolution)
        files = list({file.path: file for file in self.listed.values()}.values())
        canonical = resolution.canonical
        key = (
            "bptr", canonical, frozenset((f.path, f.name, f.validator, f.size) for f in files),
            self._options.offline, resolution.listing.endpoint, self._options.credentials,
        )  # fmt: skip

        async def start(watch: Watch, held: Hold) -> PullReport:
            asked = not self._options.offline and resolution.listing.source != OTHERS
            return await pull(
                parts.context,
                resolution,
                files,
                parts.resolver.source_for(resolution.ref) if asked else None,
                self._options.credentials,
                rate_bytes_per_s=self._options.rate_bytes_per_s,
                watch=watch,
                note=self._note,
                hold=held,
                peers=maybe_peers(parts, resolution, files, self._options.credentials),
            )

        async def told(progress: Progress) -> None:
            await tell(canonical, progress)

        report = await parts.pulls.wait_pulled(key, canonical, start, told, hold)
        self._report = report
        if resolution.manifest is None:
            resolution = self._resolution = await trio.to_thread.run_sync(
                self._named, resolution, report
            )
        await tell_complete(parts, resolution)
        self.notes = resolution.notes
        return report

    def _named(self, resolution: Resolution, report: PullReport) -> Resolution:
        """With the digests that only the arrived bytes could tell. Blocking."""
        if not isinstance(resolution.ref, refs.HttpRef):
            return self._parts.resolver.named_by_arrival(resolution, report.blobs)
        files = []
        for file in resolution.listing.files:
            blob = report.blobs[file.path]
            assert isinstance(blob, BlobInfo), "no URL is a root"
            files.append(replace(file, size=blob.size, digest=blob.digest))
        listing = replace(resolution.listing, files=tuple(files))
        return self._parts.resolver.record(resolution.ref, _keyed(listing, resolution.ref.url))

    def _listing(self, resolution: Resolution, files: Sequence[ListedFile]) -> Resolution:
        """The same with these files; their manifest is kept once it is known. Blocking."""
        listing = replace(resolution.listing, files=tuple(files))
        manifest = manifest_of(listing)
        if manifest is not None:
            self._parts.store.put_manifest(manifest)
        return replace(resolution, listing=listing, manifest=manifest)

    def _note(self, report: PullReport) -> None:
        self._report = report
        count_received(self._parts, report)

    def _checked(self, resolution: Resolution) -> Resolution:
        """With the pointers' word where the origin has none. Raises Untrusted where they differ."""
        by_path = {file.path: file for file in resolution.listing.files}
        single = len(by_path) == 1
        for target in self._targets:
            path = target.inner or (next(iter(by_path)) if single else None)
            file = None if path is None else by_path.get(path)
            if file is None:
                raise NotFound(
                    f"`{resolution.canonical}` has no file for `{target.path}`",
                    hint="make the pointer file again: p2pcache bptr create",
                )
            self.listed[target] = by_path[file.path] = _with_word(file, target)
        files = tuple(by_path.values())
        if files == resolution.listing.files and not isinstance(resolution.ref, refs.HttpRef):
            return resolution  # recorded where it was resolved
        return self._listing(resolution, files)

    async def save(
        self, pull_id: str, started_at: float, seconds: float, error: P2PCacheError | None
    ) -> str | None:
        """Write the receipt that `why` shows. Returns why it could not be written, if so."""
        ref = self._targets[0].ref
        if isinstance(ref, refs.HttpRef):
            ref = replace(ref, url=shown(ref.url))
        made = receipt(
            pull=pull_id,
            ref=refs.canonical(ref),
            started_at=started_at,
            seconds=seconds,
            times={},
            resolution=self._resolution,
            total_bytes=sum(target.size for target in self._targets),
            report=self._report,
            error=error,
        )
        return await keep_receipt(self._parts.store, made)


def _keyed(listing: Listing, url: str) -> Listing:
    """The listing of one URL as that of another, of the same file."""
    return replace(listing, files=tuple(replace(file, key=url) for file in listing.files))


def _with_word(file: ListedFile, target: Target) -> ListedFile:
    """The listed file, with what only the pointer knows. Raises Untrusted where they differ."""
    if file.size is not None and file.size != target.size:
        raise differs(target, f"{target.size} bytes", f"{file.size}")
    digest = target.digest
    if digest is None or digest == file.digest:
        return replace(file, size=target.size)
    if file.digest is None:
        return replace(file, size=target.size, digest=digest, validator=None)
    if digests.is_git_sha1(digest) == digests.is_git_sha1(file.digest):
        raise differs(target, digests.describe(digest), digests.describe(file.digest))
    return file  # two kinds of digest: the pointer's is compared with what arrived


def differs(target: Target, promised: str, found: str) -> Untrusted:
    """The error where a pointer's word and an origin's, or the bytes that arrived, are not one."""
    return Untrusted(
        f"`{target.path}`: the pointer file says {promised}, the origin has {found}",
        hint="it was changed there, or the pointer file is wrong: make it again",
    )
