"""Many pull machines in virtual time: the bound, the copies, and who must not stop the others.

Sizes are small, so that a case takes seconds; `scripts/bench swarm` measures real agents.
"""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest

from p2pcache.cli.main import main
from p2pcache.transfer.policy import TransferOptions
from p2pcache.transfer.simulate import MIB, Case, Outcome, Simulation, svg

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


@pytest.mark.parametrize("mbit", [6.25, 12.5])
def test_behind_thin_links_blocks_are_seldom_and_nobody_is_taken_for_frozen(mbit):
    seen = run(size=64 * MIB, link=mbit * LINK / 100, origin=mbit * LINK / 100, streams=5)
    assert seen.copies <= 1.05, "1.2 and 1.6 where who is silent for 1.5 s is suspected"
    assert seen.last <= 1.4, "a small file: its end weighs"


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


def test_liars_are_found_out_and_nothing_of_theirs_is_kept():
    seen = run(nodes=20, size=32 * MIB, liars=0.1)
    assert (seen.banned, seen.unbanned) == (2, 0)
    assert seen.wrong_bytes > 0
    assert seen.kept_wrong_bytes == 0
    assert seen.last < 3.0


def test_two_halves_bring_one_copy_each():
    assert 2.0 <= run(size=64 * MIB, split=True).copies <= 2.02


def test_who_joins_while_others_die_ends_too():
    seen = run(size=64 * MIB, churn=0.25)
    assert seen.last < 3.0
    assert seen.copies <= 1.25


def test_beyond_the_neighbours_a_node_links_a_few_and_all_end():
    seen = run(nodes=24, size=32 * MIB, neighbours=12, sparse=10)
    assert seen.copies <= 1.05
    assert seen.last < 2.0


ZONES = {"size": 64 * MIB, "zone_link": LINK / 2, "zone_latency_s": 0.03}


@pytest.mark.parametrize(("nodes", "zones"), [(8, 2), (9, 3), (8, 8)])
def test_one_copy_crosses_into_each_further_zone_and_spreads_inside(nodes, zones):
    seen = run(nodes=nodes, zones=zones, **ZONES)
    assert seen.crossings <= 1.05
    assert seen.copies <= 1.03
    assert seen.last <= 1.7
    assert run(size=32 * MIB).crossings == 0.0


def test_one_copy_crosses_a_thin_border_also_when_an_owner_is_killed():
    seen = run(nodes=8, zones=2, kill_at=0.5, **ZONES)
    assert seen.crossings <= 1.1
    assert seen.copies <= 1.1
    assert seen.last <= 2.0


def test_a_zone_that_is_cut_off_gives_up_by_itself_and_the_others_go_on():
    seen = run(nodes=8, zones=2, cut_at=0.4, **ZONES)
    assert seen.cut_off == 4
    assert seen.median < 2.0
    assert seen.samples[-1].at_s < 1.2 * TransferOptions().patience_s + 30


def test_a_zone_that_was_cut_off_goes_on_when_it_is_healed_and_carries_about_one_copy():
    seen = run(nodes=8, zones=2, cut_at=0.4, cut_s=20.0, **ZONES)
    assert seen.cut_off == 0
    assert seen.last < 12.0, "of it 3.5 bounds were the cut"
    assert seen.crossings <= 1.6


def test_the_plot_is_the_same_for_the_same_seed_and_is_well_formed():
    case = Case(nodes=4, size=16 * MIB)
    one, two = (svg(Simulation(case, 5).run().samples, case.bound_s, "a < b") for _ in range(2))
    assert one == two
    root = ElementTree.fromstring(one)
    assert root.tag.endswith("svg")
    assert sum(each.tag.endswith("polyline") for each in root) == 4


def test_the_command_prints_the_figures_and_writes_the_plot(tmp_path, capsys):
    plot = tmp_path / "swarm.svg"
    words = ["simulate", "--nodes", "3", "--size", "8MiB", "--seed", "2", "--json"]
    assert main([*words, "--plot", str(plot)]) == 0
    seen = json.loads(capsys.readouterr().out)
    assert seen["type"] == "simulation"
    assert 1.0 <= seen["copies"] <= 1.2, "of 8 blocks one may be raced for"
    assert plot.read_text().startswith("<svg")


def test_one_node_alone_asks_the_origin_for_all_of_it():
    seen = run(nodes=1)
    assert seen.copies == 1.0
    assert seen.last < 1.1
