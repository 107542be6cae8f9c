"""What is known of folders of others, and what is forgotten with them."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from contextlib import closing

from p2pcache.content.digests import WholeHasher, sha256_digest
from p2pcache.content.verify import verify_whole
from p2pcache.store.adoptions import HUB, AdoptedFile, AdoptedFolder, FileState
from p2pcache.store.blobs import Adoption
from p2pcache.store.store import Store


def adoption(path, data: bytes) -> Adoption:
    path.write_bytes(data)
    hasher = WholeHasher(len(data), git=True)
    hasher.update(data)
    blob = verify_whole(None, len(data), hasher.digests())
    return Adoption(path, blob, FileState.of(path.stat()), None, hashlib.sha256(data).digest())


def noted(store: Store, folder: str, private: bool, *items: Adoption) -> None:
    store.adoptions.add(AdoptedFolder(folder, "folder", private, 1.0))
    files = {one.path.name: AdoptedFile(one.state, one.blob.sha256) for one in items}
    store.adoptions.put(folder, files)
    store.adoptions.adopt(list(items))


def test_folders_and_what_was_hashed_of_them_stay_over_a_restart(tmp_path):
    one = adoption(tmp_path / "a", b"one")
    with Store.open(tmp_path / "home") as store:
        noted(store, str(tmp_path), False, one)
    with Store.open(tmp_path / "home") as store:
        assert [f.path for f in store.adoptions.folders()] == [str(tmp_path)]
        assert store.adoptions.files(str(tmp_path)) == {
            "a": AdoptedFile(one.state, one.blob.sha256)
        }
        found = store.find(sha256_digest(one.blob.sha256))
        assert found is not None
        assert (found.path, found.adopted) == (one.path, True)
        store.adoptions.let_go([(one.blob.sha256, str(one.path))])
        store.adoptions.remove(str(tmp_path))
        assert store.find(sha256_digest(one.blob.sha256)) is None
        assert (store.adoptions.folders(), store.adoptions.files(str(tmp_path))) == ([], {})
    assert one.path.read_bytes() == b"one"


def test_a_copy_of_ours_and_one_that_lies_elsewhere_stay_when_a_file_is_let_go(store, tmp_path):
    one, two = adoption(tmp_path / "a", b"one"), adoption(tmp_path / "b", b"two")
    ours = store.link_in(one.path, one.blob, os.stat(one.path))
    noted(store, str(tmp_path), False, one, two)
    store.adoptions.let_go([(one.blob.sha256, str(one.path)), (two.blob.sha256, "/elsewhere")])
    assert store.find(ours.digest) == ours
    assert store.find(sha256_digest(two.blob.sha256)) is not None
    assert store.adoptions.missing([one.blob.sha256, two.blob.sha256, bytes(32)]) == {bytes(32)}


def test_a_file_that_changed_since_it_was_hashed_is_not_taken_and_the_others_are(store, tmp_path):
    items = [adoption(tmp_path / name, name.encode()) for name in ("a", "b", "c")]
    items[1].path.write_bytes(b"longer")
    items[2].path.unlink()
    told = store.adoptions.adopt(items)
    assert [info is not None for info in told] == [True, False, False]
    assert store.find(sha256_digest(items[1].blob.sha256)) is None


def test_only_what_no_open_folder_has_is_private(store, tmp_path):
    one, two = adoption(tmp_path / "a", b"one"), adoption(tmp_path / "b", b"two")
    noted(store, "/private", True, one, two)
    assert store.adoptions.private() == {one.blob.sha256, two.blob.sha256}
    noted(store, "/open", False, two)
    assert store.adoptions.private() == {one.blob.sha256}
    store.adoptions.add(AdoptedFolder("/private", "folder", False, 2.0))
    assert store.adoptions.private() == frozenset()


def test_files_of_a_hugging_face_cache_are_private_until_they_are_said_to_be_open(store, tmp_path):
    one, two = adoption(tmp_path / "a", b"one"), adoption(tmp_path / "b", b"two")
    adoptions, top = store.adoptions, str(tmp_path)
    noted(store, top, False, one, two)
    both = {one.blob.sha256, two.blob.sha256}
    assert adoptions.private() == frozenset()

    def hub(**more) -> None:
        adoptions.add(AdoptedFolder(top, HUB, False, 1.0, **more))

    hub(endpoint="https://one")
    assert adoptions.private() == both
    adoptions.set_open(top, ["a"])
    assert (adoptions.private(), adoptions.open_paths(top)) == ({two.blob.sha256}, {"a"})
    hub(endpoint="https://one")
    assert adoptions.private() == {two.blob.sha256}, "the same hub"
    adoptions.drop(top, ["a"])
    adoptions.put(top, {"a": AdoptedFile(one.state, one.blob.sha256)})
    assert adoptions.private() == both, "another file, as far as anybody knows"
    adoptions.set_open(top, ["a", "b"])
    hub(endpoint="https://two")
    assert adoptions.private() == both, "what another hub said counts no more"
    hub(public=True)
    assert adoptions.private() == frozenset()
    (folder,) = adoptions.folders()
    assert (folder.public, folder.endpoint, folder.by_word) == (True, "", False)
    hub()
    adoptions.set_open(top, ["a"])
    adoptions.remove(top)
    hub()
    adoptions.put(top, {"a": AdoptedFile(one.state, one.blob.sha256)})
    assert adoptions.private() == {one.blob.sha256}


def test_a_hugging_face_cache_that_an_older_agent_adopted_waits_for_its_hub(tmp_path):
    one = adoption(tmp_path / "a", b"one")
    with Store.open(tmp_path / "home") as store:
        noted(store, str(tmp_path), False, one)
    with closing(sqlite3.connect(tmp_path / "home" / "index.sqlite")) as connection:
        connection.execute("UPDATE adopted_folders SET kind = 'hub'")
        for table in ("restricted_by", "given", "adopted_hubs", "adopted_open"):
            connection.execute(f"DROP TABLE {table}")
        connection.execute("PRAGMA user_version = 10")
        connection.commit()
    with Store.open(tmp_path / "home") as store:
        assert store.adoptions.private() == {one.blob.sha256}
        (folder,) = store.adoptions.folders()
        assert folder.by_word
