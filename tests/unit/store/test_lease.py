from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import threading

import pytest

from p2pcache.store.layout import StoreOptions
from p2pcache.store.lease import Busy, LeaseBook, LeaseLost, decode_claim, this_process
from p2pcache.store.store import Store
from tests.support.stored import name_of

HOLD = """
import sys, time
from pathlib import Path
from p2pcache.store.lease import LeaseBook
lease = LeaseBook(stale_after_s=60, monotonic=time.monotonic).take(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""
RACE = """
import sys, time
from pathlib import Path
from p2pcache.store.lease import Busy, LeaseBook
book = LeaseBook(stale_after_s=60, monotonic=time.monotonic)
print("ready", flush=True)
sys.stdin.readline()
try:
    lease = book.take(Path(sys.argv[1]))
    print("won", flush=True)
except Busy:
    print("busy", flush=True)
sys.stdin.read()
"""


class Clock:
    """A monotonic clock that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def start(program: str, directory) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, str(directory)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def book(clock):
    return LeaseBook(stale_after_s=60, monotonic=clock)


def elsewhere(clock, **changes) -> LeaseBook:
    who = dataclasses.replace(this_process(), **changes)
    return LeaseBook(stale_after_s=60, monotonic=clock, who=who)


def test_a_held_directory_is_busy_and_names_its_holder(book, tmp_path):
    book.take(tmp_path / "d")
    with pytest.raises(Busy) as caught:
        book.take(tmp_path / "d")
    assert caught.value.holder.startswith(f"process {os.getpid()} on ")


def test_a_released_lease_can_be_taken_at_once_and_again(book, tmp_path):
    for _ in range(3):
        book.take(tmp_path / "d").release()
    assert book.holder(tmp_path / "d") is None
    assert len(list((tmp_path / "d").iterdir())) == 1


def test_a_lease_of_a_killed_process_is_taken_over_at_once(book, tmp_path):
    process = start(HOLD, tmp_path / "d")
    assert process.stdout.readline() == "held\n"
    with pytest.raises(Busy):
        book.take(tmp_path / "d")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert book.take(tmp_path / "d").is_held()


def test_a_stopped_process_of_this_host_keeps_its_lease_for_ever(book, clock, tmp_path):
    process = start(HOLD, tmp_path / "d")
    assert process.stdout.readline() == "held\n"
    process.send_signal(signal.SIGSTOP)
    try:
        for _ in range(3):
            clock.now += 10_000
            with pytest.raises(Busy):
                book.take(tmp_path / "d")
    finally:
        end(process)


def test_a_pid_that_was_given_out_again_does_not_keep_a_lease(book, clock, tmp_path):
    elsewhere(clock, started="1").take(tmp_path / "d")
    assert book.take(tmp_path / "d").is_held()


def test_another_boot_of_this_host_is_dead_at_once(book, clock, tmp_path):
    elsewhere(clock, boot="00000000-0000-0000-0000-000000000000").take(tmp_path / "d")
    assert book.take(tmp_path / "d").is_held()


@pytest.mark.parametrize(
    "other", [{"host": "other/1", "boot": "b"}, {"table": "pid:[1]", "pid": 999_999_999}]
)
def test_a_silent_foreign_lease_is_taken_after_a_minute_of_our_clock(book, clock, tmp_path, other):
    lease = elsewhere(clock, **other).take(tmp_path / "d")
    with pytest.raises(Busy):
        book.take(tmp_path / "d")
    clock.now += 59
    with pytest.raises(Busy):
        book.take(tmp_path / "d")
    clock.now += 1
    assert book.take(tmp_path / "d").is_held()
    with pytest.raises(LeaseLost):
        lease.heartbeat()


def test_a_foreign_lease_that_beats_is_never_taken(book, clock, tmp_path):
    lease = elsewhere(clock, host="other/1", boot="b").take(tmp_path / "d")
    for _ in range(10):
        with pytest.raises(Busy):
            book.take(tmp_path / "d")
        clock.now += 59
        lease.heartbeat()
    with pytest.raises(Busy):
        book.take(tmp_path / "d")


