"""What a bucket of hf-cache-sync holds, read and checked.

Every name in it comes from outside. A manifest or a ref that makes no sense is Untrusted where it
is asked for, and a note where all of them are listed.
"""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from p2pcache.errors import NotFound, Untrusted, UsageError
from p2pcache.formats.hf_cache_sync import layout
from p2pcache.formats.hf_cache_sync.documents import (
    MAX_MANIFEST_BYTES,
    MAX_REF_BYTES,
    BucketManifest,
    parse_manifest,
    parse_ref,
)
from p2pcache.store.hfcache.layout import REPO_TYPES, RepoFolder, is_git_sha1

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from p2pcache.destinations.objects.port import ObjectStore, ReadsMany, Stored

BATCH = 256  # objects that are read by one question: some seconds
BATCH_BYTES = 32 << 20  # of them, unless one alone is longer
MAX_LISTED = 4_000_000  # files of all manifests together, 400 bytes each


@dataclass(frozen=True, slots=True)
class RemoteRevision:
    """A manifest of a bucket. `refs`: the names that mean it. `missing`: blobs that it lists and
    the bucket does not have, or has with another size.
    """

    manifest: BucketManifest
    version: str
    refs: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


@dataclass(slots=True)
class RemoteRef:
    """A ref's object. `repo` None: nothing says whose it is, for its commit has no manifest."""

    key: str
    commit: str
    version: str
    ref: str
    repo: RepoFolder | None


@dataclass(slots=True)
class Remote:
    """All of a bucket. `objects`: by key; `refs`: by key, ours among them."""

    objects: dict[str, Stored] = field(default_factory=dict)
    revisions: dict[tuple[RepoFolder, str], RemoteRevision] = field(default_factory=dict)
    refs: dict[str, RemoteRef] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def has_blob(self, name: str, size: int) -> bool:
        """Whether it is there as a whole: one that broke off has another size."""
        found = self.objects.get(layout.blob_key(name))
        return found is not None and found.size == size


async def read_remote(store: ReadsMany, most_files: int = MAX_LISTED) -> Remote:
    """List the bucket, and read its manifests and refs. Raises as `ObjectStore.list`, and Untrusted
    where all manifests together list more than `most_files`.
    """
    remote = Remote({one.key: one for one in await store.list()})
    manifests: dict[str, tuple[BucketManifest, str]] = {}
    commits: dict[str, tuple[str, str]] = {}
    wanted = [key for key in remote.objects if layout.read_manifest_key(key) is not None]
    room = most_files
    async with aclosing(_read(store, remote, wanted, MAX_MANIFEST_BYTES)) as found:
        async for key, data, version in found:
            try:
                manifest = await trio.to_thread.run_sync(_parsed, data, key)
            except Untrusted as exc:
                remote.notes.append(exc.message)
                continue
            room -= len(manifest.files)
            if room < 0:
                raise Untrusted(f"the manifests of {store.where} list more than {most_files} files")
            manifests[key] = manifest, version
    wanted = [key for key in remote.objects if _is_ref(key)]
    async for key, data, version in _read(store, remote, wanted, MAX_REF_BYTES):
        try:
            commits[key] = parse_ref(data, key), version
        except Untrusted as exc:
            remote.notes.append(exc.message)
    await trio.to_thread.run_sync(_fill, remote, manifests, commits)
    return remote


async def _read(
    store: ReadsMany, remote: Remote, keys: Sequence[str], most_bytes: int
) -> AsyncGenerator[tuple[str, bytes, str], None]:
    """These objects with their versions, a batch at a time; too long ones are a note."""
    batch: list[str] = []
    room = BATCH_BYTES
    for key in keys:
        size = remote.objects[key].size
        if size > most_bytes:
            remote.notes.append(
                f"{key} has {size} bytes, more than {most_bytes}: it is passed over"
            )
            continue
        if batch and (len(batch) == BATCH or size > room):
            for name, (data, version) in (await store.get_many(batch, most_bytes)).items():
                yield name, data, version
            batch, room = [], BATCH_BYTES
        batch.append(key)
        room -= size
    if batch:
        for name, (data, version) in (await store.get_many(batch, most_bytes)).items():
            yield name, data, version


def _is_ref(key: str) -> bool:
    return layout.read_shared_ref_key(key) is not None or _own(key) is not None


def _own(key: str) -> tuple[RepoFolder, str] | None:
    return layout.read_own_ref_key(key)


