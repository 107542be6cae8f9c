"""What no swarm may ever do, whatever happens to it: random cases, every request looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pcache.lanes.orders import BLOCK_BYTES
from p2pcache.transfer.machine import bits
from p2pcache.transfer.policy import piece_bytes
from p2pcache.transfer.simulate import MIB, Case, Simulation
from p2pcache.transfer.simulate.nodes import PEER_STREAMS, Node
from p2pcache.transfer.simulate.run import ORIGIN

if TYPE_CHECKING:
    from p2pcache.transfer import events as ev

pytestmark = pytest.mark.slow


def blocks_of(job: ev.Job) -> int:
    return bits.span(job.start // BLOCK_BYTES, -(-job.end // BLOCK_BYTES))


class Checked(Simulation):
    """Every request is looked at before it is made."""

    def _fetch(self, node: Node, job: ev.Job) -> None:
        running = [f.job for f in node.flows.values()]
        case = self.case
        assert not blocks_of(job) & node.have, "asked again for what was verified"
        assert len(running) < case.streams + len(self.stopping[node.number]), "too many requests"
        same = sum(one.source == job.source for one in running)
        assert job.source == ORIGIN or same < PEER_STREAMS + len(self.stopping[node.number])
        assert job.source == ORIGIN or int(job.source[4:]) not in node.banned, "asked a liar again"
        super()._fetch(node, job)

    def _stop(self, node: Node, job: ev.Job) -> None:
        if job.id in node.flows:
            self.stopping[node.number].add(job.id)
        super()._stop(node, job)

    def _end(self, node: Node, job: ev.Job, fault: object, *, blame: bool = True) -> None:
        self.stopping[node.number].discard(job.id)
        super()._end(node, job, fault, blame=blame)

    def __init__(self, case: Case, seed: int) -> None:
        super().__init__(case, seed)
        self.stopping: dict[int, set[int]] = {node.number: set() for node in self.nodes}


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    nodes=st.integers(1, 6),
    blocks=st.integers(1, 10),
    origin=st.sampled_from([0.25, 1.0, 4.0]),
    kill_at=st.sampled_from([0.0, 0.3, 0.7]),
    shares=st.tuples(*[st.sampled_from([0.0, 0.3]) for _ in range(4)]),
    boasters=st.integers(0, 1),
    split=st.booleans(),
)
def test_no_swarm_breaks_a_promise(seed, nodes, blocks, origin, kill_at, shares, boasters, split):
    slow, late, churn, liars = shares
    case = Case(
        nodes=nodes + 2, size=blocks * MIB - 5, origin=origin * 12.5e6, kill_at=kill_at,
        slow_share=slow, late_share=late, churn=churn, liars=liars, boasters=boasters, split=split,
    )  # fmt: skip
    simulation = Checked(case, seed)
    outcome = simulation.run()
    assert all(not node.works for node in simulation.nodes), "somebody never ends"
    assert outcome.kept_wrong_bytes == 0
    if not (kill_at or slow or late or churn or liars or boasters or split):
        most = case.size + piece_bytes(case.size) * 0.1
        assert outcome.copies * case.size <= most, "one copy, where nothing goes wrong"


@pytest.mark.parametrize("origin", [0.25, 1.0, 4.0])
@pytest.mark.parametrize("nodes", [3, 5, 8])
def test_of_a_small_model_exactly_one_copy_leaves_the_origin(nodes, origin):
    """A unit is a tenth of it: one that is asked for twice shows. Also where the origin is so thin
    that the first units take longer than a lease, and where the last node has only seeds left.
    """
    for blocks in (3, 8, 10):
        case = Case(nodes=nodes, size=blocks * MIB - 5, origin=origin * 12.5e6)
        outcome = Simulation(case, 0).run()
        assert outcome.copies * case.size <= case.size + MIB * 0.1
