"""`p2pcache cid`: roots of files and folders, without an agent. Against Kubo: tests/real."""

import json
import os
import sys

import pytest

from p2pcache.cli.main import main

HELLO = "bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq"  # ipfs add of `hello`
HELLO_V0 = "QmWfVY9y3xjsixTgbd9AorQxH7VtMpzfx2HaWtsoUYecaX"
EMPTY_FOLDER = "bafybeiczsscdsbs7ffqz55asqdf3smv6klcw3gofszvwlyarci47bgf354"
EMPTY_FOLDER_V0 = "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("P2PCACHE_HOME", str(tmp_path / "home"))
    (tmp_path / "hello").write_bytes(b"hello")
    (tmp_path / "empty").mkdir()
    return tmp_path


def test_files_and_folders_are_named_and_nothing_is_stored_or_started(folder, capsys):
    assert main(["cid", "hello", "empty"]) == 0
    assert capsys.readouterr() == (f"{HELLO}  hello\n{EMPTY_FOLDER}  empty\n", "")
    assert sorted(os.listdir(folder)) == ["empty", "hello"]


def test_the_profile_of_before_gives_what_ipfs_gave_before(capsys):
    assert main(["cid", "hello", "empty", "--profile", "unixfs-v0-2015"]) == 0
    assert capsys.readouterr().out == f"{HELLO_V0}  hello\n{EMPTY_FOLDER_V0}  empty\n"


def test_json_says_sizes_too(capsys):
    assert main(["cid", "hello", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "type": "cid", "path": "hello", "root": HELLO, "profile": "unixfs-v1-2025",
        "size_bytes": 5, "dag_bytes": 5,
    }  # fmt: skip


def test_a_link_is_followed_when_it_is_named_and_is_a_link_in_a_folder(folder, capsys):
    (folder / "to").symlink_to("hello")
    (folder / "empty" / "loop").symlink_to(".")
    assert main(["cid", "to", "empty"]) == 0
    assert capsys.readouterr().out.startswith(f"{HELLO}  to\nbafy")
    assert EMPTY_FOLDER not in capsys.readouterr().out


def test_hidden_files_and_empty_folders_count(folder, capsys):
    (folder / "empty" / ".hidden").mkdir()
    assert main(["cid", "empty"]) == 0
    assert EMPTY_FOLDER not in capsys.readouterr().out


def test_what_cannot_be_named_is_said(folder, capsys):
    assert main(["cid", "nothing"]) == 11
    os.mkfifo(folder / "empty" / "pipe")
    assert main(["cid", "empty"]) == 2
    assert "neither a file nor a folder" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems have UTF-8 names alone")
def test_names_that_are_no_text_are_refused(folder, capsys):
    (folder / "empty" / os.fsdecode(b"\xff")).write_bytes(b"")
    assert main(["cid", "empty"]) == 2
    assert "not UTF-8" in capsys.readouterr().err


def test_what_cannot_be_read_is_said(folder, capsys, monkeypatch):
    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refused)
    assert main(["cid", "empty"]) == 1
    assert "cannot read `empty`: Permission denied" in capsys.readouterr().err
