"""Many pull machines in virtual time: the bound, the copies, and who must not stop the others.

Sizes are small, so that a case takes seconds; `scripts/bench swarm` measures real agents.
"""

from __future__ import annotations

import pytest

from p2pcache.transfer.simulate import MIB, Case, Outcome, Simulation

LINK = 12.5e6
pytestmark = pytest.mark.slow


def run(seed: int = 1, **case: object) -> Outcome:
    return Simulation(Case(**{"nodes": 8, "size": 256 * MIB, **case}), seed).run()


@pytest.mark.parametrize("origin", [0.5, 1.0, 4.0])
def test_those_that_start_together_bring_one_copy_near_the_bound(origin):
    seen = run(origin=origin * LINK)
    assert seen.copies <= 1.03
    assert seen.last <= 1.20
    assert seen.median <= 1.15
    assert seen.duplicates == 0.0


def test_the_same_seed_gives_the_same_figures():
    assert run(3, size=32 * MIB) == run(3, size=32 * MIB)


def test_a_killed_owner_is_replaced():
    seen = run(kill_at=0.5)
    assert seen.killed is not None
    assert seen.last < 1.5
    assert seen.copies <= 1.05


def test_who_announces_everything_and_brings_nothing_stops_nobody():
    seen = run(boasters=1)
    assert seen.last < 1.5
    assert seen.copies <= 1.05


def test_slow_nodes_do_not_hold_up_the_others():
    seen = run(slow_share=1 / 8)
    assert seen.last < 1.35
    assert seen.copies <= 1.06


def test_late_ones_bring_next_to_nothing_again():
    seen = run(late_share=0.5)
    assert seen.last < 1.5
    assert seen.copies <= 1.05


def test_one_node_alone_asks_the_origin_for_all_of_it():
    seen = run(nodes=1)
    assert seen.copies == 1.0
    assert seen.last < 1.1
