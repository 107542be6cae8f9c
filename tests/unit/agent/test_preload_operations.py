"""`preload` as who asks for it sees it: what is refused, and what is said."""

from __future__ import annotations

import time

import pytest

from p2pcache.errors import UsageError
from tests.support.inside import agent_inside


@pytest.fixture
async def inside(tmp_path):
    (tmp_path / "model").write_bytes(b"m" * 100)
    settings = {"network_hosts": "127.0.0.1", "network_mdns": "off", "network_port": "0"}
    async with agent_inside(tmp_path / "home", agent_labels="rack=4", **settings) as inside:
        await inside("init")
        yield inside


async def test_that_nobody_has_the_labels_is_said_and_who_is_not_selected(inside, tmp_path):
    ref = (await inside("push", path=str(tmp_path / "model")))["manifest"]
    answer = await inside("preload", ref=ref, nodes="gpu=x")
    assert any("no agent that is here now is `gpu=x`" in note for note in answer["notes"])
    await inside("preload_list")
    assert [one["chosen"] for one in inside.items] == [False]
    mine = await inside("preload", ref=ref, nodes="rack=4", replicas=3)
    assert not any("no agent" in note for note in mine["notes"])
    assert "3 copies need as many agents; 1 of them are here now" in mine["notes"]
    with pytest.raises(UsageError, match="not a number of agents"):
        await inside("preload", ref=ref, nodes="-1")


async def test_a_start_in_the_past_is_refused(inside, tmp_path):
    with pytest.raises(UsageError, match="the start is in the past"):
        await inside("preload", ref=str(tmp_path / "model"), at=time.time() - 3600)
