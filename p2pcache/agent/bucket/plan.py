"""What a push has to send, from what the cache and the bucket hold. Pure.

Blobs of the right size under the name of a digest are there; one that broke off is sent again. A
manifest that is there gets the files that it lacks. A ref of hf-cache-sync's own is written where
no other repository has its key; ours always.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from p2pcache.destinations.objects.port import Absent, Same
from p2pcache.errors import NotFound, Untrusted
from p2pcache.formats.hf_cache_sync import layout
from p2pcache.formats.hf_cache_sync.documents import BucketFile, BucketManifest, merged
from p2pcache.store.hfcache.layout import REPO_TYPES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from p2pcache.agent.bucket.remote import Remote
    from p2pcache.store.hfcache.layout import RepoFolder


@dataclass(frozen=True, slots=True)
class LocalRevision:
    """A snapshot that may go out. `sources`: where the bytes of each blob are, by its name."""

    manifest: BucketManifest
    refs: tuple[str, ...]
    sources: dict[str, Path] = field(repr=False)


@dataclass(frozen=True, slots=True)
class BlobToSend:
    """`condition`: that it is not there, or still what broke off."""

    file: BucketFile
    source: Path
    condition: Absent | Same


@dataclass(frozen=True, slots=True)
class RefToWrite:
    """`condition`: that it is what it was when the bucket was read."""

    key: str
    ref: str
    commit: str
    condition: Absent | Same


@dataclass(slots=True)
class RevisionPlan:
    """What one revision needs: blobs (by name), then its manifest, then its refs. `there`: how many
    of its blobs are in the bucket.
    """

    local: LocalRevision
    blobs: dict[str, BlobToSend]
    there: int
    manifest: BucketManifest | None
    manifest_condition: Absent | Same
    refs: list[RefToWrite]
    notes: list[str]

    @property
    def is_empty(self) -> bool:
        """Whether the bucket has all of it."""
        return not self.blobs and self.manifest is None and not self.refs


def plan_all(
    revisions: Iterable[LocalRevision], remote: Remote
) -> Iterator[RevisionPlan | tuple[LocalRevision, Untrusted]]:
    """Each revision's, models first: of two that share a key of hf-cache-sync's own one gets it."""
    claimed = {ref.key: ref.repo for ref in remote.refs.values() if ref.repo is not None}
    for local in sorted(revisions, key=_order):
        try:
            yield plan_revision(local, remote, claimed)
        except Untrusted as exc:
            yield local, exc


def _order(local: LocalRevision) -> tuple[int, str, str]:
    repo = local.manifest.repo
    return REPO_TYPES.index(repo.repo_type), repo.repo_id, local.manifest.commit


def plan_revision(
    local: LocalRevision, remote: Remote, claimed: dict[str, RepoFolder]
) -> RevisionPlan:
    """`claimed`: whose each shared key is; gets what this one takes. Raises Untrusted where the
    bucket's manifest of this commit has other content.
    """
    ours = local.manifest
    blobs, there = {}, 0
    for file in ours.files:
        if remote.has_blob(file.blob, file.size):
            there += 1
        else:
            condition = condition_of(remote, layout.blob_key(file.blob))
            blobs[file.blob] = BlobToSend(file, local.sources[file.blob], condition)
    known = remote.revisions.get((ours.repo, ours.commit))
    whole = ours if known is None else merged(ours, known.manifest)
    if known is None and ours.key in remote.objects and _is_anothers(ours, remote):
        raise Untrusted(f"{ours.key} in the bucket is the manifest of another repository")
    notes: list[str] = []
    refs = [one for ref in local.refs for one in _refs(ours, ref, remote, claimed, notes)]
    is_new = known is None or whole.files != known.manifest.files
    return RevisionPlan(
        local, blobs, there, whole if is_new else None, condition_of(remote, ours.key), refs, notes
    )


def _is_anothers(ours: BucketManifest, remote: Remote) -> bool:
    return any(
        one.manifest.key == ours.key and repo != ours.repo
        for (repo, _), one in remote.revisions.items()
    )


def condition_of(remote: Remote, key: str) -> Absent | Same:
    """What has to hold for a write of what was seen."""
    found = remote.objects.get(key)
    return Absent() if found is None else Same(found.version)


def _refs(
    ours: BucketManifest,
    ref: str,
    remote: Remote,
    claimed: dict[str, RepoFolder],
    notes: list[str],
) -> list[RefToWrite]:
    repo = ours.repo
    own, shared = layout.own_ref_key(repo, ref), layout.shared_ref_key(repo.repo_id, ref)
    owner = claimed.setdefault(shared, repo)
    if owner != repo:
        notes.append(
            f"`{ref}` of the {repo.repo_type} {repo.repo_id} is not for hf-cache-sync itself: it "
            f"finds that of the {owner.repo_type} {owner.repo_id} under the same name"
        )
    writes = []
    for key in (own, shared) if owner == repo else (own,):
        found = remote.refs.get(key)
        if found is None or found.commit != ours.commit:
            writes.append(RefToWrite(key, ref, ours.commit, condition_of(remote, key)))
    return writes


def selected(revisions: Sequence[LocalRevision], repos: Sequence[str]) -> list[LocalRevision]:
    """Those of the repositories that are named; all, where none is. A name without a type means
    the repository of each type. Raises NotFound for one that is not among them, UsageError.
    """
    if not repos:
        return list(revisions)
    chosen: list[LocalRevision] = []
    for name in repos:
        repo_id, repo_type = layout.named_repo(name)
        found = [
            one
            for one in revisions
            if one.manifest.repo.repo_id == repo_id
            and repo_type in (None, one.manifest.repo.repo_type)
        ]
        if not found:
            raise NotFound(f"the cache has no `{name}`", hint="`p2pcache bucket list`")
        chosen += [one for one in found if one not in chosen]
    return chosen
