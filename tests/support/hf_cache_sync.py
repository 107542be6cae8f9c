"""hf-cache-sync 0.1.0 itself, in an environment of its own: the other user of our buckets."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.support.building import tool

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.minio import Minio

CALL_S = 60.0


def hf_cache_sync_command() -> Path:
    """The command, installed from pinned packages when it is missing."""
    return tool("hf-cache-sync")


@dataclass(frozen=True)
class Called:
    returncode: int
    output: str


@dataclass(frozen=True)
class HfCacheSync:
    """Its command line over one Hugging Face cache. `home` holds its settings, too."""

    home: Path
    env: dict[str, str] = field(default_factory=dict)

    @property
    def cache(self) -> Path:
        return self.home / "hub"

    def __call__(self, *args: str) -> Called:
        self.cache.mkdir(parents=True, exist_ok=True)
        env = {"PATH": os.environ["PATH"], "HOME": str(self.home), "HF_HOME": str(self.home),
               "COLUMNS": "200", "AWS_EC2_METADATA_DISABLED": "true"}  # fmt: skip
        done = subprocess.run(
            [hf_cache_sync_command(), *args], check=False, text=True, timeout=CALL_S, cwd=self.home,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**env, **self.env},
        )  # fmt: skip
        return Called(done.returncode, done.stdout)

    def done(self, *args: str) -> str:
        """What it says of a call that it calls a success."""
        called = self(*args)
        assert called.returncode == 0, called.output
        return called.output


def settings_text(server: Minio, bucket: str, prefix: str = "", **team: object) -> str:
    """A `.hf-cache-sync.yaml` for a bucket of this server."""
    aws = server.aws
    said = "".join(f"  {name}: {str(value).lower()}\n" for name, value in team.items())
    return (
        f"storage:\n  endpoint: {server.url}\n  bucket: {bucket}\n  region: eu-test-1\n"
        f"  access_key: {aws['aws_access_key_id']}\n  secret_key: {aws['aws_secret_access_key']}\n"
        f"team:\n  prefix: '{prefix}'\n{said}"
    )
