"""Faults of our own machine: damage, its clock, settings. Never a bad blob or a traceback."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

import pytest

from p2pcache import errors
from tests.support.agents import no_traceback, running_agent
from tests.support.blobs import MIB, ServedBlob, left_behind, sha256_file, write_blob
from tests.support.hub_repo import build_repo, lfs, text
from tests.support.hub_stub import hub_stub
from tests.support.hubs import VERSIONS, HubClient, hub_python
from tests.support.nginx import nginx
from tests.support.pulling import Pull
from tests.support.second_agent import start_and_end
from tests.support.wallclock import wall_clock

if TYPE_CHECKING:
    from pathlib import Path

DAY_S = 86_400
SLOWLY = {"fetch.limit_rate": "8 MiB"}  # where a test must act between two moments of a pull


# -- damage ----------------------------------------------------------------------------------------


def damage(path: Path, at: int) -> None:
    """Flip a byte, as a failing disk does: neither length nor mode change."""
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 0xFF]))
    path.chmod(0o444)


@pytest.mark.parametrize("how", ["get", "repair"])
def test_a_damaged_blob_is_found_and_only_its_bad_block_is_fetched_again(
    tmp_path: Path, five_blocks: ServedBlob, how: str
):
    with (
        nginx(five_blocks.path.parent, tmp_path / "nginx") as server,
        running_agent(tmp_path) as agent,
        agent.client() as client,
    ):
        ref = five_blocks.ref(server)
        client.get(ref)
        stored = five_blocks.in_store(agent.home)
        damage(stored, 2 * MIB + 77)
        sent = server.body_bytes()
        if how == "get":
            (found,) = client.verify()["bad"]
            assert not stored.exists(), "it is out of sight"
            client.get(ref)
        else:
            (found,) = client.verify(repair=True)["bad"]
            assert found["repaired"]
        assert found["sha256"] == five_blocks.sha256
        assert found["bad_blocks"] == 1
        assert sha256_file(stored) == five_blocks.sha256
        assert MIB <= server.body_bytes() - sent <= MIB + 1, "a block, and a probe"
        assert client.verify()["bad"] == []
        assert left_behind(agent.home) == []


def test_a_repair_is_not_fooled_by_an_origin_that_changed(tmp_path: Path, five_blocks: ServedBlob):
    origin = tmp_path / "origin"
    origin.mkdir()
    changing = origin / five_blocks.path.name
    changing.write_bytes(five_blocks.path.read_bytes())
    with (
        nginx(origin, tmp_path / "nginx") as server,
        running_agent(tmp_path, settings={"fetch.patience": "3s"}) as agent,
        agent.client() as client,
    ):
        client.get(five_blocks.ref(server))
        stored = five_blocks.in_store(agent.home)
        damage(stored, 2 * MIB + 77)
        damage(changing, 2 * MIB + 78)
        (found,) = client.verify(repair=True)["bad"]
        assert not found["repaired"]
        assert found["reason"]
        assert not stored.exists()
        with pytest.raises(errors.Untrusted):
            client.get(five_blocks.ref(server))
        damage(changing, 2 * MIB + 78)
        client.get(five_blocks.ref(server))
        assert sha256_file(stored) == five_blocks.sha256


def test_a_file_of_an_adopted_cache_that_changes_is_trusted_no_more(tmp_path: Path):
    repo = build_repo(tmp_path / "repo", {"a.txt": text("a\n"), "model.bin": lfs(3 * MIB, 3)})
    model = repo.files["model.bin"]
    with hub_stub(repo) as hub, running_agent(tmp_path) as agent:
        library = HubClient(
            hub_python(VERSIONS[0]), agent.hub_cache.parent, endpoint=hub.url,
            extra_env={"HF_HUB_DISABLE_XET": "1"},
        )  # fmt: skip
        library.call("snapshot_download", repo_id=repo.repo_id)
        options = {"credentials": {"hf_endpoint": hub.url}, "to": str(tmp_path / "out")}
        assert agent.get("hf://demo/model", **options)["fetched_bytes"] == 0, "it was adopted"
        theirs = agent.hub_cache / "models--demo--model" / "blobs" / model.etag
        damage(theirs, MIB + 5)
        again = agent.get("hf://demo/model", **options)
        assert again["fetched_bytes"] == model.size
        assert sha256_file(tmp_path / "out" / "model.bin") == model.sha256
        assert sha256_file(theirs) != model.sha256, "what is not ours is not mended"


# -- the clock -------------------------------------------------------------------------------------


@pytest.mark.parametrize("jump_s", [-30 * DAY_S, 30 * DAY_S])
def test_a_clock_that_jumps_by_weeks_amid_a_pull_changes_nothing(
    tmp_path: Path, blob: ServedBlob, jump_s: int
):
    clock = wall_clock(tmp_path)
    settings = {"store.path": str(tmp_path / "store"), **SLOWLY}
    with (
        nginx(blob.path.parent, tmp_path / "nginx") as server,
        running_agent(tmp_path / "a", settings=settings, **clock.env) as first,
        running_agent(tmp_path / "b", settings=settings, **clock.env) as second,
    ):
        with Pull(first, blob.ref(server)) as one:
            one.wait_bytes(2 * MIB)
            with Pull(second, blob.ref(server)) as two:
                time.sleep(0.5)  # it has looked at the lease by now
                clock.shift(jump_s)
        assert one.error is None
        assert two.error is None
        assert server.body_bytes() <= blob.size + MIB, "nobody took a live lease for a dead one"
        assert sha256_file(blob.in_store(tmp_path / "store")) == blob.sha256
        assert first.why()["seconds"] < DAY_S, "what it took is measured, not computed from dates"


def test_eviction_and_resolutions_survive_a_clock_that_was_set_back(tmp_path: Path):
    clock = wall_clock(tmp_path)
    blobs = [write_blob(tmp_path / "origin", 3 * MIB, seed) for seed in (11, 12, 13, 14)]
    first, second, third, fourth = blobs
    settings = {"store.capacity": "10 MiB", "resolve.ttl": "60s"}
    repo = build_repo(tmp_path / "repo", {"a.txt": text("a\n")})
    with (
        hub_stub(repo) as hub,
        nginx(tmp_path / "origin", tmp_path / "nginx") as server,
        running_agent(tmp_path, settings=settings, **clock.env) as agent,
        agent.client() as client,
    ):
        credentials = {"hf_endpoint": hub.url}
        client.get(first.ref(server))
        clock.shift(30 * DAY_S)
        client.get(second.ref(server))
        client.resolve("hf://demo/model", credentials=credentials)
        clock.shift(-30 * DAY_S)
        client.get(third.ref(server))
        hub.asked.clear()
        client.resolve("hf://demo/model", credentials=credentials)
        assert hub.asked, "an answer from the future is not fresh for ever"
        client.get(fourth.ref(server))  # needs room: somebody must go, and it must not fail
        present = {path.name for path in (agent.home / "blobs-v1").glob("*/*")}
        assert fourth.sha256 in present
        assert len(present & {b.sha256 for b in blobs}) == 3
        assert client.verify()["bad"] == []


# -- a process that holds what we want, and sleeps -------------------------------------------------


def test_who_holds_a_file_and_brings_nothing_is_named_after_a_while(
    tmp_path: Path, blob: ServedBlob
):
    home = tmp_path / "both"
    settings = {"store.path": str(home), "fetch.patience": "2s", **SLOWLY}
    with (
        nginx(blob.path.parent, tmp_path / "nginx") as server,
        running_agent(tmp_path / "frozen", settings=settings) as frozen,
        running_agent(tmp_path / "waiting", settings=settings) as waiting,
    ):
        with Pull(frozen, blob.ref(server)) as first:
            first.wait_bytes(2 * MIB)
            assert frozen.process is not None
            frozen.process.send_signal(signal.SIGSTOP)
            try:
                with Pull(waiting, blob.ref(server), patience_s=20) as second:
                    second.wait_phase(f"waiting for process {frozen.process.pid}")
                assert isinstance(second.error, errors.LocalFault), second.answer
                assert f"process {frozen.process.pid}" in second.error.message
            finally:
                frozen.process.send_signal(signal.SIGCONT)
        assert first.error is None
        no_traceback(waiting)


# -- our own settings ------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [None, "no certificate in here"])
def test_a_file_of_authorities_that_cannot_be_read_is_said_at_the_start(
    tmp_path: Path, text: str | None
):
    ca_file = tmp_path / "ca.pem"
    if text is not None:
        ca_file.write_text(text)
    with running_agent(tmp_path) as agent:
        agent.stop()
        ended = start_and_end(agent, P2PCACHE_TLS_CA_FILE=str(ca_file))
    assert ended.returncode == 1
    assert str(ca_file) in ended.stderr
    assert "tls.ca_file" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("size", [1000, 2 * MIB])
def test_a_token_that_no_header_can_carry_is_the_callers_fault_at_once(tmp_path: Path, size: int):
    """Also when the meaning of the ref is known, so that only the bytes need the token."""
    repo = build_repo(tmp_path / "repo", {"f.bin": lfs(size, 1)})
    with hub_stub(repo) as hub, running_agent(tmp_path) as agent, agent.client() as client:
        ref = f"hf://demo/model@{repo.commit}"
        client.resolve(ref, credentials={"hf_endpoint": hub.url})
        began = time.monotonic()
        with pytest.raises(errors.UsageError, match="token"):
            client.get(ref, credentials={"hf_endpoint": hub.url, "hf_token": "hf_\x07bell"})
        assert time.monotonic() - began < 10, "asking again would not help"
