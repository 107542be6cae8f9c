"""The receipt of a pull in which something went wrong says what: real driver, real bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from p2pcache.cli.receipt import receipt_lines
from p2pcache.content.ranges import RangeSet
from p2pcache.lanes.orders import Location
from p2pcache.sources.port import SourceKind
from p2pcache.transfer.machine.owners import OwnerOptions
from p2pcache.transfer.receipts import receipt
from p2pcache.transfer.replay import replay
from p2pcache.transfer.tracing import Traces
from p2pcache.transfer.want import Origin, PullReport
from tests.support import faulty_http as fh
from tests.support import swarms
from tests.support.partial_files import some_bytes
from tests.support.swarms import (
    MIB,
    ScriptedSwarm,
    digest_of,
    origin_of,
    pulling,
    served_peers,
    wanted,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from p2pcache.transfer.driver import Driver

BLOCKS = 16
DEADLINE_S = 30.0


@pytest.fixture
def body(request: pytest.FixtureRequest) -> bytes:
    return some_bytes((BLOCKS - 1) * MIB + 7, request.node.name.encode())


@pytest.fixture
def web() -> Iterator[fh.FaultyServer]:
    with fh.FaultyServer() as running:
        yield running


def receipt_of(driver: Driver, body: bytes) -> dict:
    """As `agent.get` makes it."""
    report = PullReport(
        {}, driver.statistics(), 0, 0, 0.0, driver.fetch_s, driver.verify_s,
        driver.best_bytes_per_s, driver.hosts, driver.tally(),
    )  # fmt: skip
    made = receipt(
        pull="p", ref="hf://org/model", started_at=0.0, seconds=driver.fetch_s,
        times={"fetch_s": driver.fetch_s}, resolution=None, total_bytes=len(body),
        report=report, error=None,
    )  # fmt: skip
    assert sum(made["where"].values()) == pytest.approx(driver.fetch_s)
    assert sum(made["duplicates"].values()) == made["duplicate_bytes"]
    return made


async def test_an_owner_that_froze_is_named_with_how_long_it_was_waited_for(tmp_path, body, web):
    """It takes part, says nothing of what it owns, and brings nothing: half of the blob is its."""
    with served_peers(1) as peers, trio.fail_after(DEADLINE_S):
        frozen = peers[0]
        swarm = ScriptedSwarm(peers)
        swarm.peer_brings(frozen, {})
        async with pulling(
            tmp_path, [wanted(body)], [origin_of(web, body)], swarm
        ) as (driver, _, _told):  # fmt: skip
            await driver.run()
            made = receipt_of(driver, body)
    waited = [i["text"] for i in made["incidents"] if i["source"] == frozen.name]
    assert waited[0].startswith(f"waited for owner {frozen.name}; taken over after")
    assert made["where"]["owner_s"] >= 0.5 * OwnerOptions().lease_s
    assert any(f"waited for owner {frozen.name}" in line for line in receipt_lines(made))
    assert made["origin_copies"]["own"] == pytest.approx(1.0)


async def test_an_owner_that_promised_and_froze_is_told_apart(tmp_path, body, web):
    with served_peers(1) as peers, trio.fail_after(DEADLINE_S):
        swarm = ScriptedSwarm(peers)
        swarm.peer_brings(peers[0], {digest_of(body): RangeSet.of((0, BLOCKS))})
        async with pulling(
            tmp_path, [wanted(body)], [origin_of(web, body)], swarm
        ) as (driver, _, _told):  # fmt: skip
            await driver.run()
            made = receipt_of(driver, body)
    assert any("which had said that it brings it" in i["text"] for i in made["incidents"])


async def test_the_one_whose_origin_refuses_it_says_so_and_so_do_the_others(tmp_path, body, web):
    """Our token is refused; the peer brings all of it, slowly enough to be waited for."""
    with served_peers(2) as peers, trio.fail_after(DEADLINE_S):
        good, declining = peers
        swarm = ScriptedSwarm(peers)
        name = good.serves(body)
        swarm.peer_brings(good, {name: RangeSet.of((0, BLOCKS))})
        swarm.peer_brings(declining, {}, declines=True)
        origin = origin_of(web, body, fh.status(403))
        async with pulling(tmp_path, [wanted(body)], [origin], swarm) as (driver, _, _told):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(driver.run)
                await trio.sleep(1.0)
                swarm.holds(good, name, len(body), RangeSet.of((0, BLOCKS)))
            made = receipt_of(driver, body)
    sources = {source["name"]: source for source in made["sources"]}
    if sources["web"]["requests"]:
        assert sources["web"]["outcome"] == "left"
        assert "403" in sources["web"]["reason"]
    texts = {i["source"]: i["text"] for i in made["incidents"]}
    assert "owns nothing now" in texts[declining.name]
    assert made["where"]["owner_s"] > 0.0
    assert made["origin_copies"]["heard"] == pytest.approx(1.0, abs=0.1)


async def test_a_refused_origin_is_in_the_receipt_of_who_was_refused(tmp_path, body, web):
    with served_peers(1) as peers, trio.fail_after(DEADLINE_S):
        swarm = ScriptedSwarm(peers)
        name = peers[0].serves(body)
        origin = origin_of(web, body, fh.status(403))
        async with pulling(tmp_path, [wanted(body)], [origin], swarm) as (driver, _, _told):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(driver.run)
                await trio.sleep(0.6)  # by then it was asked
                swarm.holds(peers[0], name, len(body))
            made = receipt_of(driver, body)
    web_row = next(s for s in made["sources"] if s["name"] == "web")
    assert web_row["outcome"] == "left"
    assert "403" in web_row["reason"]
    assert any("403" in i["text"] for i in made["incidents"])


async def test_a_peer_that_froze_is_named_though_the_pull_used_it(tmp_path, body, web):
    with served_peers(2) as peers, trio.fail_after(DEADLINE_S):
        frozen, good = peers
        swarm = ScriptedSwarm(peers)
        name = frozen.serves(body, swarms.frozen_after(body, 4 * MIB, []))
        good.serves(body)
        swarm.holds(frozen, name, len(body))
        async with pulling(tmp_path, [wanted(body)], [], swarm, streams=2) as (driver, _, _told):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(driver.run)
                await trio.sleep(1.3)  # silent for a second by then, also if it is overtaken
                swarm.holds(good, name, len(body))
            made = receipt_of(driver, body)
    row = next(s for s in made["sources"] if s["name"] == frozen.name)
    assert "brought nothing for" in row["reason"]


async def test_a_swarm_s_pull_has_the_bound_with_what_it_was_made_of(tmp_path, body, web):
    with served_peers(1) as peers, trio.fail_after(DEADLINE_S):
        swarm = ScriptedSwarm(peers)
        name = peers[0].serves(body, swarms.paced(body, 4 * MIB))
        swarm.peer_brings(peers[0], {name: RangeSet.of((0, BLOCKS))})
        swarm.holds(peers[0], name, len(body), RangeSet.of((0, BLOCKS // 2)))
        origin = origin_of(web, body, swarms.paced(body, 2 * MIB))
        async with pulling(
            tmp_path, [wanted(body)], [origin], swarm, streams=1, most_streams=1
        ) as (driver, _, _told):  # fmt: skip
            async with trio.open_nursery() as nursery:
                nursery.start_soon(driver.run)
                await trio.sleep(1.2)
                swarm.holds(peers[0], name, len(body), RangeSet.of((0, BLOCKS)))
            made = receipt_of(driver, body)
    bound = made["bound"]
    assert bound["nodes"] == 2
    assert bound["missing_bytes"] == len(body)
    assert bound["term"] in ("origin", "link")
    assert bound["seconds"] == max(bound["terms"].values())
    assert bound["ratio"] >= 0.99
    assert any("a swarm of 2 nodes" in line for line in receipt_lines(made))


async def test_a_lone_pull_keeps_its_bound_and_waits_for_nobody(tmp_path, body, web):
    url = web.on("/model.bin", swarms.paced(body, 4 * MIB))

    async def locate(_key: str) -> Location:
        return Location(url)

    with served_peers(0) as peers, trio.fail_after(DEADLINE_S):
        origin = Origin("web", SourceKind.ORIGIN, 16, locate)
        async with pulling(
            tmp_path, [wanted(body)], [origin], ScriptedSwarm(peers), streams=2
        ) as (driver, _, _told):  # fmt: skip
            await driver.run()
            made = receipt_of(driver, body)
    assert made["bound"]["name"] == "best second of this pull"
    assert made["where"]["owner_s"] == made["where"]["peers_s"] == 0.0
    assert made["where"]["origin_s"] > 0.5 * driver.fetch_s
    assert made["origin_copies"] == {"own": pytest.approx(1.0), "heard": None}


async def test_a_traced_pull_with_a_frozen_owner_asks_for_the_same_again(tmp_path, body, web):
    traces, lines = Traces(), []
    with served_peers(2) as peers, trio.fail_after(DEADLINE_S), traces.listen() as listener:
        swarm = ScriptedSwarm(peers)
        name = peers[1].serves(body, swarms.frozen_after(body, 3 * MIB, []))
        swarm.peer_brings(peers[0], {})
        swarm.holds(peers[1], name, len(body), RangeSet.of((0, 6)))
        with traces.pull("hf://org/model@main") as trace:
            async with pulling(
                tmp_path, [wanted(body)], [origin_of(web, body)], swarm, trace=trace
            ) as (driver, _, _told):  # fmt: skip
                await driver.run()
        traces.close()
        while more := await listener.wait_lines():
            lines += more
    (found,) = replay(lines)
    assert found.difference is None
    assert found.incomplete is None
    assert found.seconds == driver.fetch_s
    assert found.tally == driver.tally()
