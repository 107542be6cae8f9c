"""What the index remembers of refs that mean something else than before."""

from __future__ import annotations

import pytest

from p2pcache.content.manifest import FileEntry, Manifest
from p2pcache.store.records import Resolution
from tests.support.stored import name_of

OLD, NEW, NEWEST = ("a" * 40, "b" * 40, "c" * 40)
REF = "hf://org/m_1@main/sub"


def kept(store, immutable: str | None, ref: str = REF, **more) -> bytes:
    data = f"{immutable}".encode()
    manifest = store.put_manifest(Manifest.from_entries([FileEntry("f", len(data), name_of(data))]))
    row = Resolution(ref, manifest, immutable, "hf", "https://hub.example", 1.0, **more)
    store.record_resolution(row)
    return manifest


def known(store) -> dict[str, bytes]:
    return {row.canonical: row.manifest for row in store.resolutions()}


def test_what_a_branch_meant_is_kept_by_its_commit_for_as_long_as_its_manifest(store):
    old, new = kept(store, OLD, extras=b"x"), kept(store, NEW)
    by_commit = f"hf://org/m_1@{OLD}/sub"
    assert known(store) == {REF: new, by_commit: old}
    assert store.resolution(by_commit).extras == b"x"
    kept(store, NEW)
    assert len(known(store)) == 2, "it means the same"
    assert kept(store, OLD) == old
    assert known(store) == {REF: old, by_commit: old, f"hf://org/m_1@{NEW}/sub": new}
    store.rm(new)
    store.rm(old)
    assert known(store) == {}


@pytest.mark.parametrize("ref", ["https://h/latest.bin", "file:/home/me/x"])
def test_what_no_commit_names_is_not_kept_once_its_ref_moved_on(store, ref):
    kept(store, OLD, ref)
    new = kept(store, NEW, ref)
    assert known(store) == {ref: new}
    kept(store, None)
    kept(store, NEW)
    assert len(known(store)) == 2


def test_a_repository_that_is_gated_now_is_so_at_the_commits_that_were_open(store):
    old = kept(store, OLD)
    kept(store, NEW)
    other = kept(store, "d" * 40, f"hf://org/mX1@{'d' * 40}/sub")
    assert store.rights.claimed_manifests() >= {old, other}
    kept(store, NEW, gated=True)
    assert store.rights.claimed_manifests() == {other}, "another repository says nothing of it"
    kept(store, NEWEST, gated=True)
    assert store.rights.claimed_manifests() == {other}


@pytest.mark.parametrize("source", ["peers", "blocks", "ipfs", "kubo"])
def test_who_is_no_origin_opens_nothing(store, source):
    manifest = kept(store, OLD, gated=True)
    row = Resolution("ipfs://bafy", manifest, None, source, "", 2.0)
    store.record_resolution(row)
    assert store.restricted_manifests() == store.hidden_manifests([manifest]) == {manifest}
    assert store.rights.claimed_manifests() == set()
    beside = [FileEntry("g", len(OLD), name_of(OLD.encode()))]
    part = store.put_manifest(Manifest.from_entries(beside))
    store.record_resolution(Resolution("ipfs://bafz", part, None, source, "", 2.0))
    assert store.hidden_manifests([part]) == {part}, "it lists a file of the restricted one"