def test_one_look_at_a_foreign_lease_proves_nothing_however_old_its_file_is(book, clock, tmp_path):
    elsewhere(clock, host="other/1", boot="b").take(tmp_path / "d")
    for path in (tmp_path / "d").iterdir():
        os.utime(path, (0, 0))  # a wall clock that jumped, or another host's
    clock.now += 10_000
    with pytest.raises(Busy):
        book.take(tmp_path / "d")


def test_of_many_takers_of_a_dead_lease_one_wins(clock, tmp_path):
    for turn in range(4):
        directory = tmp_path / str(turn)
        elsewhere(clock, boot="before").take(directory)
        takers = [start(RACE, directory) for _ in range(4)]
        try:
            for taker in takers:
                assert taker.stdout.readline() == "ready\n"
            for taker in takers:
                taker.stdin.write("go\n")
                taker.stdin.flush()
            assert sorted(t.stdout.readline() for t in takers) == ["busy\n"] * 3 + ["won\n"]
        finally:
            for taker in takers:
                end(taker)


def test_a_taker_that_was_too_slow_does_not_remove_the_winner(book, clock, tmp_path):
    """The taker judges number 1 dead, sleeps through two handovers, and then goes on."""
    directory = tmp_path / "d"
    elsewhere(clock, boot="before").take(directory)
    winners = []

    class Slow(LeaseBook):
        def is_dead(self, claim):
            dead = super().is_dead(claim)
            if not winners:
                winners.append(None)
                book.take(directory).release()
                winners.append(book.take(directory))
            return dead

    with pytest.raises(Busy):
        Slow(stale_after_s=60, monotonic=clock).take(directory)
    assert winners[1].is_held()


def test_a_directory_that_was_replaced_meanwhile_is_not_leased_twice(book, clock, tmp_path):
    directory = tmp_path / "d"
    elsewhere(clock, boot="before").take(directory)
    winners = []

    class Slow(LeaseBook):
        def is_dead(self, claim):
            dead = super().is_dead(claim)
            if not winners:
                directory.rename(tmp_path / "gone")
                winners.append(book.take(directory))
            return dead

    with pytest.raises(Busy):
        Slow(stale_after_s=60, monotonic=clock).take(directory)
    assert winners[0].is_held()


@pytest.mark.parametrize("junk", [b"", b"zz", b"0" * 16 + b"L[]", b"0" * 16 + b"L{}", b"\xff" * 90])
def test_a_file_that_is_no_claim_protects_nobody(book, tmp_path, junk):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "lease.7").write_bytes(junk)
    assert decode_claim(junk) is None
    assert book.take(tmp_path / "d").is_held()


def test_a_heartbeat_after_release_says_that_the_lease_is_lost(book, tmp_path):
    lease = book.take(tmp_path / "d")
    lease.release()
    with pytest.raises(LeaseLost):
        lease.heartbeat()


def test_a_lost_lease_does_not_keep_the_others_from_being_renewed(tmp_path):
    with Store.open(tmp_path / "store", StoreOptions(reserve_bytes=0)) as store:
        small = store.small_dir()
        partials = [store.partial(name_of(bytes([n])), 5) for n in range(3)]
        shutil.rmtree(small)  # as whoever took it over would
        before = [claim_of(p.dir) for p in partials]
        with pytest.raises(LeaseLost):
            store.heartbeat()
        store.heartbeat()
        assert store.small_dir() != small
        assert all(claim_of(p.dir) > b for p, b in zip(partials, before, strict=True))


def test_a_partial_that_is_being_removed_was_taken_over_by_nobody(tmp_path):
    """What is renewed from another thread meanwhile finds its lease gone: that is no news."""
    told: list[LeaseLost] = []
    with Store.open(tmp_path / "store", StoreOptions(reserve_bytes=0)) as store:
        partial = store.partial(name_of(b"x"), 5)
        for number in range(4000):  # so that removing it takes a while
            (partial.dir / f"file-{number}").touch()
        removing = threading.Thread(target=partial.discard)
        removing.start()
        while removing.is_alive():
            try:
                store.heartbeat()
            except LeaseLost as exc:
                told.append(exc)
        removing.join()
    assert told == []


def claim_of(directory) -> int:
    (file,) = directory.glob("lease.*")
    claim = decode_claim(file.read_bytes())
    assert claim is not None
    return claim.counter
