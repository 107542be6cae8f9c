"""Answers of `get` that would not fit a frame are bounded, and say so."""

from __future__ import annotations

import pytest

from p2pcache.agent.get import MAX_LISTED
from p2pcache.agent.localapi.wire import Result, encode, parse_from_server
from tests.support.inside import agent_inside


@pytest.fixture
async def inside(tmp_path):
    async with agent_inside(tmp_path / "home") as inside:
        yield inside


async def test_a_dry_run_of_thousands_of_files_has_an_answer(inside, tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(4200):
        (folder / f"{number:05}").write_bytes(b"%d" % number)
    answer = await inside("get", ref=str(folder), dry_run=True)
    dry = answer["dry_run"]
    assert dry["missing_count"] == 4200
    assert len(dry["missing_files"]) == MAX_LISTED
    frame = encode(Result(1, answer))
    assert parse_from_server(frame[4:]).value["dry_run"]["missing_count"] == 4200
