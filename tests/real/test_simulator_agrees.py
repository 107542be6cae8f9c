"""What the simulator says of a swarm is what real agents do on links of that rate."""

from __future__ import annotations

import pytest

from p2pcache.transfer.policy import StreamTuner
from p2pcache.transfer.simulate.case import Case as Simulated
from p2pcache.transfer.simulate.run import Simulation
from scripts import bench_swarm
from tests.support.blobs import MIB
from tests.support.namespaces import can_make_namespaces

pytestmark = pytest.mark.lab

SEEDS = (1, 2, 3)


@pytest.mark.parametrize("origin", [1.0, 4.0])
def test_four_agents_end_when_the_simulator_says(origin: float):
    if not can_make_namespaces():
        pytest.skip("network namespaces need root")
    real = bench_swarm.Case(4, origin, 256 * MIB)
    case = Simulated(
        nodes=4, size=real.size, link=float(real.link), origin=origin * real.link,
        streams=StreamTuner.FEW, jitter_s=0.5,
    )  # fmt: skip
    said_s = [Simulation(case, seed).run().last * case.bound_s for seed in SEEDS]
    seen = bench_swarm.run(real)
    expected_s = sum(said_s) / len(said_s)
    assert max(seen.seconds) == pytest.approx(expected_s, rel=0.20)
    assert seen.origin_bytes / real.size == pytest.approx(1.0, abs=0.03)
