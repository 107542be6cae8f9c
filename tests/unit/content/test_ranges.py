"""Range sets against Python's own sets as the model."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pcache.content.ranges import RangeSet

spans = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=8)
span = st.tuples(st.integers(0, 40), st.integers(0, 40))


def model(spans: list[tuple[int, int]]) -> set[int]:
    return {i for start, end in spans for i in range(start, end)}


def members(ranges: RangeSet) -> set[int]:
    """What is in it; and that its spans are sorted, disjoint, not empty and never touch."""
    edges = [edge for one in ranges for edge in one]
    assert edges == sorted(set(edges))
    assert ranges == RangeSet.of(*ranges.spans)
    return model(list(ranges))


@given(spans, spans)
def test_operations_agree_with_sets(left: list, right: list) -> None:
    a, b = RangeSet.of(*left), RangeSet.of(*right)

    assert members(a | b) == model(left) | model(right)
    assert members(a & b) == model(left) & model(right)
    assert members(a - b) == model(left) - model(right)


@given(spans, span)
def test_one_span_agrees_with_sets(many: list, one: tuple[int, int]) -> None:
    ranges, inside = RangeSet.of(*many), model(many)

    assert members(ranges.add(*one)) == inside | model([one])
    assert members(ranges.remove(*one)) == inside - model([one])
    assert members(ranges.gaps(*one)) == model([one]) - inside
    assert ranges.contains(*one) == (model([one]) <= inside)


@given(spans)
def test_one_set_has_one_form(many: list) -> None:
    ranges = RangeSet.of(*many)

    assert ranges.total == len(model(many))
    assert bool(ranges) == bool(model(many))
    assert [i in ranges for i in range(-1, 42)] == [i in model(many) for i in range(-1, 42)]
    assert hash(ranges) == hash(RangeSet.of(*reversed(many)))
    assert RangeSet.of_flags(i in ranges for i in range(41)) == ranges


def test_ranges_are_half_open_and_touching_ones_are_joined() -> None:
    assert RangeSet.of((5, 9), (0, 5)).spans == ((0, 9),)
    assert RangeSet.of((0, 5), (6, 9)).spans == ((0, 5), (6, 9))
    assert 5 not in RangeSet.of((0, 5))


def test_a_range_cannot_start_below_zero() -> None:
    with pytest.raises(ValueError, match="-1"):
        RangeSet.of((-1, 3))
