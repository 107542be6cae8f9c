"""Folders of somebody else's, as tests lay them out: old enough to be hashed at once."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from tests.support.hub_repo import BLOCK

if TYPE_CHECKING:
    from pathlib import Path

    from p2pcache.agent.localapi.adopted import AdoptedAnswer
    from tests.support.agents import Agent
    from tests.support.hub_repo import HubRepo

OLD_S = 1_700_000_000.25


def write_old(path: Path, data: bytes, at: float = OLD_S) -> Path:
    """A file that was written long ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, (at, at))
    return path


def adopt(agent: Agent, folder: Path, **options: Any) -> AdoptedAnswer:
    """Until all of it is hashed."""
    with agent.client() as client:
        return client.adopt(folder, wait=True, **options)


def adopted(agent: Agent) -> AdoptedAnswer:
    """The only folder that an agent has."""
    with agent.client() as client:
        (one,) = client.adopted()
    return one


def old_cache(repo: HubRepo, cache: Path, *, shared: bool = False) -> Path:
    """The repository as huggingface_hub leaves it; `shared`: payloads beside the repositories, by
    another hash, as since 1.33.
    """
    folder = cache / "models--demo--model"
    snapshot = folder / "snapshots" / repo.commit
    for name, file in repo.files.items():
        etag = file.sha256 if file.lfs else file.git_sha1
        blob = folder / "blobs" / etag
        data = (repo.plain / name).read_bytes()
        if shared and file.lfs:
            payload = cache / "blobs" / file.sha256[:2][::-1] / file.sha256[::-1]
            write_old(payload, data)
            write_old(payload.with_name(payload.name + ".refs"), b"models--demo--model\n")
            blob.parent.mkdir(parents=True, exist_ok=True)
            if not blob.is_symlink():
                blob.symlink_to(os.path.relpath(payload, blob.parent))
        else:
            write_old(blob, data)
        link = snapshot / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    write_old(folder / "refs" / "main", repo.commit.encode())
    write_old(folder / "blobs" / f"{'0' * 64}.1234abcd.incomplete", bytes(BLOCK))
    return cache
