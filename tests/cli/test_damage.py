"""`verify` from the command line to the bytes: no part of it is scripted."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.agents import REPO, agent_env

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20


class Program:
    """The program in a process of its own, with a home of its own."""

    def __init__(self, folder: Path) -> None:
        self.env = agent_env(folder)
        self.store = folder / "p2pcache"

    def __call__(self, *args: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "p2pcache", *args]
        return subprocess.run(command, cwd=REPO, env=self.env, capture_output=True, text=True)

    def blob(self, data: bytes) -> Path:
        sha256 = hashlib.sha256(data).hexdigest()
        return self.store / "blobs-v1" / sha256[:2] / sha256


@pytest.fixture
def program(tmp_path):
    return Program(tmp_path)


def test_verify_names_what_is_damaged_and_counts_its_blocks(program, tmp_path):
    data = bytes(2 * MIB) + b"end"
    given = tmp_path / "model.bin"
    given.write_bytes(data)
    assert program("push", str(given)).returncode == 0
    stored = program.blob(data)
    stored.chmod(0o644)
    stored.write_bytes(b"x" + data[1:])
    found = program("verify")
    assert found.returncode == 12, found.stderr
    assert found.stdout == f"bad  {stored.name}  1 block\n"
    assert "Traceback" not in found.stderr
