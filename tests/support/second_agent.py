"""An agent that is expected not to come up: what it says and how it ends."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from tests.support.agents import REPO

if TYPE_CHECKING:
    from tests.support.agents import Agent

START_S = 20.0


def start_and_end(like: Agent, **more: str) -> subprocess.CompletedProcess[str]:
    """Run another agent in the environment of `like`, and `more`, until it leaves."""
    return subprocess.run(
        [sys.executable, "-m", "p2pcache.agent"],
        cwd=REPO, env={**like.env, **more},
        capture_output=True, text=True, timeout=START_S, check=False,
    )  # fmt: skip
