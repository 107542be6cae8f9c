"""Unmodified huggingface_hub releases, each in a virtual environment of its own.

They are clients that others wrote: what they load is loaded. Made once with pip, kept in the
user's cache directory, and run as child processes with an isolated HF_HOME.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.building import python_with

VERSIONS = ("2.4.0", "1.33.0")
_CALLS = Path(__file__).with_name("hub_calls.py")
_CALL_TIMEOUT_S = 60.0  # the import alone takes seconds on a busy machine


@dataclass(frozen=True)
class HubClient:
    """One release with one HF_HOME. Offline unless an `endpoint` is given."""

    python: Path
    home: Path
    endpoint: str | None = None
    extra_env: dict[str, str] = field(default_factory=dict)
    unset: frozenset[str] = frozenset()

    @property
    def cache(self) -> Path:
        return self.home / "hub"

    def calls(self, *calls: tuple[str, dict[str, Any]]) -> list[Any]:
        """Run the calls in one process. Each gives its value, or {"error": <class name>, ...}."""
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "HF_HOME": str(self.home),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            **self.extra_env,
        }
        for name in self.unset:
            del env[name]
        if self.endpoint is None:
            env["HF_HUB_OFFLINE"] = "1"
        else:
            env["HF_ENDPOINT"] = self.endpoint
        done = subprocess.run(
            [str(self.python), str(_CALLS)],
            input=json.dumps(calls), env=env, capture_output=True, text=True,
            timeout=_CALL_TIMEOUT_S, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        answers = json.loads(done.stdout)
        assert isinstance(answers, list)
        return answers

    def call(self, name: str, **arguments: Any) -> Any:
        return self.calls((name, arguments))[0]


def hub_python(version: str) -> Path:
    """The interpreter of the environment that has this release; made when missing."""
    return python_with(f"venv-hub-{version}", f"huggingface_hub=={version}")
