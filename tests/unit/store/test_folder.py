"""`--to DIR`: what happens to a user's own folder."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from p2pcache.errors import LocalFault, Untrusted, UsageError
from p2pcache.store.durable import local_faults
from p2pcache.store.folder import COPIED_BELOW_BYTES, FolderFile, materialise_folder
from p2pcache.store.links import LinkKind
from p2pcache.store.placing import Tree

LARGE = os.urandom(COPIED_BELOW_BYTES + 1)
CONTENT = {"config.json": b"{}\n", "empty": b"", "a dir/🚀.bin": LARGE, "a dir/b/c.txt": b"c"}


@pytest.fixture
def files(tmp_path):
    return stored(tmp_path / "store", CONTENT)


@pytest.fixture
def target(tmp_path):
    return tmp_path / "to"


def stored(store, content):
    store.mkdir()
    files = []
    for number, (path, data) in enumerate(content.items()):
        blob = store / str(number)
        blob.write_bytes(data)
        blob.chmod(0o444)
        files.append(FolderFile(path, len(data), blob))
    return files


def contents(directory):
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_the_folder_shows_the_files_and_keeps_what_else_it_has(target, files):
    target.mkdir()
    (target / "mine").write_bytes(b"mine")
    placed = materialise_folder(target, files)
    assert contents(target) == CONTENT | {"mine": b"mine"}
    assert (placed.directory, placed.kept, placed.replaced) == (target, 0, [])


def test_what_people_edit_is_their_own_copy_and_the_store_stays_as_it_was(target, files):
    materialise_folder(target, files)
    (target / "config.json").write_bytes(b"edited in place")
    assert files[0].source.read_bytes() == b"{}\n"
    assert (target / "config.json").stat().st_mode & 0o200


def test_a_large_sealed_file_is_linked_unless_links_are_off(target, files, tmp_path):
    placed = materialise_folder(target, files)
    large = target / "a dir/🚀.bin"
    if LinkKind.REFLINK not in placed.made:  # where the file system can share extents, it does
        assert large.samefile(files[2].source)
    materialise_folder(tmp_path / "own", files, links=False)
    assert not (tmp_path / "own/a dir/🚀.bin").samefile(files[2].source)
    again = materialise_folder(target, files, links=False)
    assert not large.samefile(files[2].source)
    assert again.link_kind in (LinkKind.COPY, LinkKind.REFLINK, None)


def test_an_adopted_file_that_its_owner_can_write_is_never_hard_linked(target, files):
    files[2].source.chmod(0o644)
    materialise_folder(target, files)
    assert not (target / "a dir/🚀.bin").samefile(files[2].source)


def test_an_equal_file_is_left_alone_and_a_different_one_is_replaced(target, files):
    materialise_folder(target, files, links=False)
    (target / "config.json").write_bytes(b"[]\n")  # the same size
    (target / "empty").write_bytes(b"not empty")
    kept = {path: (target / path).stat() for path in CONTENT if path.startswith("a dir")}
    placed = materialise_folder(target, files, links=False)
    assert contents(target) == CONTENT
    assert sorted(placed.replaced) == ["config.json", "empty"]
    assert placed.kept == 2
    for path, before in kept.items():
        after = (target / path).stat()
        assert (after.st_ino, after.st_ctime_ns) == (before.st_ino, before.st_ctime_ns)


def test_a_large_file_of_the_same_size_with_one_other_byte_is_replaced(target, files):
    (target / "a dir").mkdir(parents=True)
    (target / "a dir/🚀.bin").write_bytes(LARGE[:-1] + bytes([LARGE[-1] ^ 1]))
    placed = materialise_folder(target, files)
    assert placed.replaced == ["a dir/🚀.bin"]
    assert (target / "a dir/🚀.bin").read_bytes() == LARGE


def test_times_that_a_tool_set_prove_nothing(target, tmp_path):
    old, new = os.urandom(2 * COPIED_BELOW_BYTES), os.urandom(2 * COPIED_BELOW_BYTES)
    [file] = stored(tmp_path / "store", {"weights.bin": new})
    target.mkdir()
    (target / "weights.bin").write_bytes(old)
    for path in (file.source, target / "weights.bin"):
        os.utime(path, (0, 0))  # as tar and image builders do
    materialise_folder(target, [file])
    assert (target / "weights.bin").read_bytes() == new


def test_small_files_written_in_one_tick_of_the_clock_are_told_apart(target, files):
    target.mkdir()
    (target / "config.json").write_bytes(b"[]\n")
    then = files[0].source.stat().st_mtime_ns
    os.utime(target / "config.json", ns=(then, then))
    assert materialise_folder(target, files).replaced == ["config.json"]


def test_a_reader_of_a_replaced_file_keeps_the_old_content(target, files):
    target.mkdir()
    (target / "config.json").write_bytes(b"old")
    with (target / "config.json").open("rb") as reading:
        materialise_folder(target, files)
        assert reading.read() == b"old"


def test_a_link_at_the_files_own_name_is_replaced_and_not_followed(target, files, tmp_path):
    target.mkdir()
    victim = tmp_path / "victim"
    victim.write_bytes(b"v")
    (target / "config.json").symlink_to(victim)
    materialise_folder(target, files)
    assert victim.read_bytes() == b"v"
    assert not (target / "config.json").is_symlink()


@pytest.mark.parametrize("inside", [True, False])
def test_a_linked_parent_inside_the_folder_is_refused(target, files, tmp_path, inside):
    elsewhere = (target if inside else tmp_path) / "elsewhere"
    elsewhere.mkdir(parents=True)
    (target).mkdir(exist_ok=True)
    (target / "a dir").symlink_to(elsewhere)
    with pytest.raises(LocalFault, match="symbolic link"):
        materialise_folder(target, files)
    assert list(elsewhere.iterdir()) == []


def test_the_folder_itself_may_be_a_link(target, files, tmp_path):
    (tmp_path / "real").mkdir()
    target.symlink_to(tmp_path / "real")
    materialise_folder(target, files)
    assert contents(tmp_path / "real") == CONTENT


@pytest.mark.parametrize("path", ["../x", "/x", "a/../x", "a\nb", "C:\\x", "", "a//b"])
def test_a_hostile_name_is_refused_before_anything_is_written(target, files, path):
    with pytest.raises(Untrusted):
        materialise_folder(target, [*files, FolderFile(path, 0, files[1].source)])
    assert not target.exists()


def test_a_name_of_300_bytes_is_refused_and_says_why(target, files):
    with pytest.raises(Untrusted, match="255"):
        materialise_folder(target, [FolderFile("ü" * 150, 0, files[1].source)])


def test_a_name_of_255_bytes_has_room_for_the_temporary_one(target, files):
    materialise_folder(target, [FolderFile("n" * 255, 0, files[1].source)])
    assert (target / ("n" * 255)).exists()


def test_names_that_differ_in_case_are_reported(target, files):
    twins = [FolderFile("Config.json", 0, files[1].source), files[0]]
    assert materialise_folder(target, twins).collisions == (("Config.json", "config.json"),)
    assert contents(target) == {"Config.json": b"", "config.json": b"{}\n"}


def test_the_same_path_twice_is_refused(target, files):
    with pytest.raises(UsageError):
        materialise_folder(target, [files[0], files[0]])


def test_a_file_where_a_folder_must_be_is_not_removed(target, files):
    target.mkdir()
    (target / "a dir").write_bytes(b"mine")
    with pytest.raises(LocalFault, match="not a directory"):
        materialise_folder(target, files)
    assert (target / "a dir").read_bytes() == b"mine"


def test_a_folder_where_a_file_must_be_is_not_removed(target, files):
    (target / "config.json/x").mkdir(parents=True)
    with pytest.raises(LocalFault, match=r"config\.json"):
        materialise_folder(target, files)
    assert (target / "config.json/x").is_dir()


def test_a_source_that_lost_bytes_is_not_shown(target, files):
    files[0].source.chmod(0o644)
    files[0].source.write_bytes(b"{")
    with pytest.raises(LocalFault, match="changed on disk"):
        materialise_folder(target, files)
    assert not (target / "config.json").exists()


def test_across_file_systems_it_copies_and_the_second_time_leaves_the_copy(files):
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        target = Path(elsewhere)
        assert target.stat().st_dev != files[0].source.stat().st_dev, "needs two file systems"
        assert materialise_folder(target, files).made == {LinkKind.COPY: len(CONTENT)}
        assert contents(target) == CONTENT
        assert materialise_folder(target, files).kept == len(CONTENT)


def test_what_on_file_raises_stops_between_two_files(target, files):
    class Stop(Exception):
        pass

    def stop(path):
        if path == "config.json":
            raise Stop

    with pytest.raises(Stop):
        materialise_folder(target, files, on_file=stop)
    assert sorted(contents(target)) == ["a dir/b/c.txt", "a dir/🚀.bin"]


def test_only_old_leftovers_of_dead_processes_are_removed(target):
    target.mkdir()
    (target / ".p2pcache-0123456789abcdef").write_bytes(b"left by a killed process")
    with Tree(target):
        assert [path.name for path in target.iterdir()] == [".p2pcache-0123456789abcdef"]
    (target / ".p2pcache-fedcba9876543210").mkdir()  # a probe for case
    mine = [".p2pcache-notes", ".p2pcache-0123456789abcdef.txt", ".p2pcache-0123456789ABCDEF"]
    for name in mine:
        (target / name).write_bytes(b"the user's own")
    with Tree(target, orphan_age_s=-1.0):
        assert {path.name for path in target.iterdir()} == set(mine)


def test_no_temporary_name_and_no_descriptor_is_left(target, files):
    before = len(os.listdir("/proc/self/fd"))
    materialise_folder(target, files)
    with pytest.raises(LocalFault):
        materialise_folder(target, [FolderFile("config.json/x", 0, files[1].source)])
    assert len(os.listdir("/proc/self/fd")) == before
    assert [path for path in target.rglob("*") if path.name.startswith(".p2pcache")] == []


def test_a_file_where_a_folder_is_needed_is_named_once(tmp_path, files):
    (tmp_path / "file").write_bytes(b"")
    for target in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(LocalFault) as caught:
            materialise_folder(target, files)
        assert "is a file, and a folder is needed" in caught.value.message
        assert caught.value.message.count(str(target)) == 1


def test_where_no_folder_can_be_made_the_hint_says_to_choose_another(files):
    with pytest.raises(LocalFault, match="/proc/p2pcache-no-such") as caught:
        materialise_folder(Path("/proc/p2pcache-no-such"), files)
    assert "choose another folder" in (caught.value.hint or "")


def test_a_path_that_the_message_names_already_is_not_repeated(tmp_path):
    missing = tmp_path / "gone"
    with pytest.raises(LocalFault) as caught, local_faults(f"opening {missing}"):
        missing.read_bytes()
    assert caught.value.message == f"No such file or directory while opening {missing}"
    with pytest.raises(LocalFault) as caught, local_faults("looking"):
        missing.read_bytes()
    assert caught.value.message == f"No such file or directory while looking ({missing})"
