"""What p2pcache.truss reads of the environment, and where logins may come from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from p2pcache.config import truss

if TYPE_CHECKING:
    from pathlib import Path


def test_a_login_comes_from_its_variable_before_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_text("of the file\n")
    (tmp_path / "empty").write_text(" \n")
    names = ["a", "empty", "missing"]
    allowed = [str(tmp_path)]
    assert truss.secrets(names, base=tmp_path, folders=allowed) == {"a": "of the file"}
    monkeypatch.setenv("TRUSS_SECRET_a", " of the variable ")
    assert truss.secrets(names, base=tmp_path, folders=allowed) == {"a": "of the variable"}


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "link", "", ".", "a\0b"])
def test_no_name_and_no_link_reads_a_file_elsewhere(tmp_path: Path, name: str) -> None:
    base, outside = tmp_path / "secrets", tmp_path / "outside"
    base.mkdir()
    outside.write_text("not a login")
    (base / "link").symlink_to(outside)
    assert truss.secrets([name], base=base, folders=[str(base)]) == {}


def test_a_folder_that_only_begins_like_an_allowed_one_is_another(tmp_path: Path) -> None:
    base = tmp_path / "secrets-of-others"
    base.mkdir()
    (base / "a").write_text("x")
    assert truss.secrets(["a"], base=base, folders=[str(tmp_path / "secrets")]) == {}


def test_the_folder_and_the_workers_are_those_of_truss_transfer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("TRUSS_TRANSFER_DOWNLOAD_DIR", "TRUSS_TRANSFER_NUM_WORKERS"):
        monkeypatch.delenv(name, raising=False)
    assert (truss.download_dir(None), truss.workers()) == ("/tmp/truss_transfer", 6)
    monkeypatch.setenv("TRUSS_TRANSFER_DOWNLOAD_DIR", "/models")
    monkeypatch.setenv("TRUSS_TRANSFER_NUM_WORKERS", "3")
    assert (truss.download_dir(None), truss.workers()) == ("/models", 3)
    assert truss.download_dir("/mine") == "/mine"
    for nonsense, workers in (("0", 1), ("many", 6), ("99999999999999", 64), ("-1", 6)):
        monkeypatch.setenv("TRUSS_TRANSFER_NUM_WORKERS", nonsense)
        assert truss.workers() == workers
