"""The follower hashes in order behind writers that work out of order."""

from __future__ import annotations

import hashlib
import mmap
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from p2pcache.lanes.follow import bring_pages, follow, follow_aside
from p2pcache.lanes.orders import BLOCK_BYTES, FaultKind, FollowOrder
from tests.support.partial_files import PartialFiles, block_hashes, some_bytes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

INTERESTING_SIZES = [
    0,  # no block at all
    1,  # one short block
    BLOCK_BYTES,  # exactly one
    BLOCK_BYTES + 1,  # a short last one
    4 * BLOCK_BYTES - 7,
]


def git_sha1(data: bytes) -> bytes:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).digest()


@pytest.mark.parametrize("size", INTERESTING_SIZES)
def test_a_complete_file_gets_all_its_digests(size: int, tmp_path: Path) -> None:
    data = some_bytes(size)
    (tmp_path / "f").write_bytes(data)
    report = follow(FollowOrder(str(tmp_path / "f"), None, size, git_sha1=True))
    assert report.fault is None
    assert report.sha256 == hashlib.sha256(data).digest()
    assert report.git_sha1 == git_sha1(data)
    assert report.block_digests == block_hashes(data)


def test_blocks_that_come_out_of_order_are_hashed_in_order(tmp_path: Path) -> None:
    data = some_bytes(6 * BLOCK_BYTES + 11)
    partial = PartialFiles(tmp_path / "p", len(data))
    with ThreadPoolExecutor(1) as pool:
        order = FollowOrder(partial.path("data"), partial.path("live"), len(data))
        following = pool.submit(follow, order)
        for number in (3, 1, 0, 6, 5, 2, 4):
            with open(partial.path("data"), "r+b") as file:
                file.seek(number * BLOCK_BYTES)
                file.write(data[number * BLOCK_BYTES :][:BLOCK_BYTES])
            assert not following.done()
            with open(partial.path("live"), "r+b") as file:
                file.seek(number)
                file.write(b"\x01")
            time.sleep(0.003)
        report = following.result(5)
    assert report.fault is None
    assert report.sha256 == hashlib.sha256(data).digest()
    assert report.block_digests is None


def vanish(partial: PartialFiles) -> None:
    os.unlink(partial.path("live"))


def shrink(partial: PartialFiles) -> None:
    os.truncate(partial.path("live"), 0)


def lose_data(partial: PartialFiles) -> None:
    os.truncate(partial.path("data"), BLOCK_BYTES // 2)
    partial.write("live", b"\x01" * partial.blocks)


@pytest.mark.parametrize("discard", [vanish, shrink, lose_data])
def test_a_discarded_partial_ends_the_follower_at_once(
    discard: Callable[[PartialFiles], None], tmp_path: Path
) -> None:
    partial = PartialFiles(tmp_path / "p", 3 * BLOCK_BYTES)
    timer = threading.Timer(0.02, discard, (partial,))
    timer.start()
    began = time.monotonic()
    report = follow(FollowOrder(partial.path("data"), partial.path("live"), 3 * BLOCK_BYTES))
    timer.join()
    assert time.monotonic() - began < 1
    assert report.fault is not None
    assert report.fault.kind is FaultKind.LOCAL
    assert report.sha256 == b""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is mapped")
def test_pages_that_cannot_be_read_are_told_before_they_are_touched(tmp_path: Path) -> None:
    """Else the process that hashes would be killed: by a truncated file, by a broken disk."""
    path = tmp_path / "data"
    path.write_bytes(bytes(2 * BLOCK_BYTES))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert bring_pages(mapped)
        os.truncate(path, BLOCK_BYTES)
        assert not bring_pages(mapped)


def test_a_missing_file_is_ours(tmp_path: Path) -> None:
    report = follow(FollowOrder(str(tmp_path / "no"), None, 5))
    assert report.fault is not None
    assert report.fault.kind is FaultKind.LOCAL


def test_a_follower_whose_writers_fall_idle_gives_its_process_back(tmp_path: Path) -> None:
    data = some_bytes(3 * BLOCK_BYTES)
    partial = PartialFiles(tmp_path / "p", len(data))
    partial.write("data", data)
    partial.write("live", b"\x01\x01\x00")
    order = FollowOrder(partial.path("data"), partial.path("live"), len(data), idle_s=0.1)
    report = follow(order)
    assert (report.fault, report.sha256, report.idle_at) == (None, b"", 2 * BLOCK_BYTES)
    partial.write("live", b"\x01\x01\x01")
    report = follow(order)
    assert (report.sha256, report.idle_at) == (hashlib.sha256(data).digest(), None)


def test_a_hash_aside_is_done_where_no_priority_may_be_set_and_passes_its_error_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: int) -> None:
        raise PermissionError("not in this sandbox")

    monkeypatch.setattr(os, "setpriority", refuse)
    data = some_bytes(BLOCK_BYTES + 1)
    path = tmp_path / "data"
    path.write_bytes(data)
    report = follow_aside(FollowOrder(str(path), None, len(data)))
    assert report.sha256 == hashlib.sha256(data).digest()
    with pytest.raises(ValueError, match="null"):
        follow_aside(FollowOrder("\0", None, 1))
