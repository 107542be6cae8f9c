"""The operations on what is here, as a client sees them."""

from __future__ import annotations

import math

import pytest

from p2pcache.errors import UsageError
from tests.support.inside import agent_inside


@pytest.fixture
async def inside(tmp_path):
    async with agent_inside(tmp_path / "home") as inside:
        yield inside


async def test_gc_down_to_nothing(inside, tmp_path):
    (tmp_path / "a").write_bytes(b"a" * 1000)
    await inside("push", path=str(tmp_path / "a"))
    assert (await inside("gc", target_bytes=0))["freed_bytes"] == 1000


@pytest.mark.parametrize("value", [-1, math.nan, math.inf, True, "1"])
async def test_a_target_that_is_no_size_is_wrong_usage(inside, value):
    with pytest.raises(UsageError, match="target_bytes"):
        await inside("gc", target_bytes=value)


@pytest.mark.parametrize("value", [0, math.nan, math.inf])
async def test_a_rate_that_is_none_is_wrong_usage(inside, value, tmp_path):
    with pytest.raises(UsageError, match="limit_rate"):
        await inside("get", ref=str(tmp_path), limit_rate=value)
