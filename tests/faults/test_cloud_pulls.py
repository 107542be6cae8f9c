"""Whole pulls from Google's and Azure's stores: a real server, and one that fails on the way.

Nothing is half seen. The table of faults is that of S3 (`test_s3_pulls`).
"""

from __future__ import annotations

import hashlib
import threading
from typing import TYPE_CHECKING, Any

import pytest

from p2pcache import errors
from tests.support.agents import Agent, no_traceback, running_agent
from tests.support.azurite import KEY
from tests.support.blobs import MIB
from tests.support.bucket_faults import FAULTS, bad_range, large, model, shown, unfinished
from tests.support.cloud_logins import google_logins
from tests.support.clouds import OFFLINE, TOKEN, Azure, Gcs, running_cloud
from tests.support.partial_files import some_bytes
from tests.support.pulling import Pull
from tests.support.s3_proxy import Ask, Reply, S3Proxy, s3_proxy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

QUICK = {"fetch.no_progress": "1s", "fetch.patience": "1s", "fetch.max_streams": "2"}
OF_S3 = ("clock", "expired login")  # its words


@pytest.fixture(scope="module", params=["gcs", "azure"])
def cloud(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gcs | Azure]:
    with running_cloud(request.param, tmp_path_factory.mktemp(request.param)) as running:
        yield running


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    settings = {**QUICK, "resolve.ttl": "0s"}
    with running_agent(tmp_path_factory.mktemp("agent"), settings=settings, **OFFLINE) as running:
        yield running


@pytest.fixture
def proxy(cloud: Gcs | Azure) -> Iterator[S3Proxy]:
    with s3_proxy(cloud.server) as running:
        running.fault = cloud.door
        yield running


def test_a_folder_comes_once_and_is_named_by_what_arrived(
    cloud: Gcs | Azure, proxy: S3Proxy, agent: Agent, tmp_path: Path
) -> None:
    files, before = model(f"once {cloud}", large=26 * MIB + 17), unfinished(agent)
    cloud.fill("once", {f"m/{path}": body for path, body in files.items()})
    ref, login = cloud.ref("once/m"), cloud.asks(proxy.url)
    done = agent.get(ref, to=str(tmp_path / "out"), credentials=login)
    assert shown(tmp_path / "out") == files
    assert done["fetched_bytes"] == sum(map(len, files.values()))
    assert any("named by what arrived" in note for note in done["notes"])
    assert sum("model-1" in ask.path for ask in proxy.reads()) > 1, "in ranges"
    again = agent.get(ref, to=str(tmp_path / "two"), credentials=login)
    assert shown(tmp_path / "two") == files
    assert again["fetched_bytes"] == 0, "its versions are what they were"
    assert unfinished(agent) == before


def test_a_sha256_of_the_metadata_is_checked(
    cloud: Gcs | Azure, proxy: S3Proxy, agent: Agent, tmp_path: Path
) -> None:
    body, before = some_bytes(2 * MIB, f"checked {cloud}".encode()), unfinished(agent)
    cloud.fill("checked", {})
    cloud.put("checked", "good", body, {"p2pcache-sha256": hashlib.sha256(body).hexdigest()})
    wrong = {"p2pcache-sha256": hashlib.sha256(b"else").hexdigest()}
    cloud.put("checked", "bad", some_bytes(2 * MIB, b"w"), wrong)
    login = cloud.asks(proxy.url)
    done = agent.get(cloud.ref("checked/good"), to=str(tmp_path), credentials=login)
    assert shown(tmp_path) == {"good": body}
    assert done["notes"] == []
    with pytest.raises(errors.Untrusted):
        agent.get(cloud.ref("checked/bad"), to=str(tmp_path), credentials=login)
    assert shown(tmp_path) == {"good": body}
    assert unfinished(agent) == before


@pytest.mark.parametrize(
    "name", [name for name in FAULTS if name not in ("clock", "expired login")]
)
def test_each_fault_says_who_must_act_and_shows_nothing(
    cloud: Gcs | Azure, proxy: S3Proxy, agent: Agent, tmp_path: Path, name: str
) -> None:
    which, reply, error, words = FAULTS[name]
    files = model(f"{name} {cloud}")
    bucket = f"fault-{name.replace(' ', '-')}"
    cloud.fill(bucket, {f"m/{path}": body for path, body in files.items()})
    proxy.fault = lambda ask: reply if which(ask) else cloud.door(ask)
    out, ref = tmp_path / "out", cloud.ref(f"{bucket}/m/")
    with pytest.raises(errors.P2PCacheError) as seen:
        agent.get(ref, to=str(out), credentials=cloud.asks(proxy.url))
    assert type(seen.value) is error, (seen.value, seen.value.hint)
    assert words in seen.value.message
    assert not out.exists() or shown(out) == {}
    proxy.fault = cloud.door
    agent.get(ref, to=str(out), credentials=cloud.asks(proxy.url))
    assert shown(out) == files


def test_what_passes_is_tried_again(
    cloud: Gcs | Azure, proxy: S3Proxy, agent: Agent, tmp_path: Path
) -> None:
    files = model(f"again {cloud}")
    cloud.fill("again", files)
    busy = Reply(503, "ServerBusy")

    def fault(ask: Ask) -> Reply | None:
        few = sum(map(large, proxy.reads())) < 3
        return busy if large(ask) and few else cloud.door(ask)

    proxy.fault = fault
    agent.get(cloud.ref("again"), to=str(tmp_path), credentials=cloud.asks(proxy.url))
    assert shown(tmp_path) == files


