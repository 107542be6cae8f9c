"""A zone that is cut off from the others and from the origin while all pull the same.

Real processes in network namespaces, two switches and the cable between them. Needs root.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from p2pcache import errors
from p2pcache.transfer.machine.planning import LAST_TRY_S
from tests.support.blobs import MIB
from tests.support.fleet import fleet, lan_hub
from tests.support.hub_repo import build_repo, lfs
from tests.support.namespaces import can_limit_links, lan
from tests.support.network import peer_id
from tests.support.pulling import Pull
from tests.support.watched_pull import at_most

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.agents import Agent
    from tests.support.namespaces import Lan

pytestmark = pytest.mark.slow

SIZE = 16 * MIB
LINK = 3_000_000  # bytes/s: 5.6 s for one copy
NEAR, FAR, HUB = (0, 1), (2, 3), 4
LEASE_S = 4 * MIB / (LINK / 5)  # four units, of which five share the link
BUSY_S = 6.0  # of a loaded machine


@pytest.fixture(scope="module", autouse=True)
def limited_links() -> None:
    """Tried when a test is run, not when tests are collected: it makes a namespace."""
    if not can_limit_links():
        pytest.skip("needs network namespaces and tc")


@dataclass
class Zones:
    """Two agents and the origin on one side, two agents on the other, all pulling."""

    net: Lan
    agents: list[Agent]
    pulls: list[Pull]
    began: float

    def cut(self) -> None:
        """When blocks have crossed into the far zone, and more are to come."""
        for number in FAR:
            self.pulls[number].wait_bytes(3 * MIB)
        self.net.border(plugged=False)


@contextlib.contextmanager
def zones(folder: Path, **settings: str) -> Iterator[Zones]:
    each = [
        {"network.zone": zone, **{k.replace("__", "."): v for k, v in settings.items()}}
        for zone in ("eu-1a", "eu-1a", "eu-1b", "eu-1b")
    ]
    repo = build_repo(folder / "repo", {"model.safetensors": lfs(SIZE, 7)})
    with contextlib.ExitStack() as stack:
        net = stack.enter_context(lan(5, far=FAR))
        hub = stack.enter_context(lan_hub(net, HUB, repo, folder))
        agents = fleet(stack, net, 4, folder, each=each)
        for number in range(5):
            net.limit(number, LINK)
        hf = {"hf_endpoint": hub.url}
        pulls = [Pull(agent, "hf://demo/model", hf_cache=False, credentials=hf) for agent in agents]
        made = Zones(net, agents, pulls, time.monotonic())
        for pull in pulls:
            stack.enter_context(pull)
        yield made
        net.border(plugged=True)  # the agents end with their network


def test_a_zone_that_is_cut_off_delays_nobody_and_goes_on_when_the_border_is_back(tmp_path: Path):
    with at_most(110), zones(tmp_path) as seen:
        seen.cut()
        for number in NEAR:
            seen.pulls[number].wait_end()
            assert seen.pulls[number].error is None
        assert time.monotonic() - seen.began < SIZE / LINK + LEASE_S + BUSY_S
        here = [seen.pulls[number].done_bytes for number in FAR]
        assert all(count < SIZE for count in here)
        seen.net.border(plugged=True)
        for number in FAR:
            seen.pulls[number].wait_end()
            assert seen.pulls[number].error is None


def test_a_zone_that_stays_cut_off_ends_and_says_who_had_it(tmp_path: Path):
    settings = {"fetch__patience": "4s", "fetch__peer_return": "4s", "fetch__no_progress": "1s"}
    with at_most(110), zones(tmp_path, **settings) as seen:
        near = [peer_id(seen.agents[number]) for number in NEAR]
        seen.cut()
        cut_at = time.monotonic()
        for number in (*NEAR, *FAR):
            seen.pulls[number].wait_end()
        assert time.monotonic() - cut_at < 4 + LAST_TRY_S + BUSY_S
        assert [seen.pulls[number].error for number in NEAR] == [None, None]
        for number in FAR:
            error = seen.pulls[number].error
            assert isinstance(error, errors.Unavailable), error
            _, told, held_by = error.message.partition("\nheld by: ")
            assert told, error.message
            assert any(peer in held_by for peer in near), error.message