def _parsed(data: bytes, key: str) -> BucketManifest:
    """Some 5 us a file. Untrusted also where a manifest lies under the name of another."""
    manifest = parse_manifest(data, key)
    if manifest.key != key:
        raise Untrusted(f"{key} is a manifest of {manifest.repo.repo_id}@{manifest.commit}")
    return manifest


def _fill(
    remote: Remote,
    manifests: dict[str, tuple[BucketManifest, str]],
    commits: dict[str, tuple[str, str]],
) -> None:
    """Who each ref belongs to, and which refs and blobs each manifest has. Pure."""
    owners = {key: manifest for key, (manifest, _) in manifests.items()}
    for key, (commit, version) in sorted(commits.items()):
        own, shared = _own(key), layout.read_shared_ref_key(key)
        if own is not None:
            remote.refs[key] = RemoteRef(key, commit, version, own[1], own[0])
        elif shared is not None:
            name, ref = shared
            meant = owners.get(f"{layout.MANIFESTS}{name}@{commit}.json")
            repo = None if meant is None else meant.repo
            remote.refs[key] = RemoteRef(key, commit, version, ref, repo)
    names: dict[tuple[RepoFolder, str], list[str]] = {}
    for (repo, ref), commit in sorted(_meanings(remote).items(), key=lambda item: item[0][1]):
        names.setdefault((repo, commit), []).append(ref)
    for _, (manifest, version) in sorted(manifests.items()):
        refs = tuple(names.get((manifest.repo, manifest.commit), ()))
        missing = {f.blob for f in manifest.files if not remote.has_blob(f.blob, f.size)}
        remote.revisions[manifest.repo, manifest.commit] = RemoteRevision(
            manifest, version, refs, tuple(sorted(missing))
        )


def _meanings(remote: Remote) -> dict[tuple[RepoFolder, str], str]:
    """The commit of each ref of each repository: the shared key's, where it is of that repository,
    for hf-cache-sync writes no other; else ours.
    """
    known: dict[tuple[RepoFolder, str], str] = {}
    for ours in (True, False):
        for found in remote.refs.values():
            if found.repo is not None and found.key.startswith(layout.OURS) == ours:
                known[found.repo, found.ref] = found.commit
    return known


async def find_revision(
    store: ObjectStore, repo_id: str, repo_type: str | None, revision: str
) -> BucketManifest:
    """What a revision of a repository means in the bucket, by a few small reads.

    Raises NotFound, Untrusted, UsageError where models and datasets of that name are there and no
    type is said.
    """
    wanted = REPO_TYPES if repo_type is None else (repo_type,)
    repos = [RepoFolder(kind, repo_id) for kind in wanted]
    if is_git_sha1(revision):
        manifest = await _manifest(store, repo_id, revision)
        if manifest is not None and manifest.repo in repos:
            return manifest
        raise _missing(store, repo_id, revision)
    found: dict[RepoFolder, BucketManifest] = {}
    keys = [layout.shared_ref_key(repo_id, revision)]
    keys += [layout.own_ref_key(repo, revision) for repo in repos]
    lost = None
    for key in keys:
        said = await store.get_small(key, MAX_REF_BYTES)
        if said is None:
            continue
        commit = parse_ref(said[0], key)
        manifest = await _manifest(store, repo_id, commit)
        if manifest is None:
            lost = lost or NotFound(
                f"{store.where} has no manifest of {repo_id}@{commit}, which `{revision}` means",
                hint="push it again from a cache that has it",
            )
        elif manifest.repo in repos:
            found.setdefault(manifest.repo, manifest)
    if len(found) > 1:
        kinds = ", ".join(repo.repo_type for repo in found)
        raise UsageError(
            f"{store.where} has several repositories `{repo_id}`: {kinds}",
            hint="say which with --repo-type",
        )
    if not found:
        raise lost or _missing(store, repo_id, revision)
    return next(iter(found.values()))


async def _manifest(store: ObjectStore, repo_id: str, commit: str) -> BucketManifest | None:
    """None: there is none. It may be another repository's whose name is written alike."""
    key = layout.manifest_key(repo_id, commit)
    found = await store.get_small(key, MAX_MANIFEST_BYTES)
    if found is None:
        return None
    return await trio.to_thread.run_sync(_parsed, found[0], key)


def _missing(store: ObjectStore, repo_id: str, revision: str) -> NotFound:
    return NotFound(
        f"{store.where} has no `{repo_id}` at `{revision}`",
        hint="`p2pcache bucket list --remote` shows what it has",
    )