def test_an_object_that_changes_on_its_way_is_not_mixed_of_two(
    cloud: Gcs | Azure, proxy: S3Proxy, agent: Agent, tmp_path: Path
) -> None:
    old, new = model(f"old {cloud}"), model(f"new {cloud}")
    cloud.fill("mixed", old)
    changed = threading.Event()

    def change(ask: Ask) -> Reply | None:
        if bad_range(ask) and not changed.is_set():
            changed.set()
            for key, body in new.items():
                cloud.put("mixed", key, body)
        return cloud.door(ask)

    proxy.fault = change
    with pytest.raises(cloud.mixed):
        agent.get(cloud.ref("mixed"), to=str(tmp_path), credentials=cloud.asks(proxy.url))
    assert changed.is_set()
    assert shown(tmp_path) == {}
    agent.get(cloud.ref("mixed"), to=str(tmp_path), credentials=cloud.asks(proxy.url))
    assert shown(tmp_path) == new


def test_a_small_object_that_changed_is_not_taken_for_the_listed_one(
    cloud: Gcs | Azure, proxy: S3Proxy, agent: Agent, tmp_path: Path
) -> None:
    cloud.fill("small", {"a.json": b"old a"})

    def change(ask: Ask) -> Reply | None:
        if ask.reads:
            cloud.put("small", "a.json", b"new a")
        return cloud.door(ask)

    proxy.fault = change
    with pytest.raises(cloud.mixed):
        agent.get(cloud.ref("small/"), to=str(tmp_path), credentials=cloud.asks(proxy.url))
    assert shown(tmp_path) == {}


def test_what_was_verified_survives_a_kill(
    cloud: Gcs | Azure, proxy: S3Proxy, tmp_path: Path
) -> None:
    files = model(f"killed {cloud}", large=24 * MIB)
    cloud.fill("killed", files)
    ref, login = cloud.ref("killed"), cloud.asks(proxy.url)
    settings = {"fetch.limit_rate": "5 MiB"}
    with running_agent(tmp_path / "agent", settings=settings, **OFFLINE) as first:
        with Pull(first, ref, credentials=login) as pull:
            pull.wait_bytes(15 * MIB)  # 3 s: flushed by age after two
            first.kill()
        assert pull.error is not None
    with running_agent(tmp_path / "agent", **OFFLINE) as second:
        done = second.get(ref, to=str(tmp_path / "out"), credentials=login)
        assert shown(tmp_path / "out") == files
        assert done["fetched_bytes"] <= sum(map(len, files.values())) - 4 * MIB
        assert unfinished(second) == []


def test_a_pull_longer_than_its_login_holds_gets_a_fresh_one(
    cloud: Gcs | Azure, proxy: S3Proxy, tmp_path: Path
) -> None:
    """A signature of Azure's ends for Azurite; a token of Google's does at the proxy."""
    files = model(f"expiring {cloud}", large=12 * MIB)
    cloud.fill("expiring", files)
    settings = {"azure.url_valid": "2s", "fetch.limit_rate": "3 MiB", "fetch.max_streams": "2"}
    login = cloud.asks(proxy.url)
    with (
        google_logins(lasts_s=2.0) as google,
        running_agent(tmp_path / "agent", settings=settings, **OFFLINE) as slow,
    ):
        if isinstance(cloud, Gcs):
            proxy.fault = lambda ask: None if google.accepts(ask.headers) else Reply(401)
            login = {"gcs_account": google.account, "gcs_endpoint_url": proxy.url}
        slow.get(cloud.ref("expiring"), to=str(tmp_path / "out"), credentials=login)
    assert shown(tmp_path / "out") == files
    asked = [ask for ask in proxy.reads() if "model-1" in ask.path]
    logins = {str(ask.query.get("se")) + ask.headers.get("authorization", "") for ask in asked}
    assert len(logins) > 1


SECRET = "d0pbGFsclhVdG5GRU1JLUs3TURFTkctdmVyeS1zZWNyZXQ="


def test_no_secret_is_ever_written_or_said(cloud: Gcs | Azure, tmp_path: Path) -> None:
    said: list[Any] = []
    with s3_proxy(cloud.server) as proxy, running_agent(tmp_path / "agent", **OFFLINE) as agent:
        files = model(f"secret {cloud}")
        cloud.fill("secret", files)
        ref, login = cloud.ref("secret"), cloud.asks(proxy.url)
        said.append(agent.get(ref, to=str(tmp_path / "out"), credentials=login))
        cloud.put("secret", "model-1.bin", b"x" * 3 * MIB)
        proxy.fault = lambda ask: Reply(403, "AuthorizationFailure") if ask.reads else None
        for brings in (login, cloud.wrong(proxy.url, SECRET)):
            with pytest.raises(errors.P2PCacheError) as seen:
                agent.get(ref, refresh=True, credentials=brings)
            said.append((str(seen.value), seen.value.hint))
        said.append(agent.why())
        with agent.client() as client:
            said += [client.status(), list(client.ls())]
        no_traceback(agent)
    texts = [repr(said).encode()]
    texts += [path.read_bytes() for path in (tmp_path / "agent").rglob("*") if path.is_file()]
    for text in texts:
        for word in (KEY, TOKEN, SECRET, "sig=", "Bearer"):
            assert word.encode() not in text
