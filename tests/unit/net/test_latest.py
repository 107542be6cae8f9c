"""The queue that keeps the newest event of each key."""

from __future__ import annotations

import time

import pytest
import trio

from p2pcache.net.latest import Latest


def drained_s(count: int) -> float:
    queue: Latest[int] = Latest()
    for number in range(count):
        queue.put(number, number)
    began = time.thread_time()
    assert [queue.receive_nowait() for _ in range(count)] == list(range(count))
    return time.thread_time() - began


def test_reading_many_events_costs_no_more_each_than_reading_few():
    few = max(0.001, min(drained_s(4000) for _ in range(3)))
    assert min(drained_s(40_000) for _ in range(2)) < 40 * few


def test_an_event_takes_the_place_of_the_unread_one_that_it_replaces():
    queue: Latest[str] = Latest()
    for key, event in ((1, "a"), (2, "b"), (3, "c"), (1, "d")):
        queue.put(key, event)
    queue.forget(lambda event: event == "b")
    assert [queue.receive_nowait() for _ in range(2)] == ["d", "c"]
    with pytest.raises(trio.WouldBlock):
        queue.receive_nowait()
