"""What `get` answers, whatever its size."""

from __future__ import annotations

import pytest

from p2pcache.agent.localapi.wire import MAX_ITEMS
from tests.support.inside import agent_inside

COUNT = MAX_ITEMS + 4


@pytest.fixture
async def inside(tmp_path):
    async with agent_inside(tmp_path / "home") as inside:
        yield inside


async def test_a_dry_run_names_more_files_than_a_frame_holds(inside, tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(COUNT):
        (folder / f"f{number:05}").write_bytes(b"x" * number)
    answer = await inside("get", ref=str(folder), dry_run=True)
    assert len(answer["dry_run"]["missing_files"]) == COUNT
    assert answer["dry_run"]["missing_bytes"] == sum(range(COUNT))


async def test_of_many_notes_the_first_are_shown_and_the_rest_counted(inside, tmp_path):
    folder, out = tmp_path / "many", tmp_path / "out"
    for each in (folder, out):
        each.mkdir()
    for number in range(200):
        (folder / f"f{number:05}").write_bytes(b"new")
        (out / f"f{number:05}").write_bytes(b"old")
    answer = await inside("get", ref=str(folder), to=str(out))
    assert len(answer["notes"]) == 51
    assert answer["notes"][-1] == "and 150 more notes like these"
    assert (out / "f00199").read_bytes() == b"new"
