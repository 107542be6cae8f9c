"""A bucket of hf-cache-sync's, and who works on it: hf-cache-sync 0.1.0 itself and we."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.support.hf_cache_sync import HfCacheSync, settings_text
from tests.support.hub_cache import folder_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.agents import Agent
    from tests.support.hub_repo import HubRepo
    from tests.support.hub_stub import HubStub
    from tests.support.minio import Minio

OFFLINE = {"AWS_EC2_METADATA_DISABLED": "true"}


@dataclass
class Team:
    """A bucket, and what works on it. `ours`: the cache that our side has."""

    server: Minio
    name: str
    folder: Path
    agent: Agent
    hub: HubStub
    s3: Any
    prefix: str = ""
    endpoint: str = ""
    team: dict[str, object] = field(default_factory=dict)

    @property
    def ours(self) -> Path:
        return self.folder / "ours"

    @property
    def settings(self) -> Path:
        path = self.folder / "settings.yaml"
        said = settings_text(self.server, self.name, self.prefix, **self.team)
        path.write_text(said.replace(self.server.url, self.endpoint or self.server.url))
        return path

    def them(self, name: str = "them") -> HfCacheSync:
        """A machine that runs hf-cache-sync."""
        home = self.folder / name
        home.mkdir(exist_ok=True)
        shutil.copyfile(self.settings, home / ".hf-cache-sync.yaml")
        return HfCacheSync(home)

    def __call__(self, what: str, agent: Agent | None = None, **options: Any) -> dict[str, Any]:
        options = {"hf_cache": str(self.ours), "config": str(self.settings),
                   "credentials": {"hf_endpoint": self.hub.url}, **options}  # fmt: skip
        with (agent or self.agent).client() as client:
            value, items = client.bucket(what, **options)
        return {**value, "items": items}

    def objects(self) -> dict[str, int]:
        said = self.s3.list_objects_v2(Bucket=self.name, Prefix=self.prefix)
        return {
            one["Key"].removeprefix(f"{self.prefix}/"): one["Size"]
            for one in said.get("Contents", ())
        }

    def body(self, key: str) -> bytes:
        return bytes(self.s3.get_object(Bucket=self.name, Key=self._key(key))["Body"].read())

    def put(self, key: str, body: bytes) -> None:
        self.s3.put_object(Bucket=self.name, Key=self._key(key), Body=body)

    def _key(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key


Make = Callable[..., Team]
Run = Callable[..., int]


def snapshot(cache: Path, repo: HubRepo) -> Path:
    return folder_of(cache, repo) / "snapshots" / repo.commit


def sha1_file(repo: HubRepo) -> Any:
    return repo.files["config.json"]


def snapshot_after_pull(team: Team, repo: HubRepo, **options: Any) -> Path:
    cache = team.folder / "pulled"
    team("pull", repo=repo.repo_id, hf_cache=str(cache), **options)
    return snapshot(cache, repo)
