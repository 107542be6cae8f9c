"""Who is slow, late, lying, killed or cut off: drawn once, before a case begins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pcache.content.ranges import RangeSet
from p2pcache.lanes.orders import BLOCK_BYTES
from p2pcache.transfer import events as ev
from p2pcache.transfer.simulate.nodes import Node

if TYPE_CHECKING:
    import random

    from p2pcache.transfer.simulate.case import Case

LATE_AT = 0.3  # of the bound
SLOW = 0.1  # of the link


def make_nodes(case: Case, chance: random.Random) -> tuple[list[Node], dict[int, float]]:
    """The nodes, and when some are killed. For each that churn takes, one joins empty then."""
    slow = set(chance.sample(range(case.nodes), round(case.nodes * case.slow_share)))
    late = round(case.nodes * case.late_share)
    nodes = []
    for number in range(case.nodes):
        starts = case.jitter_s * chance.random()
        is_late = number >= case.nodes - late
        rate = case.link * SLOW if number in slow else case.link
        starts += LATE_AT * case.bound_s if is_late else 0.0
        nodes.append(Node(number, rate, starts, late=is_late))
    for node in nodes[: case.boasters]:
        node.boasts = True
        everything = ((0, RangeSet.of((0, case.blocks))),)
        node.said = ev.Say(case.link, declines=False, brings=everything)
    honest = [node for node in nodes if not node.boasts]
    for node in chance.sample(honest, round(case.nodes * case.liars)):
        node.lies = True
        node.have = (1 << case.blocks) - 1
    kills: dict[int, float] = {}
    for node in chance.sample(nodes, round(case.nodes * case.churn)):
        kills[node.number] = case.bound_s * (0.1 + 0.8 * chance.random())
        nodes.append(Node(len(nodes), case.link, kills[node.number], late=True))
    for node in nodes:
        node.zone = node.number % case.zones
    _link(nodes, case, chance)
    return nodes, kills


def _link(nodes: list[Node], case: Case, chance: random.Random) -> None:
    halves = [nodes[0::2], nodes[1::2]] if case.split else [nodes]
    for half in halves:
        numbers = [node.number for node in half]
        for node in half:
            if len(half) <= case.neighbours + 1:
                node.links = set(numbers) - {node.number}
                continue
            for other in chance.sample(numbers, case.sparse // 2):
                if other != node.number:
                    node.links.add(other)
                    nodes[other].links.add(node.number)


def half_of(node: Node, case: Case) -> int:
    """Which part of a split network it is in."""
    return node.number % 2 if case.split else 0


def first_block(job: ev.Job, arrived: int) -> int:
    """The block that comes next of a request."""
    return (job.start + arrived) // BLOCK_BYTES
