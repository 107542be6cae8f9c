from __future__ import annotations

import pytest

from p2pcache import errors
from p2pcache.agent.preload.job import Job
from p2pcache.cli.preload_reasons import REASONS, reasons
from p2pcache.net.sync.preloads import Stage, State
from p2pcache.store.preloads import PreloadRow


def line(state: str, code: str | None):
    return {"state": state, "code": code}


def test_each_reason_is_said_once_and_says_what_to_do():
    said = reasons(
        [line("refused", "denied"), line("complete", None), line("refused", "denied"),
         line("failed", "disk-full"), line("failed", "of a newer version")]
    )  # fmt: skip
    assert [text.partition(":")[0] for text in said] == ["denied", "disk-full"]
    assert "grant" in said[0]
    assert "preload.from" in said[0]


# No try ends so: it only reads, and it is the agent that does.
OURS = (errors.P2PCacheError, errors.UsageError, errors.AgentNotRunning, errors.Conflict)


@pytest.mark.parametrize("kind", [one for one in errors.ALL_ERRORS if one not in OURS])
def test_whatever_ends_a_try_has_a_reason(kind):
    job = Job(
        PreloadRow(bytes(32), b"", b"", 9, None, None),
        State(bytes(32), Stage.WAITING, 0, 0, 0, 0.0, "", ""),
    )
    job.failed(kind("no"), 0.0)
    assert job.state.code in REASONS
