"""`get` against servers and clients that others wrote: olah, nginx, huggingface_hub."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from p2pcache import errors
from tests.support.agents import Agent, running_agent
from tests.support.certs import make_server_cert
from tests.support.hub_repo import HubRepo, build_repo
from tests.support.hub_stub import hub_stub
from tests.support.hubs import VERSIONS, HubClient, hub_python
from tests.support.nginx import nginx
from tests.support.olah import olah


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> HubRepo:
    return build_repo(tmp_path_factory.mktemp("repo"))


def matches(folder: Path, repo: HubRepo) -> None:
    for path, file in repo.files.items():
        assert hashlib.sha256((folder / path).read_bytes()).hexdigest() == file.sha256, path


def loads_offline(agent: Agent, repo: HubRepo) -> None:
    """What an unmodified huggingface_hub says about the cache that we wrote."""
    for version in VERSIONS:
        client = HubClient(hub_python(version), agent.hub_cache.parent)
        folder, config, scan = client.calls(
            ("snapshot_download", {"repo_id": repo.repo_id}),
            ("hf_hub_download", {"repo_id": repo.repo_id, "filename": "config.json"}),
            ("scan", {"cache_dir": str(agent.hub_cache)}),
        )
        matches(Path(folder), repo)
        assert Path(config).read_bytes() == repo.files["config.json"].on_disk.read_bytes()
        assert scan["warnings"] == []


@pytest.mark.parametrize("server", ["olah", "stub"])
def test_a_hub_repository_is_loaded_offline_by_the_unmodified_library(
    tmp_path: Path, repo: HubRepo, server: str
):
    origin = olah(repo, tmp_path / "olah") if server == "olah" else hub_stub(repo)
    with origin as hub, running_agent(tmp_path) as agent:
        credentials = {"hf_endpoint": hub.url}
        done = agent.get("hf://demo/model", hf_cache=str(agent.hub_cache), credentials=credentials)
        assert done["fetched_bytes"] == repo.total_bytes
        matches(Path(done["path"]), repo)
        loads_offline(agent, repo)
        again = agent.get("hf://demo/model", hf_cache=str(agent.hub_cache), credentials=credentials)
        assert again["fetched_bytes"] == 0
        assert again["link_kind"] is None, "nothing was written a second time"


@pytest.mark.parametrize("tls", [False, True])
def test_a_file_comes_from_nginx_plain_and_over_a_private_authority(
    tmp_path: Path, repo: HubRepo, tls: bool
):
    cert = make_server_cert(tmp_path / "ca") if tls else None
    settings = {} if cert is None else {"tls.ca_file": str(cert.ca_file)}
    file = repo.files["model-00001-of-00002.safetensors"]
    with (
        nginx(repo.plain, tmp_path / "nginx", tls=cert) as server,
        running_agent(tmp_path, settings=settings) as agent,
    ):
        url = f"{server.url}/{file.path}"
        done = agent.get(f"{url}#sha256={file.sha256}", to=str(tmp_path / "out"))
        assert Path(done["path"]).read_bytes() == file.on_disk.read_bytes()
        assert server.body_bytes() <= file.size + 2, "one copy, and a probe of a byte"
        wrong = "0" * 64
        with pytest.raises(errors.Untrusted):
            agent.get(f"{url}?x#sha256={wrong}")
        unpinned = agent.get(f"{server.url}/config.json")
        assert any("named by" in note for note in unpinned["notes"])


def test_a_cache_that_huggingface_hub_wrote_is_adopted_without_a_byte(
    tmp_path: Path, repo: HubRepo
):
    with hub_stub(repo) as hub, running_agent(tmp_path) as agent:
        library = HubClient(
            hub_python(VERSIONS[0]),
            agent.hub_cache.parent,
            endpoint=hub.url,
            extra_env={"HF_HUB_DISABLE_XET": "1"},
        )
        library.call("snapshot_download", repo_id=repo.repo_id)
        hub.asked.clear()
        done = agent.get(
            "hf://demo/model", hf_cache=str(agent.hub_cache), credentials={"hf_endpoint": hub.url}
        )
        assert done["fetched_bytes"] == 0
        assert done["reused_bytes"] == repo.total_bytes
        assert not [path for path in hub.paths() if "/resolve/" in path]
        changed = agent.hub_cache / "models--demo--model" / "blobs"
        blob = changed / repo.files["config.json"].etag
        blob.write_bytes(b"x" * blob.stat().st_size)
        again = agent.get(
            "hf://demo/model", to=str(tmp_path / "out"), credentials={"hf_endpoint": hub.url}
        )
        assert again["fetched_bytes"] == repo.files["config.json"].size, "it is trusted no more"
        matches(tmp_path / "out", repo)
