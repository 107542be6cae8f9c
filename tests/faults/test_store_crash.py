"""SIGKILL at random moments. Whatever the moment: no bad blob, little lost, no orphan for ever."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time

import pytest

from p2pcache.content import cid as cids
from p2pcache.content import digests
from p2pcache.content.dag.hashes import cid_of
from p2pcache.store.layout import StoreOptions
from p2pcache.store.store import Store
from tests.support.stored import MIB, content, file_count, fill, name_of, root_of, verified

OPTIONS = StoreOptions(reserve_bytes=0)
TURNS = 12  # kills; each at another moment
LARGE = [(6 * MIB + 5, 1), (2 * MIB, 2)]
SMALL = 40
WRITER = """
import itertools, sys
from pathlib import Path
from p2pcache.store.layout import StoreOptions
from p2pcache.store.store import Store
from tests.support.stored import *
from tests.faults.test_store_crash import LARGE, SMALL
with Store.open(Path(sys.argv[1]), StoreOptions(reserve_bytes=0)) as store:
    print("ready", flush=True)
    for turn in itertools.count():
        for size, seed in LARGE:
            data = content(size, seed)
            if (found := store.find(name_of(data))) is not None:
                store._blobs.remove([found.sha256])
            partial = store.partial(name_of(data), size)
            live = partial.live()
            for block in range(partial.blocks):
                if not live[block]:
                    fill(partial, data, [block])
                    partial.flush_if_due(2 * MIB)
            store.publish(partial, verified(data), root_cid=root_of(data))
        store.publish_small(small_items(store, [content(500 + n, n) for n in range(SMALL)]))
"""


def check_blobs(store: Store) -> int:
    """Every file that can be found by path is what its name says, and is indexed as that."""
    seen = 0
    for path in store.layout.blobs.rglob("*"):
        if path.is_file():
            seen += 1
            sha256 = digests.whole_digests(path.read_bytes()).sha256
            assert sha256.hex() == path.name
            assert store.find(digests.sha256_digest(sha256)) is not None
    return seen


@pytest.mark.slow
def test_a_writer_killed_at_any_moment_leaves_no_bad_blob_and_no_orphan(tmp_path):
    home = tmp_path / "home"
    moments = random.Random(5)
    for _ in range(TURNS):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(home)], stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert writer.stdout.readline() == "ready\n", writer.stderr.read()
        time.sleep(moments.uniform(0, 0.25))
        writer.send_signal(signal.SIGKILL)
        _, errors = writer.communicate()
        assert not errors
        with Store.open(home, OPTIONS) as store:
            check_blobs(store)
            assert not list(store.layout.temporary.iterdir())
            assert not list(store.layout.trash.iterdir())
            assert not list(store.layout.quarantine.iterdir())
    with Store.open(home, OPTIONS) as store:
        finish(store)
        assert check_blobs(store) == store.usage().blobs
        store.gc(target_bytes=0)
        assert file_count(store.layout.blobs) == file_count(store.layout.maps) == 0
        assert not list(store.layout.partials.iterdir())


def finish(store: Store) -> None:
    """What was left behind can be continued and published by the next process."""
    for size, seed in LARGE:
        data = content(size, seed)
        if store.find(name_of(data)) is None:
            partial = store.partial(name_of(data), size)
            fill(partial, data, [i for i, live in enumerate(partial.live()) if not live])
            store.publish(partial, verified(data), root_cid=root_of(data))
        assert store.find(root_of(data)).path.read_bytes() == data


FILLER = """
import os, sys
from pathlib import Path
from p2pcache.store.layout import StoreOptions
from p2pcache.store.store import Store
from tests.support.stored import *
data = content(100 * MIB, 3)
with Store.open(Path(sys.argv[1]), StoreOptions(reserve_bytes=0)) as store:
    partial = store.partial(name_of(data), len(data))
    for block in range(90):
        fill_block(partial, data, block)
        if partial.flush_if_due(store.options.flush_bytes):
            print(block, flush=True)
    print("end", flush=True)
    sys.stdin.read()
