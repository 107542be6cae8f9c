"""What a process has in hand in a store is given back, whatever else ends meanwhile."""

from __future__ import annotations

import sys
import threading
import time

import pytest

from p2pcache.store.at_work import AtWork
from p2pcache.store.layout import Layout
from p2pcache.store.lease import LeaseBook


class Download:
    """Ends itself, in a thread of its own, while the store is closed."""

    closed = False

    def close(self) -> None:
        self.closed = True


@pytest.mark.slow
def test_what_ends_while_the_store_is_closed_is_in_nobodys_way(tmp_path):
    """Without its protection this fails in one try of three."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(12):
            close_while_some_end(tmp_path)
    finally:
        sys.setswitchinterval(usual)


def close_while_some_end(home) -> None:
    work = AtWork(Layout(home), LeaseBook(stale_after_s=60, monotonic=time.monotonic))
    many = [Download() for _ in range(20_000)]
    ended, stay = many[:10_000], many[10_000:]
    work._partials.update(many)
    begun = threading.Event()

    def end() -> None:
        begun.set()
        for one in ended:
            work._partials.discard(one)

    ending = threading.Thread(target=end)
    ending.start()
    try:
        begun.wait()
        work.close()
    finally:
        ending.join()
    assert all(one.closed for one in stay)
