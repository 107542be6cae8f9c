"""A file that is written to while it is hashed is not believed."""

from __future__ import annotations

import hashlib
import os
import threading
import time

import pytest

from p2pcache.agent.adoption.gate import open_gate
from p2pcache.lanes.in_place import CHANGED, Hashed, HashOrder, InPlace, hash_in_place

MIB = 1 << 20
DATA = os.urandom(3 * MIB + 5)


def in_place(path) -> InPlace:
    stat = path.stat()
    return InPlace(str(path), stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)


def order(gate, *files: InPlace, rate: float | None = None) -> HashOrder:
    return HashOrder(files, str(gate.path), rate, MIB)


@pytest.fixture
def gate(tmp_path):
    with open_gate(tmp_path / "run" / "gate") as opened:
        yield opened


@pytest.fixture
def theirs(tmp_path):
    path = tmp_path / "theirs"
    path.write_bytes(DATA)
    return path


def test_every_name_and_every_block_of_a_file_is_found(gate, theirs, tmp_path):
    small = tmp_path / "small"
    small.write_bytes(b"hello\n")
    (tmp_path / "empty").touch()
    files = [in_place(path) for path in (theirs, small, tmp_path / "empty")]
    large, little, empty = hash_in_place(order(gate, *files))
    assert isinstance(large, Hashed)
    blocks = [DATA[at : at + MIB] for at in range(0, len(DATA), MIB)]
    assert large.sha256 == hashlib.sha256(DATA).digest()
    assert large.block_digests == b"".join(hashlib.sha256(b).digest() for b in blocks)
    assert large.git_sha1 is None, "hubs name no file of this size so"
    assert isinstance(little, Hashed)
    assert little.git_sha1 == hashlib.sha1(b"blob 6\0hello\n").digest()
    assert isinstance(empty, Hashed)
    assert (empty.sha256, empty.block_digests) == (hashlib.sha256().digest(), b"")
    assert gate.hashed_bytes() == len(DATA) + 6


def write_in_place(path):
    with path.open("r+b") as file:
        file.write(b"x")


def write_in_place_and_set_its_time_back(path):
    stat = path.stat()
    write_in_place(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def append(path):
    with path.open("ab") as file:
        file.write(b"x")


def cut(path):
    os.truncate(path, MIB)


@pytest.mark.parametrize(
    "change", [write_in_place, write_in_place_and_set_its_time_back, append, cut]
)
def test_a_file_that_is_written_to_meanwhile_is_not_believed(gate, theirs, tmp_path, change):
    other = tmp_path / "other"
    other.write_bytes(b"as it was")
    asked = order(gate, in_place(theirs), in_place(other))
    gate.shut(True)
    reports = []
    thread = threading.Thread(target=lambda: reports.append(hash_in_place(asked)))
    thread.start()
    while not gate.hashed_bytes():
        time.sleep(0.001)
    change(theirs)
    gate.shut(False)
    thread.join(10)
    (report,) = reports
    assert report[0] == CHANGED
    assert isinstance(report[1], Hashed), "and the others are"


def test_what_took_a_files_place_is_not_read(gate, theirs, tmp_path):
    asked = in_place(theirs)
    theirs.unlink()
    os.mkfifo(theirs)
    link = tmp_path / "link"
    link.write_bytes(DATA)
    linked = in_place(link)
    link.rename(tmp_path / "away")
    link.symlink_to(tmp_path / "away")
    gone = InPlace(str(tmp_path / "gone"), 1, 1, 1, 1)
    said = hash_in_place(order(gate, asked, linked, gone))
    assert said[0] == CHANGED
    assert all(isinstance(one, str) for one in said)


def test_the_rate_is_kept_and_a_shut_gate_holds_it(gate, theirs):
    began = time.monotonic()
    hash_in_place(order(gate, in_place(theirs), rate=6 * MIB))
    assert time.monotonic() - began > 0.3
    gate.begin()
    gate.shut(True)
    thread = threading.Thread(target=hash_in_place, args=(order(gate, in_place(theirs)),))
    thread.start()
    time.sleep(0.3)
    assert gate.hashed_bytes() <= MIB
    gate.shut(False)
    thread.join(10)
    assert gate.hashed_bytes() == len(DATA)
