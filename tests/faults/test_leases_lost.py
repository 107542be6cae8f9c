"""An agent whose lease was taken over by another host says so, and serves on."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from typing import TYPE_CHECKING

import trio

from p2pcache.agent.wiring import open_agent
from p2pcache.config.settings import load

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


async def test_a_lease_that_was_lost_is_logged_once_and_is_no_bug(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """Warnings are errors here, as in every agent of the tests: one that is raised is a bug."""
    config = load(tmp_path, {})
    often = dataclasses.replace(config.store, heartbeat_s=0.01)
    with caplog.at_level(logging.WARNING), trio.fail_after(60):
        async with open_agent(dataclasses.replace(config, store=often)) as parts:
            shutil.rmtree(parts.store.small_dir())  # as whoever took it over would
            while not caplog.records:  # noqa: ASYNC110 - it looks from outside
                await trio.sleep(0.01)
            await trio.sleep(0.1)
    (said,) = [record.getMessage() for record in caplog.records]
    assert "was taken over" in said