"""


def test_after_a_kill_and_a_power_cut_at_most_64_mib_are_fetched_again(tmp_path):
    program = FILLER.replace("fill_block(partial, data, block)", "write(partial, block)").replace(
        "data = content(100 * MIB, 3)",
        "data = bytes(100 * MIB)\n"
        "def write(partial, block):\n"
        "    with open(partial.data_path, 'r+b') as f: f.seek(block * MIB); f.write(data[:MIB])\n"
        "    with open(partial.live_path, 'r+b') as f: f.seek(block); f.write(b'\\x01')\n",
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "home")], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    for line in writer.stdout:
        if line == "end\n":
            break
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    (directory,) = (tmp_path / "home" / "partial-v1").iterdir()
    with Store.open(tmp_path / "home", OPTIONS) as store:
        killed = store.partial(name_of(bytes(100 * MIB)), 100 * MIB)
        assert killed.have_count() == 90
        killed.abandon()
        (directory / "live").unlink()  # a power cut: only what was synced is certain
        cut = store.partial(name_of(bytes(100 * MIB)), 100 * MIB)
        assert (90 - cut.have_count()) * MIB <= 64 * MIB


@pytest.mark.parametrize("done", ["intent", "rename", "map", "commit"])
def test_a_publication_that_died_half_way_is_finished_with_all_its_names(tmp_path, done):
    """The states between the steps of `publish`, made with its own steps."""
    data = content(2 * MIB + 1)
    blob, root = verified(data), root_of(data)
    git = digests.git_sha1_digest(blob.git_sha1)
    with Store.open(tmp_path, OPTIONS) as store:
        partial = store.partial(name_of(data), len(data))
        fill(partial, data)
        intent = {
            "sha256": blob.sha256.hex(), "size": blob.size, "root": root.hex(),
            "git_sha1": blob.git_sha1.hex(), "partial": partial.dir.name,
        }  # fmt: skip
        partial.save_intent(intent)
        if done != "intent":
            store._blobs._place(partial.data_path, store.layout.blob(blob.sha256), blob.size)
        if done in ("map", "commit"):
            store._blobs._keep_map_file(partial.map_path, blob.sha256)
        if done == "commit":
            store._blobs.finish_publish(intent)
        partial.abandon()
    with Store.open(tmp_path, OPTIONS) as store:
        if done == "intent":
            assert store.find(root) is None
            again = store.partial(name_of(data), len(data))
            assert again.have_count() == 3
            store.publish(again, blob, root_cid=root)
        assert store.find(root) == store.find(git) == store.find(name_of(data))
        assert store.find(root).path.read_bytes() == data
        assert len(store.block_map(blob.sha256)) == 96
        assert not list(store.layout.partials.iterdir())


def test_an_empty_partial_of_a_dead_process_is_removed_and_one_with_progress_is_kept(tmp_path):
    with Store.open(tmp_path, OPTIONS) as store:
        store.partial(name_of(b"empty"), MIB).close()
        partial = store.partial(name_of(b"some"), 2 * MIB)
        partial.mark([0])
        partial.close()
    with Store.open(tmp_path, OPTIONS) as store:
        assert [p.name for p in store.layout.partials.iterdir()] == [name_of(b"some").hex()]


def test_what_a_live_process_holds_is_not_swept(tmp_path):
    with Store.open(tmp_path, OPTIONS) as first:
        small = first.small_dir() / "coming"
        small.write_bytes(b"x")
        first.partial(name_of(b"empty"), MIB)
        with Store.open(tmp_path, OPTIONS) as second:
            second.gc(target_bytes=0)
        assert small.exists()
        assert len(list(first.layout.partials.iterdir())) == 1


def test_a_process_that_is_open_already_finds_what_another_one_died_publishing(tmp_path):
    data = content(2 * MIB + 1)
    blob, root = verified(data), root_of(data)
    with Store.open(tmp_path, OPTIONS) as open_already, Store.open(tmp_path, OPTIONS) as dying:
        partial = dying.partial(root, len(data))
        fill(partial, data)
        partial.save_intent({
            "sha256": blob.sha256.hex(), "size": blob.size, "root": root.hex(),
            "git_sha1": None, "partial": partial.dir.name,
        })  # fmt: skip
        dying._blobs._place(partial.data_path, dying.layout.blob(blob.sha256), blob.size)
        partial.abandon()
        found = open_already.find(root)
        assert found is not None
        assert found.path.read_bytes() == data
        assert open_already.block_map(blob.sha256) is not None


LOOSE_WRITER = """
import sys
from pathlib import Path
from p2pcache.content import cid as cids
from p2pcache.content.dag.hashes import cid_of
from p2pcache.content.verify import verify_loose
from p2pcache.store.layout import StoreOptions
from p2pcache.store.store import Store
with Store.open(Path(sys.argv[1]), StoreOptions(reserve_bytes=0)) as store:
    for number in range(int(sys.argv[2]), 1 << 30):
        data = b"block %d" % number * 1000
        store.loose.put(verify_loose(cid_of(cids.DAG_CBOR, data), data))
        print(number, flush=True)
"""


@pytest.mark.slow
def test_loose_blocks_that_were_put_survive_a_kill_and_are_counted(tmp_path):
    home, put = tmp_path / "home", 0
    for wanted in (1, 40, 700):  # before any row is written, and after two hundreds of them
        writer = subprocess.Popen(
            [sys.executable, "-c", LOOSE_WRITER, str(home), str(put)], stdout=subprocess.PIPE
        )
        for _ in range(wanted):
            put = int(writer.stdout.readline()) + 1
        writer.send_signal(signal.SIGKILL)
        rest, _ = writer.communicate()
        put += rest.count(b"\n")
        with Store.open(home, OPTIONS) as store:
            size, count = store.loose.usage()
            assert put <= count <= put + 1, "the last one may not have been told"
            assert size == sum(len(b"block %d" % n * 1000) for n in range(count))
            for number in range(put):
                data = b"block %d" % number * 1000
                assert store.loose.read(cid_of(cids.DAG_CBOR, data)) == data
            assert not list(store.layout.temporary.iterdir())
