"""Folders of this machine: what is listed, and what never leaves them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from p2pcache.content.refs import FileRef
from p2pcache.errors import NotFound, P2PCacheError, UsageError
from p2pcache.sources.file import MOST_NAMED, FileOptions, FileSource, list_path
from p2pcache.sources.port import Credentials

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "folder"
    (made / "sub").mkdir(parents=True)
    (made / "sub" / "b.bin").write_bytes(b"bb")
    (made / "a.bin").write_bytes(b"a")
    return made


def paths(folder: Path, **options: int) -> list[str]:
    return [file.path for file in list_path(str(folder), FileOptions(**options)).files]


def test_a_folder_is_listed_in_order_with_sizes(folder: Path) -> None:
    listing = list_path(str(folder))
    assert [(f.path, f.size) for f in listing.files] == [("a.bin", 1), ("sub/b.bin", 2)]
    assert listing.mutable


def test_an_empty_folder_is_an_empty_listing(tmp_path: Path) -> None:
    assert paths(tmp_path) == []


def test_the_named_path_itself_may_be_a_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    assert paths(tmp_path / "link") == ["a.bin", "sub/b.bin"]


def test_links_inside_the_folder_are_followed(folder: Path) -> None:
    (folder / "again.bin").symlink_to("sub/b.bin")
    (folder / "same").symlink_to("sub")
    assert paths(folder) == ["a.bin", "again.bin", "same/b.bin", "sub/b.bin"]


@pytest.mark.parametrize("target", ["../outside", "/etc/passwd", "..", "../folder-too/x"])
def test_links_out_of_the_folder_are_refused(folder: Path, tmp_path: Path, target: str) -> None:
    (tmp_path / "outside").write_bytes(b"secret")
    (tmp_path / "folder-too").mkdir()  # its name starts with the folder's
    (tmp_path / "folder-too" / "x").write_bytes(b"secret")
    (folder / "sub" / "link").symlink_to(target if target[0] == "/" else f"../{target}")
    with pytest.raises(UsageError, match=r"leads out|never end"):
        paths(folder)


def test_a_link_to_a_folder_that_holds_it_is_refused(folder: Path) -> None:
    (folder / "sub" / "loop").symlink_to("../sub")
    with pytest.raises(UsageError, match="never end"):
        paths(folder)


@pytest.mark.parametrize("target", ["nowhere", "a.bin/below"])
def test_a_dangling_link_is_refused(folder: Path, target: str) -> None:
    (folder / "gone").symlink_to(target)
    with pytest.raises(UsageError, match="'gone' is a link to something that is not there"):
        paths(folder)


def test_all_that_cannot_be_taken_is_named_at_once(folder: Path) -> None:
    (folder / "gone").symlink_to("nowhere")
    (folder / "out").symlink_to("/etc/passwd")
    os.mkfifo(folder / "sub" / "pipe")
    (folder / "sub" / "loop").symlink_to("..")
    with pytest.raises(UsageError) as caught:
        paths(folder)
    said, *lines = caught.value.message.splitlines()
    assert said == f"{folder} has what cannot be taken:"
    assert sorted(line.split("'")[1] for line in lines) == ["gone", "out", "sub/loop", "sub/pipe"]
    assert caught.value.hint


def test_of_many_that_cannot_be_taken_the_first_are_named_and_all_counted(folder: Path) -> None:
    for number in range(MOST_NAMED + 7):
        (folder / f"gone-{number}").symlink_to("nowhere")
    with pytest.raises(UsageError) as caught:
        paths(folder)
    assert len(caught.value.message.splitlines()) == 1 + MOST_NAMED + 1
    assert caught.value.message.endswith("and 7 more")


def test_a_pipe_is_refused_without_being_opened(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    with pytest.raises(UsageError, match="regular"):
        paths(folder)


@pytest.mark.parametrize("name", [b"bad\xff", b"new\nline", b"back\\slash"])
def test_names_that_no_manifest_holds_are_refused(folder: Path, name: bytes) -> None:
    with open(os.path.join(os.fsencode(folder), name), "wb"):
        pass
    with pytest.raises(UsageError, match=r"refused|UTF-8|utf-8") as caught:
        paths(folder)
    assert caught.value.hint == "rename the file"


@pytest.mark.parametrize("options", [{"max_files": 1}, {"max_depth": 1}])
def test_bounds_are_kept(folder: Path, options: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        paths(folder, **options)


@pytest.mark.parametrize(
    ("path", "error"), [("relative/path", UsageError), ("/no/such/path", NotFound)]
)
async def test_paths_that_mean_nothing_here(path: str, error: type[P2PCacheError]) -> None:
    with pytest.raises(error):
        await FileSource().list(FileRef(path), Credentials())


def test_a_link_to_the_folder_itself_is_no_link_out_of_it(folder: Path) -> None:
    (folder / "loop").symlink_to(".")
    with pytest.raises(UsageError, match="'loop' is a link to the folder that holds it"):
        paths(folder)
