"""What a bucket says, read by a store in memory; and a store that is asked again."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from p2pcache.agent.bucket.patience import TRIES, WAIT_S, Patient
from p2pcache.agent.bucket.remote import BATCH, Remote, _fill, find_revision, read_remote
from p2pcache.destinations.objects.port import Absent
from p2pcache.errors import Conflict, NotFound, P2PCacheError, Unavailable, Untrusted, UsageError
from p2pcache.formats.hf_cache_sync import layout
from p2pcache.formats.hf_cache_sync.documents import MAX_REF_BYTES, BucketManifest
from p2pcache.store.hfcache.layout import RepoFolder
from tests.support.memory_objects import Bucket, MemoryStore

ONE, TWO = "1" * 40, "2" * 40
SHA1 = "6" * 40
MODEL, DATASET = RepoFolder("model", "org/name"), RepoFolder("dataset", "org/name")


@pytest.fixture
def clock() -> MockClock:
    return MockClock(autojump_threshold=0)


def manifest(repo: RepoFolder = MODEL, commit: str = ONE) -> tuple[str, bytes]:
    files = [{"path": "a", "blob": SHA1, "size": 2}]
    document: dict[str, Any] = {
        "repo": repo.repo_id,
        "revision": commit,
        "repo_type": repo.repo_type,
        "files": files,
    }
    return layout.manifest_key(repo.repo_id, commit), json.dumps(document).encode()


async def bucket(*objects: tuple[str, bytes]) -> tuple[MemoryStore, Remote]:
    store = MemoryStore(Bucket())
    for key, body in objects:
        await store.put_small(key, body, None)
    return store, await read_remote(store)


async def test_what_makes_no_sense_is_a_note_and_the_rest_is_read(
    clock: MockClock,
) -> None:
    _, found = await bucket(
        manifest(), ("refs/org__name/main", ONE.encode()), ("refs/org__name/v1", b"no commit"),
        (f"manifests/org__bad@{ONE}.json", b"{}"),
        (f"manifests/org__name@{TWO}.json", manifest()[1]),
        ("refs/org__name/long", b"1" * (MAX_REF_BYTES + 1)), ("somebody/elses", b"x"),
        (f"blobs/{SHA1}", b"xx"), ("blobs/partial.incomplete", b"x"),
    )  # fmt: skip
    assert list(found.revisions) == [(MODEL, ONE)]
    assert found.revisions[MODEL, ONE].refs == ("main",)
    assert found.revisions[MODEL, ONE].missing == ()
    assert len(found.notes) == 4


async def test_a_bucket_of_thousands_of_repositories_is_understood_in_time(
    clock: MockClock,
) -> None:
    """And each has the names that are its own."""
    found = Remote()
    repos = [RepoFolder("model", f"org/name{n}") for n in range(4000)]
    manifests = {
        layout.manifest_key(repo.repo_id, ONE): (BucketManifest(repo, ONE, ()), "v")
        for repo in repos
    }
    commits = {
        layout.own_ref_key(repo, ref): (ONE, "v") for repo in repos for ref in ("v1", "main")
    }
    began = time.process_time()
    _fill(found, manifests, commits)
    assert time.process_time() - began < 3.0, "it grows with their number, not its square"
    assert {one.refs for one in found.revisions.values()} == {("main", "v1")}


async def test_what_all_manifests_list_together_is_bounded(clock: MockClock) -> None:
    store, found = await bucket(manifest(), manifest(commit=TWO))
    assert (await read_remote(store, 2)).revisions == found.revisions
    with pytest.raises(Untrusted):
        await read_remote(store, 1)


async def test_a_blob_of_another_size_is_missing(clock: MockClock) -> None:
    _, found = await bucket(manifest(), (f"blobs/{SHA1}", b"x"))
    assert found.revisions[MODEL, ONE].missing == (SHA1,)


async def test_many_objects_are_read_in_batches(clock: MockClock) -> None:
    refs = [(f"refs/org__name/r{n}", ONE.encode()) for n in range(2 * BATCH + 1)]
    asked: list[str] = []
    there = Bucket(fault=lambda name, key, done: asked.append(name))
    store = MemoryStore(there)
    for key, body in (manifest(), *refs):
        await store.put_small(key, body, None)
    found = await read_remote(store)
    assert len(found.revisions[MODEL, ONE].refs) == len(refs)
    assert asked.count("get many") == 4


async def test_a_shared_ref_of_another_repository_gives_way_to_ours(
    clock: MockClock,
) -> None:
    key = layout.own_ref_key(MODEL, "main")
    store, found = await bucket(
        manifest(),
        manifest(DATASET, TWO),
        ("refs/org__name/main", TWO.encode()),
        (key, ONE.encode()),
    )
    assert found.revisions[MODEL, ONE].refs == found.revisions[DATASET, TWO].refs == ("main",)
    assert (await find_revision(store, "org/name", "model", "main")).commit == ONE
    assert (await find_revision(store, "org/name", "dataset", "main")).commit == TWO
    with pytest.raises(UsageError, match="--repo-type"):
        await _untyped(store)


async def _untyped(store: MemoryStore) -> None:
    try:
        await find_revision(store, "org/name", None, "main")
    except UsageError as exc:
        raise UsageError(f"{exc.message} {exc.hint}") from exc


async def test_of_two_words_on_one_repository_hf_cache_syncs_newer_one_counts(
    clock: MockClock,
) -> None:
    """It writes the shared key alone."""
    key = layout.own_ref_key(MODEL, "main")
    store, found = await bucket(
        manifest(), manifest(MODEL, TWO), ("refs/org__name/main", TWO.encode()), (key, ONE.encode())
    )
    assert found.revisions[MODEL, TWO].refs == ("main",)
    assert found.revisions[MODEL, ONE].refs == ()
    assert (await find_revision(store, "org/name", None, "main")).commit == TWO


async def test_a_ref_without_its_manifest_says_which_commit_is_lost(
    clock: MockClock,
) -> None:
    store, _ = await bucket(("refs/org__name/main", ONE.encode()))
    with pytest.raises(NotFound, match=ONE):
        await find_revision(store, "org/name", None, "main")
    with pytest.raises(NotFound, match="v1"):
        await find_revision(store, "org/name", None, "v1")
    await store.put_small("refs/org__name/v1", b"../x", None)
    with pytest.raises(Untrusted):
        await find_revision(store, "org/name", None, "v1")


def refusing(name: str, errors: list[P2PCacheError]) -> Bucket:
    """A bucket whose next requests of this name fail."""

    def fault(asked: str, key: str, done: bool) -> None:
        if asked == name and errors and not done:
            raise errors.pop(0)

    return Bucket(fault=fault)


async def test_a_store_that_does_not_answer_is_asked_again(clock: MockClock) -> None:
    errors: list[P2PCacheError] = [Unavailable("busy"), Unavailable("busy", retry_after_s=20.0)]
    began = trio.current_time()
    assert await Patient(MemoryStore(refusing("list", errors)), lambda: 0.5).list() == []
    assert trio.current_time() - began == pytest.approx(WAIT_S + 20.0, abs=0.1)
    errors = [Unavailable("busy") for _ in range(10)]
    with pytest.raises(Unavailable):
        await Patient(MemoryStore(refusing("get", errors)), lambda: 0.5).get_small("k", 1)
    assert len(errors) == 10 - TRIES


async def test_what_trying_again_does_not_help_is_told_at_once(clock: MockClock) -> None:
    errors: list[P2PCacheError] = [Conflict("another one"), Conflict("another one")]
    with pytest.raises(Conflict):
        await Patient(MemoryStore(refusing("put", errors)), lambda: 0.5).put_small(
            "k", b"", Absent()
        )
    assert len(errors) == 1
