"""What the pull machine never does, in thousands of random histories of a swarm.

One member with all its faults around it.
The same ones each time; P2PCACHE_TEST_HISTORIES=20: twenty times as many, others each time.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pcache.transfer import events as ev
from tests.support.machine_world import MIB
from tests.support.swarm_world import HISTORIES, SwarmWorld, histories

SIZES = st.lists(st.sampled_from([0, 1, MIB, MIB + 1, 5 * MIB, 24 * MIB + 3]), max_size=4)


@pytest.mark.slow
@settings(max_examples=histories(2000), deadline=None, derandomize=HISTORIES not in os.environ)
@given(
    seed=st.integers(0, 2**32),
    sizes=SIZES,
    sources=st.integers(0, 2),
    peers=st.integers(1, 4),
    ghosts=st.integers(0, 2),
    faults=st.sampled_from([0.0, 0.1, 0.5, 0.9]),
    dies=st.booleans(),
)
def test_no_history_of_a_swarm_breaks_a_promise(seed, sizes, sources, peers, ghosts, faults, dies):
    world = SwarmWorld(seed, sizes, sources, faults, peers, ghosts, dies=dies)
    world.run()
    statistics = world.machine.statistics()
    assert sum(s.kept_bytes for s in statistics.sources) == statistics.fetched_bytes
    if isinstance(world.end, ev.Finished):
        assert statistics.complete_blobs == len(sizes)
    elif faults == 0.0:
        assert dies or not sources, "one good origin is enough"
