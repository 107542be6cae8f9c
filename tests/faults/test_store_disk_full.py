"""A disk that is really full: DiskFull (exit 13), nothing lost, resume once there is space."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from p2pcache.agent.localapi.embedded import start_agent
from p2pcache.content import verify
from p2pcache.errors import DiskFull
from p2pcache.lanes.odometer import open_odometer
from p2pcache.store.layout import StoreOptions
from p2pcache.store.store import Store
from tests.support.stored import (
    MIB,
    content,
    fill,
    name_of,
    root_of,
    small_disk,
    small_items,
    store_whole,
    verified,
)

OPTIONS = StoreOptions(reserve_bytes=0)


@pytest.fixture
def disk(tmp_path):
    with small_disk(tmp_path / "disk", 12 * MIB) as where:
        yield where


def write_for_ever(file, step: int) -> None:
    while True:
        file.write(bytes(step))


def use_up(path) -> None:
    """Take every page that is left."""
    with path.open("wb", buffering=0) as file:
        for step in (MIB, 4096):
            with pytest.raises(OSError, match="No space left"):
                write_for_ever(file, step)


def test_an_agent_that_cannot_write_its_log_says_that_the_disk_is_full(disk):
    (disk / "home").mkdir()
    use_up(disk / "somebody-elses")
    with pytest.raises(DiskFull, match="no space is left"):
        start_agent(disk / "home", disk / "home" / "agent.sock", ["false"])


def test_a_blob_that_cannot_fit_is_refused_before_a_byte_is_fetched(disk):
    with Store.open(disk / "home", OPTIONS) as store:
        with pytest.raises(DiskFull) as caught:
            store.partial(name_of(b"x"), 1 << 30)
        assert caught.value.exit_code == 13
        assert f"{1 << 30:,} bytes are needed" in caught.value.message
        assert store.usage().used_bytes == 0


def test_a_disk_that_fills_up_under_a_pull_loses_nothing(disk):
    data = content(6 * MIB)
    with Store.open(disk / "home", OPTIONS) as store:
        kept = store_whole(store, content(MIB, 7))
        partial = store.partial(name_of(data), len(data))
        fill(partial, data, range(3))
        use_up(disk / "somebody")
        with pytest.raises(OSError, match="No space left"):
            fill(partial, data, range(3, 6))
        with pytest.raises(DiskFull) as caught:
            store.put_bytes(verify.verify(name_of(b"y" * 9000), b"y" * 9000))
        assert caught.value.exit_code == 13
        assert "kept" in caught.value.hint
        partial.flush()
        (disk / "somebody").unlink()
    with Store.open(disk / "home", OPTIONS) as store:
        assert store.find(kept.digest) is not None
        partial = store.partial(name_of(data), len(data))
        assert partial.live()[:3] == b"\x01\x01\x01"
        fill(partial, data, [i for i, live in enumerate(partial.live()) if not live])
        store.publish(partial, verified(data), root_cid=root_of(data))
        assert store.find(root_of(data)).path.read_bytes() == data


def test_publishing_on_a_full_disk_can_be_done_again_after_space_is_freed(disk):
    data = content(2 * MIB)
    with Store.open(disk / "home", OPTIONS) as store:
        partial = store.partial(name_of(data), len(data))
        fill(partial, data)
        use_up(disk / "somebody")
        with pytest.raises(DiskFull):
            store.publish(partial, verified(data), root_cid=root_of(data))
        (disk / "somebody").unlink()
        info = store.publish(partial, verified(data), root_cid=root_of(data))
        assert store.find(root_of(data)) == info
        assert info.path.read_bytes() == data


def test_a_batch_of_small_blobs_on_a_full_disk_can_be_published_again(disk):
    many = [content(5000, seed) for seed in range(100)]
    with Store.open(disk / "home", OPTIONS) as store:
        items = small_items(store, many)
        use_up(disk / "somebody")
        with pytest.raises(DiskFull):
            store.publish_small(items)
        (disk / "somebody").unlink()
        infos = store.publish_small(items)
        assert [info.path.read_bytes() for info in infos] == many


def test_the_live_bytes_have_real_space_so_that_workers_cannot_be_killed_by_sigbus(disk):
    with Store.open(disk / "home", StoreOptions(reserve_bytes=0)) as store:
        partial = store.partial(name_of(b"x"), 1 << 40, total_known=False)
        assert os.stat(partial.live_path).st_blocks * 512 >= 1 << 20


def test_a_store_cannot_be_opened_on_a_full_disk_and_says_so(disk):
    use_up(disk / "somebody")
    with pytest.raises(DiskFull):
        Store.open(disk / "home", OPTIONS)


WRITES_ALL = """
import sys
from pathlib import Path
from p2pcache.lanes.odometer import SLOTS, counting, open_odometer
with open_odometer(Path(sys.argv[1]) / "run" / "odometer") as odometer:
    print("open", flush=True)
    sys.stdin.readline()
    for _ in range(SLOTS):
        slot = odometer.begin()
        with counting(slot) as count:
            count(7)
        assert odometer.read(slot) == 7
"""


def test_what_downloads_are_counted_in_has_real_space_before_the_disk_is_full(disk):
    """In a process of its own: a hole would end it with SIGBUS."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITES_ALL, str(disk)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        use_up(disk / "somebody")
        process.communicate("\n", timeout=20)
    assert process.returncode == 0


def test_where_there_is_no_space_to_count_in_nothing_is_left_behind(disk):
    use_up(disk / "somebody")
    with pytest.raises(OSError, match="No space left"), open_odometer(disk / "odometer"):
        pass
    assert not (disk / "odometer").exists()
