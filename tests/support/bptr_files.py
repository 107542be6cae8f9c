"""Baseten's pointer files, as tests write them."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from p2pcache.formats.bptr.pointers import (
    MODEL_PATH,
    NEVER,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.agents import Agent
    from tests.support.hub_repo import HubRepo

DATA = bytes(range(256)) * 8192  # two blocks
SHA256 = hashlib.sha256(DATA).hexdigest()
GIT = hashlib.sha1(b"blob %d\0" % len(DATA) + DATA).hexdigest()


def pointer(url: str, **fields: Any) -> dict[str, Any]:
    resolution = {"resolution_type": "http", "url": url, "expiration_timestamp": NEVER}
    return {
        "resolution": resolution, "uid": "u", "file_name": "model.bin", "hashtype": "sha256",
        "hash": SHA256, "size": len(DATA), "runtime_secret_name": "hf_access_token", **fields,
    }  # fmt: skip


def written(folder: Path, *pointers: dict[str, Any], **more: Any) -> Path:
    path = folder / "bptr-manifest.json"
    path.write_text(json.dumps({"pointers": list(pointers), **more}))
    return path


def pull(agent: Agent, file: Path, to: Path, **options: Any) -> dict[str, Any]:
    folders = {"": str(to), MODEL_PATH: str(to)}
    with agent.client() as client:
        return dict(client.bptr_pull([file], folders=folders, model_path=MODEL_PATH, **options))


def matches(folder: Path, repo: HubRepo) -> None:
    for path, file in repo.files.items():
        assert hashlib.sha256((folder / path).read_bytes()).hexdigest() == file.sha256, path


def unique(tag: str) -> tuple[bytes, str]:
    """Content that no other test left in the agent's store."""
    data = tag.encode() + DATA
    return data, hashlib.sha256(data).hexdigest()
