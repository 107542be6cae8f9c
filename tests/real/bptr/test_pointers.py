"""What the fields of a pointer mean: its end, its hash, its size."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from p2pcache import errors
from tests.support.bptr_files import DATA, GIT, SHA256, pointer, pull, unique, written
from tests.support.faulty_http import FaultyServer, ranged
from tests.support.network import network

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.agents import Agent
    from tests.support.hub_repo import HubRepo
    from tests.support.hub_stub import HubStub


def test_an_expired_pointer_is_refused_before_a_byte_unless_its_content_is_here(
    tmp_path: Path, agent: Agent, server: FaultyServer
) -> None:
    data, sha256 = unique("expired")
    url = server.on("/m.bin", ranged(data)) + "?signature=secret"
    over = {"resolution_type": "http", "url": url, "expiration_timestamp": int(time.time()) - 1}
    file = written(tmp_path, pointer(url, resolution=over, hash=sha256, size=len(data)))
    with pytest.raises(errors.Denied) as raised:
        pull(agent, file, tmp_path / "to")
    assert "secret" not in raised.value.message
    assert server.seen == []
    (tmp_path / "here").mkdir()
    alive = written(tmp_path / "here", pointer(url, hash=sha256, size=len(data)))
    pull(agent, alive, tmp_path / "to")
    pull(agent, file, tmp_path / "to2")
    assert (tmp_path / "to2" / "model.bin").read_bytes() == data


def test_an_expired_pointer_to_a_hub_is_made_again(
    tmp_path: Path, agent: Agent, hub: HubStub, repo: HubRepo
) -> None:
    config = repo.files["config.json"]
    url = f"https://huggingface.co/demo/model/resolve/{repo.commit}/config.json"
    over = {"url": url, "expiration_timestamp": 1}  # untagged, as the first versions wrote it
    file = written(
        tmp_path,
        pointer(url, resolution=over, hashtype="etag", hash=config.git_sha1, size=config.size),
    )
    pull(agent, file, tmp_path / "to", credentials={"hf_endpoint": hub.url})
    assert (tmp_path / "to" / "model.bin").read_bytes() == config.on_disk.read_bytes()


@pytest.mark.parametrize(
    ("hashtype", "value"),
    [("etag", SHA256), ("etag", GIT), ("md5", "0" * 32), ("blake3", "0" * 64)],
)
def test_a_hash_counts_by_its_kind_and_length(
    tmp_path: Path, agent: Agent, server: FaultyServer, hashtype: str, value: str
) -> None:
    url = server.on("/m.bin", ranged(DATA))
    file = written(tmp_path, pointer(url, hashtype=hashtype, hash=value))
    pull(agent, file, tmp_path / "to")
    assert (tmp_path / "to" / "model.bin").read_bytes() == DATA


def test_a_wrong_git_id_of_the_right_size_is_refused(
    tmp_path: Path, agent: Agent, server: FaultyServer
) -> None:
    data, _ = unique("wrong git id")
    url = server.on("/m.bin", ranged(data))
    file = written(tmp_path, pointer(url, hashtype="etag", hash="0" * 40, size=len(data)))
    with pytest.raises(errors.Untrusted):
        pull(agent, file, tmp_path / "to")
    assert not (tmp_path / "to" / "model.bin").exists()


def test_a_wrong_size_is_refused_before_the_content_is_fetched(
    tmp_path: Path, agent: Agent, server: FaultyServer
) -> None:
    data, _ = unique("wrong size")
    url = server.on("/m.bin", ranged(data))
    file = written(tmp_path, pointer(url, hashtype="md5", hash="0" * 32, size=len(data) + 1))
    with pytest.raises(errors.Untrusted, match="the pointer file says"):
        pull(agent, file, tmp_path / "to")
    assert len(server.seen) == 1, "the probe alone"


def test_a_hub_that_has_another_file_than_the_pointer_says_is_not_asked_for_it(
    tmp_path: Path, agent: Agent, hub: HubStub, repo: HubRepo
) -> None:
    big = repo.files["model-00001-of-00002.safetensors"]
    url = f"{hub.url}/demo/model/resolve/{repo.commit}/{big.path}"
    file = written(tmp_path, pointer(url, hashtype="etag", hash="0" * 64, size=big.size))
    before = len(hub.asked)
    with pytest.raises(errors.Untrusted, match="the origin has"):
        pull(agent, file, tmp_path / "to", credentials={"hf_endpoint": hub.url})
    assert not any("/resolve/" in request.path for request in hub.asked[before:])


def test_a_sha256_of_a_file_that_the_hub_lists_by_git_id_is_compared_with_what_arrived(
    tmp_path: Path, agent: Agent, hub: HubStub, repo: HubRepo
) -> None:
    readme = repo.files["README.md"]
    url = f"{hub.url}/demo/model/resolve/{repo.commit}/{readme.path}"
    hub_here = {"hf_endpoint": hub.url}
    file = written(tmp_path, pointer(url, hash="0" * 64, size=readme.size))
    with pytest.raises(errors.Untrusted, match="the origin has"):
        pull(agent, file, tmp_path / "to", credentials=hub_here)
    assert not (tmp_path / "to").exists()
    file = written(tmp_path, pointer(url, hash=readme.sha256, size=readme.size))
    pull(agent, file, tmp_path / "to", credentials=hub_here)
    assert (tmp_path / "to" / "model.bin").read_bytes() == readme.on_disk.read_bytes()


def test_offline_a_pointer_without_a_digest_is_not_found_and_nobody_is_asked(
    tmp_path: Path, agent: Agent, server: FaultyServer
) -> None:
    file = written(
        tmp_path, pointer(server.on("/m.bin", ranged(DATA)), hashtype="md5", hash="0" * 32)
    )
    with pytest.raises(errors.NotFound, match="no digest"):
        pull(agent, file, tmp_path / "to", offline=True)
    data, sha256 = unique("offline")
    file = written(tmp_path, pointer(server.url("/m.bin"), hash=sha256, size=len(data)))
    with pytest.raises(errors.NotFound):
        pull(agent, file, tmp_path / "to", offline=True)
    assert server.seen == []


def test_the_second_agent_gets_a_pointers_bytes_from_the_first(
    tmp_path: Path, server: FaultyServer
) -> None:
    data, sha256 = unique("peers")
    url = server.on("/m.bin", ranged(data))
    file = written(tmp_path, pointer(url, hash=sha256, size=len(data)))
    with network(tmp_path, 2) as (a, b):
        pull(a, file, tmp_path / "a")
        asked = len(server.seen)
        pull(b, file, tmp_path / "b")
        assert sum(s["bytes"] for s in b.why()["sources"] if s["kind"] == "peer") == len(data)
    assert [headers["range"] for _, headers in server.seen[asked:]] == ["bytes=0-0"], "a probe"
    assert (tmp_path / "b" / "model.bin").read_bytes() == data
