"""Which files of a folder are taken, and what a look at it leads to."""

from __future__ import annotations

import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pcache.agent.adoption.look import FOLDER, HUB, OLLAMA, known_kind, look
from p2pcache.agent.adoption.plan import BATCH_BYTES, BATCH_FILES, QUIET_NS, batches, plan
from p2pcache.errors import NotFound, UsageError
from p2pcache.store.adoptions import AdoptedFile, FileState

HEX = "ab" * 32


def write(path, data=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def test_links_special_files_and_what_is_still_written_are_left_out(tmp_path):
    top = tmp_path / "top"
    secret = write(tmp_path / "secret")
    for name in ("a.bin", "d/b.bin", "d/.hidden"):
        write(top / name)
    partials = [
        "a.incomplete",
        "sha256-1-partial",
        "sha256-1-partial-3",
        "x.tmp",
        ".tmpq",
        "l.lock",
    ]
    for name in partials:
        write(top / name)
    (top / "out").symlink_to(secret)
    (top / "up").symlink_to(tmp_path)
    (top / "inside").symlink_to("a.bin")
    os.mkfifo(top / "pipe")
    with socket.socket(socket.AF_UNIX) as sock:
        here = os.getcwd()
        os.chdir(top)
        try:
            sock.bind("socket")
        finally:
            os.chdir(here)
        found = look(str(top), FOLDER)
    write(top / "bad\nname")
    assert sorted(found.files) == ["a.bin", "d/.hidden", "d/b.bin"]
    assert found.left_out == {"partial": len(partials), "link": 3, "special file": 2}
    assert look(str(top), FOLDER).left_out["name"] == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_left_out(tmp_path):
    write(tmp_path / "a").chmod(0)
    assert look(str(tmp_path), FOLDER).left_out == {"unreadable": 1}


def test_the_agents_own_folders_are_not_taken(tmp_path):
    write(tmp_path / "a")
    key = write(tmp_path / "p2pcache" / "identity.key")
    stat = key.parent.stat()
    assert sorted(look(str(tmp_path), FOLDER, [(stat.st_dev, stat.st_ino)]).files) == ["a"]


def test_of_a_hub_cache_the_payloads_of_both_layouts_are_taken_and_no_bookkeeping(tmp_path):
    repo = tmp_path / "hub" / "models--o--m"
    payload = write(tmp_path / "hub" / "blobs" / HEX[:2] / HEX)
    write(payload.with_name(HEX + ".refs"))
    write(tmp_path / "hub" / "blobs" / ".huggingface-shared-blobs")
    write(tmp_path / "hub" / "CACHEDIR.TAG")
    write(tmp_path / "token")
    write(repo / "blobs" / HEX[:40])
    write(repo / "blobs" / f"{HEX}.12345678.incomplete")
    (repo / "blobs" / HEX).symlink_to(f"../../blobs/{HEX[:2]}/{HEX}")
    write(repo / "refs" / "main")
    write(repo / "trees" / "c.json")
    write(repo / ".no_exist" / "c" / "x")
    write(repo / "snapshots" / "c" / "written.json")
    folder, kind = known_kind(str(tmp_path))
    assert (folder, kind) == (str(tmp_path / "hub"), HUB)
    assert sorted(look(folder, kind).files) == [
        f"blobs/{HEX[:2]}/{HEX}", f"models--o--m/blobs/{HEX[:40]}",
        "models--o--m/snapshots/c/written.json",
    ]  # fmt: skip


def test_of_ollamas_store_blobs_and_manifests_are_taken_and_no_partial(tmp_path):
    store = tmp_path / "models"
    write(store / "blobs" / f"sha256-{HEX}")
    write(store / "blobs" / f"sha256-{HEX}-partial")
    write(store / "blobs" / f"sha256-{HEX}-partial-0")
    write(store / "manifests" / "registry" / "library" / "m" / "latest")
    write(tmp_path / "id_ed25519")
    assert known_kind(str(tmp_path)) == (str(store), OLLAMA)
    assert sorted(look(str(store), OLLAMA).files) == [
        f"blobs/sha256-{HEX}", "manifests/registry/library/m/latest",
    ]  # fmt: skip


def test_what_is_no_folder_or_is_the_whole_machine_is_refused(tmp_path):
    assert known_kind(str(tmp_path)) == (str(tmp_path), FOLDER)
    with pytest.raises(UsageError, match="is a file"):
        known_kind(str(write(tmp_path / "a")))
    with pytest.raises(UsageError, match="whole machine"):
        known_kind("/")
    with pytest.raises(NotFound):
        known_kind(str(tmp_path / "none"))
    with pytest.raises(NotFound):
        look(str(tmp_path / "none"), FOLDER)


STATES = st.builds(
    FileState, st.just(1), st.integers(1, 3), st.integers(0, 5), st.integers(0, 3 * QUIET_NS)
)
PATHS = st.sampled_from("abcdef")
SHAS = st.sampled_from([bytes([n]) * 32 for n in range(3)])


@given(
    st.dictionaries(PATHS, STATES),
    st.dictionaries(PATHS, st.builds(AdoptedFile, STATES, SHAS)),
    st.sets(SHAS),
    st.integers(0, 3 * QUIET_NS),
)
def test_every_file_is_kept_hashed_or_waits_and_nothing_else_is_believed(
    found, known, missing, now_ns
):
    made = plan(found, known, missing, now_ns)
    parts = [set(made.kept), set(made.hash), set(made.settling)]
    assert set().union(*parts) == set(found)
    assert sum(map(len, parts)) == len(found)
    for path, file in made.kept.items():
        assert known[path] == file
        assert (found[path], file.sha256 in missing) == (file.state, False)
    assert set(made.forget) == {p for p, f in known.items() if found.get(p) != f.state}
    for path in made.hash:
        assert abs(found[path].mtime_ns - now_ns) >= QUIET_NS


@given(st.dictionaries(st.integers(), st.integers(0, 3 * BATCH_BYTES // 2), max_size=600))
def test_batches_hold_every_file_once_and_are_bounded(sizes):
    todo = {str(n): FileState(1, 1, size, 0) for n, size in sizes.items()}
    made = list(batches(todo))
    assert sorted(path for batch in made for path in batch) == sorted(todo)
    for batch in made:
        assert 0 < len(batch) <= BATCH_FILES
        assert len(batch) == 1 or sum(s.size for s in batch.values()) <= BATCH_BYTES
