"""Budgets of origins, between real agents and scripted origins that count."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from p2pcache.errors import Unavailable
from tests.support import faulty_http as fh
from tests.support.blobs import MIB, write_blob
from tests.support.metered_origin import MeteredOrigin
from tests.support.network import network, peer_id, wait_until
from tests.support.pulling import Pull
from tests.support.wallclock import wall_clock

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.agents import Agent

pytestmark = pytest.mark.slow
NEXT_MONTH_S = 40 * 86400


def origin_of(agent: Agent, host: str) -> dict[str, Any]:
    """What `status` tells of one origin."""
    with agent.client() as client:
        return next(dict(o) for o in client.origins() if o["host"] == host)


def pull_all(agents: list[Agent], refs: list[str]) -> None:
    with contextlib.ExitStack() as stack:
        pulls = [
            stack.enter_context(Pull(agent, ref)) for agent, ref in zip(agents, refs, strict=True)
        ]
    assert [pull.error for pull in pulls] == [None] * len(pulls)


def test_three_agents_together_keep_to_what_one_origin_may_be_asked(tmp_path: Path):
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(fh.FaultyServer()) for _ in range(4)]
        few, seldom, slow, hub = (MeteredOrigin(server) for server in servers)
        cdn = MeteredOrigin(stack.enter_context(fh.FaultyServer()))
        hosts = [f"127.0.0.1:{server.port}" for server in servers]
        limits = ["concurrent=2", "requests=2/s", "rate=4MiB/s", "month=1GB"]
        budgets = "; ".join(f"{h} {limit}" for h, limit in zip(hosts, limits, strict=True))
        settings = {"origins.budgets": budgets}
        agents = stack.enter_context(network(tmp_path, 3, settings=settings))
        blobs = [write_blob(tmp_path / "blob", 2 * MIB, seed) for seed in range(10)]

        few.takes_s = 0.25
        pull_all(agents, [few.serve(f"/{n}", blobs[n]) for n in range(3)])
        assert few.most == 2, "two at once, of three agents"

        pull_all(agents, [seldom.serve(f"/{n}", blobs[3 + n]) for n in range(3)])
        assert len(seldom.began) >= 6
        for at in seldom.began:
            count = sum(at <= other < at + 1.0 for other in seldom.began)
            assert count <= 2 + 2, "two a second, and what two began before they heard of others"

        pull_all(agents, [slow.serve(f"/{n}", blobs[6 + n]) for n in range(3)])
        took_s = time.monotonic() - slow.began[0]
        assert took_s >= 0.8 * 6 / 4, "6 MiB at 4 MiB/s"

        ref = cdn.serve("/9", blobs[9])
        hub.server.on("/9", fh.redirect(cdn.server.url("/9")))
        agents[0].get(f"{hub.server.url('/9')}#{ref.partition('#')[2]}")
        brought = origin_of(agents[0], hosts[3])["bytes"] - blobs[9].size
        assert 0 <= brought < 100, "what a redirect brings is of who redirected"
        wait_until(lambda: origin_of(agents[1], hosts[3])["bytes"] >= blobs[9].size, "not told")
        (member,) = origin_of(agents[1], hosts[3])["members"]
        assert (member["peer"], member["ours"]) == (peer_id(agents[0]), False)

        told = subprocess.run(
            [sys.executable, "-m", "p2pcache", "status", "--origins", "--json"],
            env=agents[2].env, capture_output=True, check=True,
        )  # fmt: skip
        shown = json.loads(told.stdout)["origins"]
        assert [o["host"] for o in shown] == hosts, "and the other server is no origin of its own"
        assert [o["bytes"] // MIB for o in shown] == [6, 6, 6, 2]
        assert [len(o["members"]) for o in shown] == [3, 3, 3, 1]


def test_a_month_that_one_agent_used_up_is_used_up_for_all_until_the_next(tmp_path: Path):
    clock = wall_clock(tmp_path)
    with fh.FaultyServer() as server:
        origin, host = MeteredOrigin(server), f"127.0.0.1:{server.port}"
        settings = {"origins.budgets": f"127.0.0.1 month={6 * MIB}B"}
        small, large, other = (write_blob(tmp_path / "blob", n * MIB, n) for n in (4, 5, 1))
        with network(tmp_path, 2, settings=settings, env=clock.env) as (a, b):
            a.get(origin.serve("/small", small))
            origin.takes_s = 30.0  # for the last byte: what came before counts on its way
            with pytest.raises(Unavailable) as caught:
                a.get(origin.serve("/large", large))
            origin.takes_s = 0.0
            said = caught.value.message
            assert "127.0.0.1: the network has fetched its 6.0 MiB of 20" in said
            assert "renews on" in said
            assert "`origins.budgets`" in str(caught.value.hint)
            assert "the network has fetched" in a.why()["sources"][0]["reason"]
            assert host in a.why()["sources"][0]["host"]
            wait_until(lambda: origin_of(b, "127.0.0.1")["used_up"], "b was not told")
            before = len(origin.began)
            b.get(origin.serve("/small", small))  # of its peer
            time.sleep(1.5)  # it is kept within a second
            for agent in (a, b):
                agent.kill()
                agent.launch()
            for agent in (a, b):
                agent.wait_ready()
            ref = origin.serve("/other", other)
            with Pull(a, ref) as one, Pull(b, ref) as two:
                pass
            for pull in (one, two):
                assert "the network has fetched its" in str(pull.error)
            assert len(origin.began) == before, "the origin was asked"
            clock.shift(NEXT_MONTH_S)
            b.get(ref)
            assert origin_of(b, "127.0.0.1")["bytes"] == other.size
