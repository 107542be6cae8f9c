"""Where uploads go on, on this disk."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from p2pcache.destinations.sessions import KEPT_S, MAX_BYTES, Sessions

if TYPE_CHECKING:
    from pathlib import Path


def test_a_session_is_its_owners_alone_and_goes_when_it_is_over(tmp_path: Path) -> None:
    folder = tmp_path / "uploads"
    kept = Sessions(folder)
    assert kept.find("here", "a") is None
    kept.keep("here", "a", "first")
    kept.keep("here", "a", "https://there/secret")
    kept.keep("here", "b", "another")
    assert (kept.find("here", "a"), kept.find("here", "b")) == ("https://there/secret", "another")
    assert kept.find("elsewhere", "a") is None
    assert [stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()] == [0o600] * 2
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not any("secret" in path.name for path in folder.iterdir())
    kept.drop("here", "a")
    kept.drop("here", "never kept")
    assert (kept.find("here", "a"), kept.find("here", "b")) == (None, "another")


def test_what_no_place_knows_any_more_is_not_asked_for_and_goes(tmp_path: Path) -> None:
    Sessions(tmp_path).keep("here", "old", "x")
    (path,) = tmp_path.iterdir()
    later = Sessions(tmp_path, lambda: path.stat().st_mtime + KEPT_S + 1)
    assert later.find("here", "old") is None
    later.drop("here", "other")
    assert not list(tmp_path.iterdir())


def test_what_somebody_wrote_over_is_bounded_and_no_error(tmp_path: Path) -> None:
    kept = Sessions(tmp_path)
    kept.keep("here", "a", "x")
    (path,) = tmp_path.iterdir()
    path.write_bytes(b"y" * (MAX_BYTES + 5))
    assert len(kept.find("here", "a") or "") == MAX_BYTES
    path.write_bytes(b"\xff\xfe")
    assert kept.find("here", "a") is None
