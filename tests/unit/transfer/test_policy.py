"""Sizes, delays and the number of streams."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pcache.lanes.orders import BLOCK_BYTES
from p2pcache.transfer.policy import (
    StreamTuner,
    TransferOptions,
    backoff_s,
    lone_run_bytes,
    piece_bytes,
    run_limit,
)

OPTIONS = TransferOptions()


@given(st.integers(0, 1 << 45))
def test_a_piece_is_one_to_sixteen_whole_blocks(total):
    size = piece_bytes(total)
    assert size % BLOCK_BYTES == 0
    assert 1 <= size // BLOCK_BYTES <= 16


def test_a_gibibyte_is_cut_into_512_pieces():
    assert piece_bytes(1 << 30) == 2 * BLOCK_BYTES


@given(st.integers(1, 100), st.floats(0, 0.999))
def test_backoff_grows_to_its_cap_and_never_to_nothing(failures, chance):
    delay = backoff_s(failures, chance, OPTIONS)
    assert OPTIONS.backoff_first_s / 2 <= delay <= OPTIONS.backoff_cap_s


@given(st.integers(0, 1 << 40), st.integers(1, 16), st.integers(1, 32))
def test_a_run_is_whole_pieces_within_its_bound(missing, pieces, streams):
    piece = pieces * BLOCK_BYTES
    run = run_limit(missing, piece, streams, OPTIONS.run_bytes)
    assert run % piece == 0
    assert piece <= run <= max(piece, OPTIONS.run_bytes)


@pytest.mark.parametrize(
    ("block_s", "mib"),
    [
        (None, 16),  # nobody knows yet
        (0.5, 16),  # 2 MiB/s: a request of 16 MiB takes 8 s as it is
        (0.01, 25),  # 100 MiB/s: what comes in a quarter of a second
        (0.001, 64),  # 1 GiB/s
        (0.0, 16),  # measured by a clock that stood still
    ],
)
def test_a_lone_origin_gets_long_requests_as_far_as_it_is_fast(block_s, mib):
    assert lone_run_bytes(block_s, OPTIONS) == mib * BLOCK_BYTES


def test_a_far_origin_gets_more_streams_as_long_as_the_rate_rises():
    tuner = StreamTuner(2, OPTIONS)
    counts = [tuner.next(rate, 0.8) for rate in (10e6, 20e6, 40e6, 80e6, 81e6, 81e6)]
    assert counts == [10, 16, 16, 16, 16, 16]


def test_a_slow_origin_keeps_the_few_streams_that_are_as_fast():
    tuner = StreamTuner(2, OPTIONS)
    assert [tuner.next(10e6, 0.9) for _ in range(4)] == [10, 5, 5, 5]


def test_a_network_far_below_the_cores_gets_a_few_streams_whoever_has_the_cores():
    tuner = StreamTuner(2, OPTIONS)
    assert tuner.next(12.5e6, 0.0) == StreamTuner.FEW
    assert StreamTuner(2, OPTIONS).next(300e6, 0.1) == 2, "here the cores are the limit"
    assert StreamTuner(2, TransferOptions(max_streams=3)).next(12.5e6, 0.0) == 3


def test_busy_cores_leave_one_to_what_hashes_beside():
    tuner = StreamTuner(2, OPTIONS, hash_beside=True)
    assert tuner.streams == 2, "whether the cores are the limit is not known yet"
    assert tuner.next(900e6, 0.02) == 1
    assert tuner.next(900e6, 0.5) == 2, "they idle: one more is tried"
    assert StreamTuner(1, OPTIONS, hash_beside=True).next(900e6, 0.02) == 1
    assert StreamTuner(8, OPTIONS, hash_beside=True).next(900e6, 0.02) == 4


def test_busy_cores_get_no_more_streams_than_cores():
    tuner = StreamTuner(2, OPTIONS)
    assert [tuner.next(900e6, 0.02) for _ in range(4)] == [2, 2, 2, 2]


def test_streams_are_given_back_when_somebody_else_needs_the_cores():
    tuner = StreamTuner(2, OPTIONS)
    for rate in (10e6, 20e6, 40e6):
        tuner.next(rate, 0.8)
    assert tuner.next(5e6, 0.0) == 8
    assert tuner.next(5e6, 0.0) == 5
    assert tuner.next(500e6, 0.0) == 2
