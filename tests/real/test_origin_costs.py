"""What origins cost: by the network, by month, and over restarts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support import faulty_http as fh
from tests.support.agents import running_agent
from tests.support.blobs import MIB, write_blob
from tests.support.metered_origin import MeteredOrigin
from tests.support.network import network, wait_until
from tests.support.wallclock import wall_clock

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.agents import Agent

pytestmark = pytest.mark.slow


def told(agent: Agent, month: str | None = None) -> list[dict[str, Any]]:
    with agent.client() as client:
        return [dict(one) for one in client.origins(month)]


def test_copies_errors_and_money_are_those_of_the_network_and_of_each_month(tmp_path: Path):
    clock = wall_clock(tmp_path)
    with fh.FaultyServer() as server:
        origin, host = MeteredOrigin(server), f"127.0.0.1:{server.port}"
        blobs = [write_blob(tmp_path / "blob", size * MIB, size) for size in (6, 4)]
        refs = [origin.serve(f"/{n}", blob) for n, blob in enumerate(blobs)]
        settings = {"origins.prices": f"127.0.0.1:{server.port} gb=1000 requests=2000 EUR"}
        with network(tmp_path, 2, settings=settings, env=clock.env) as (a, b):
            a.get(refs[0])
            b.get(refs[0])
            wait_until(lambda: told(b)[0]["bytes"] >= 6 * MIB, "b was not told")
            for agent in (a, b):
                agent.stop()
                agent.start()
            for agent in (a, b):
                (one,) = told(agent)
                assert one["host"] == host
                assert one["content_bytes"] == 6 * MIB, "also where a peer brought it"
                assert 1.0 <= one["copies"] <= 1.35
                money = one["bytes"] / 1e6 + 2 * one["requests"]
                assert one["cost"] == {"amount": pytest.approx(money), "currency": "EUR"}
            (month,) = {one["month"] for one in told(a)}
            clock.shift(40 * 86400)
            wait_until(lambda: told(a)[0]["month"] != month, "the month is over")
            (now,) = told(a)
            assert (now["bytes"], now["copies"], now["cost"]["amount"]) == (0, None, 0)
            (then,) = told(a, month)
            assert then["content_bytes"] == 6 * MIB
            assert then["cost"]["amount"] > 6
            a.get(refs[1])
            wait_until(lambda: told(a)[0]["content_bytes"] == 4 * MIB, "it was not noted")


def test_requests_that_fail_are_counted(tmp_path: Path):
    blob = write_blob(tmp_path / "blob", 2 * MIB)
    good = fh.ranged(blob.path.read_bytes())
    with fh.FaultyServer() as server, running_agent(tmp_path / "a") as agent:
        refused: list[fh.Exchange] = []

        def flaky(ask: fh.Exchange) -> bool:
            """Once, and not the question how long it is."""
            if refused or ask.range == (0, 1):
                return good(ask)
            refused.append(ask)
            return fh.status(503)(ask)

        server.on("/flaky", flaky)
        agent.get(f"{server.url('/flaky')}#sha256={blob.sha256}")
        wait_until(lambda: told(agent)[0]["content_bytes"] == 2 * MIB, "it was not noted")
        (one,) = told(agent)
        assert (one["errors"], one["cost"]) == (1, None)
        assert one["copies"] == one["bytes"] / (2 * MIB)
