"""`push` to Google's and Azure's stores: only what they lack, checked, resumed, and read back."""

from __future__ import annotations

import hashlib
import json
import stat
from typing import TYPE_CHECKING, Any

import pytest

from p2pcache import errors
from tests.support.agents import Agent, running_agent
from tests.support.blobs import MIB
from tests.support.clouds import OFFLINE, TOKEN, Azure, Gcs, running_cloud
from tests.support.partial_files import some_bytes
from tests.support.s3_proxy import Ask, Reply, S3Proxy, s3_proxy
from tests.support.watched_pull import QUICK, at_most

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


@pytest.fixture(scope="module", params=["gcs", "azure"])
def cloud(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gcs | Azure]:
    with running_cloud(request.param, tmp_path_factory.mktemp(request.param)) as running:
        yield running


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    with running_agent(tmp_path_factory.mktemp("agent"), settings=QUICK, **OFFLINE) as running:
        yield running


@pytest.fixture
def proxy(cloud: Gcs | Azure) -> Iterator[S3Proxy]:
    with s3_proxy(cloud.server) as running:
        running.fault = cloud.door
        yield running


def model(name: str, large: int = 40 * MIB + 5) -> dict[str, bytes]:
    """A folder whose bytes no other test has: a file of parts, a small one, an empty one."""
    return {
        "config.json": b'{"name": "%s"}' % name.encode(),
        "sub/empty": b"",
        "sub/with space + ü.json": some_bytes(70_000, name.encode() + b"t"),
        "model-1.bin": some_bytes(large, name.encode() + b"1"),
        "model-2.bin": some_bytes(3 * MIB, name.encode() + b"2"),
    }


def written(folder: Path, files: Mapping[str, bytes]) -> Path:
    for path, body in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(body)
    return folder


def push(agent: Agent, what: object, to: str, login: dict[str, str], **more: Any) -> dict[str, Any]:
    with agent.client() as client:
        done = client.push(str(what), to=to, to_credentials=login, **more)
    assert done["to"] is not None
    return dict(done["to"])


def test_a_folder_gets_there_by_its_own_paths_and_comes_back(
    cloud: Gcs | Azure, agent: Agent, proxy: S3Proxy, tmp_path: Path
) -> None:
    files = model(f"once {cloud}")
    folder, login = written(tmp_path / "folder", files), cloud.asks(proxy.url)
    cloud.fill("once", {})
    to, total = cloud.ref("once/m"), sum(map(len, files.values()))
    with at_most(60):
        said = push(agent, folder, to, login, dry_run=True)
        assert (said["missing_objects"], said["missing_bytes"]) == (5, total)
        assert cloud.keys("once") == []
        done = push(agent, folder, to, login)
    assert (done["sent_objects"], done["sent_bytes"]) == (5, total)
    assert (done["ref"], done["notes"]) == (f"{to}/", [])
    there = [key for key in cloud.keys("once") if "/.p2pcache/" not in key]
    assert sorted(there) == sorted(f"m/{path}" for path in files)
    for path, body in files.items():
        assert cloud.read("once", f"m/{path}") == body
        assert cloud.sha256("once", f"m/{path}") == hashlib.sha256(body).hexdigest()
    before = proxy.taken_bytes
    again = push(agent, folder, to, login)
    assert (again["missing_bytes"], again["sent_bytes"]) == (0, 0)
    assert proxy.taken_bytes == before, "not even the record"
    with running_agent(tmp_path / "other", settings=QUICK, **OFFLINE) as other, at_most(60):
        back = other.get(f"{to}/", to=str(tmp_path / "out"), credentials=login)
    assert back["notes"] == [], "nothing is named by what arrived"
    out = tmp_path / "out"
    got = {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert got == files


def test_what_changed_is_replaced_and_what_another_wrote_meanwhile_is_not(
    cloud: Gcs | Azure, agent: Agent, proxy: S3Proxy, tmp_path: Path
) -> None:
    files = model(f"changed {cloud}", large=17 * MIB)
    folder, login = written(tmp_path / "folder", files), cloud.asks(proxy.url)
    cloud.fill("changed", {"m/other": b"not ours"})
    to = cloud.ref("changed/m")
    first = push(agent, folder, to, login)
    assert "1 other objects are below" in first["notes"][0]
    (folder / "config.json").write_bytes(b"{}")
    second = push(agent, folder, to, login)
    assert (second["sent_objects"], second["sent_bytes"]) == (1, 2)
    rows = json.loads(cloud.read("changed", "m/.p2pcache/ref"))["files"]
    assert rows["config.json"]["sha256"] == hashlib.sha256(b"{}").hexdigest()
    assert rows.keys() == files.keys()
    changed = some_bytes(17 * MIB, b"changed on our side")
    (folder / "model-1.bin").write_bytes(changed)
    theirs: list[bytes] = []

    def meanwhile(ask: Ask) -> Reply | None:
        if ask.writes and ("model-1" in ask.path or "model-1" in str(ask.query)) and not theirs:
            theirs.append(b"of somebody else")
            cloud.put("changed", "m/model-1.bin", theirs[0])
        return cloud.door(ask)

    proxy.fault = meanwhile
    with pytest.raises(errors.Conflict, match="model-1"):
        push(agent, folder, to, login)
    assert cloud.read("changed", "m/model-1.bin") == theirs[0]
    proxy.fault = cloud.door
    push(agent, folder, to, login)
    assert cloud.read("changed", "m/model-1.bin") == changed


@pytest.mark.parametrize("told", [None, {"size": "7", "generation": "1", "name": "m/model-1.bin"}])
def test_an_answer_that_is_not_of_what_was_sent_removes_nothing_of_others(
    agent: Agent, tmp_path: Path, told: dict[str, str] | None
) -> None:
    """Google's is told what to keep, and answers with it; a gateway between may say anything."""
    name = f"garbled {told}"
    with running_cloud("gcs", tmp_path / "gcs") as cloud, s3_proxy(cloud.server) as proxy:
        assert isinstance(cloud, Gcs)
        cloud.fill("garbled", {"m/model-1.bin": b"of the push before"})

        def garbles(ask: Ask) -> Reply | None:
            if ask.writes and "upload_id" in ask.query:
                return Reply(200, body=json.dumps(told).encode())
            return cloud.door(ask)

        proxy.fault = garbles
        folder = written(tmp_path / "folder", {"model-1.bin": some_bytes(2 * MIB, name.encode())})
        with at_most(60), pytest.raises(errors.Untrusted):
            push(agent, folder, cloud.ref("garbled/m"), cloud.asks(proxy.url))
        removed = [ask for ask in proxy.seen if ask.method == "DELETE" and "model-1" in ask.path]
        if told is None:
            assert removed == []
            assert cloud.read("garbled", "m/model-1.bin") == b"of the push before"
        else:  # fake-gcs-server removes whatever is there; Google's that version alone
            assert [ask.query.get("ifGenerationMatch") for ask in removed] == [["1"]]


def test_a_push_goes_on_after_a_kill(cloud: Gcs | Azure, proxy: S3Proxy, tmp_path: Path) -> None:
    """The last part of three never gets there before the kill."""
    large = some_bytes(40 * MIB + 5, f"killed {cloud}".encode())
    (tmp_path / "large.bin").write_bytes(large)
    cloud.fill("killed", {})
    to, login = cloud.ref("killed/m"), cloud.asks(proxy.url)
    last = 8 * MIB + 5  # bytes of the last part
    with running_agent(tmp_path / "agent", settings=QUICK, **OFFLINE) as first:

        def fault(ask: Ask) -> Reply | None:
            if ask.writes and ask.headers.get("content-length") == str(last):
                while cloud.staged("killed", "m/large.bin") < 2:
                    assert not proxy.closing.wait(0.05)
                first.kill()
                return Reply(cut_body=1000)
            return cloud.door(ask)

        proxy.fault = fault
        with pytest.raises(errors.P2PCacheError):
            push(first, tmp_path / "large.bin", to, login)
    assert not [key for key in cloud.keys("killed") if "large" in key], "nothing half is visible"
    kept = list((first.home / "uploads").glob("*")) if isinstance(cloud, Gcs) else []
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in kept)
    assert bool(kept) == isinstance(cloud, Gcs)
    before, proxy.fault = proxy.taken_bytes, cloud.door
    with running_agent(tmp_path / "agent", settings=QUICK, **OFFLINE) as second:
        done = push(second, tmp_path / "large.bin", to, login)
        assert not list((second.home / "uploads").glob("*"))
    assert done["sent_bytes"] == last
    assert done["resumed_bytes"] == done["missing_bytes"] - last
    assert proxy.taken_bytes - before < last + MIB
    assert cloud.read("killed", "m/large.bin") == large


Row = tuple[Reply, type[errors.P2PCacheError], str]
ROWS: dict[str, Row] = {
    "403": (Reply(403, "AuthorizationPermissionMismatch"), errors.Denied, "no access"),
    "404": (Reply(404), errors.NotFound, "has no"),
    "400": (Reply(400, "InvalidInput"), errors.UsageError, "understand"),
}


@pytest.mark.parametrize("name", ROWS)
def test_each_refusal_of_a_write_names_who_must_act_and_leaves_nothing_half(
    cloud: Gcs | Azure, agent: Agent, proxy: S3Proxy, tmp_path: Path, name: str
) -> None:
    reply, error, words = ROWS[name]
    bucket = f"refused-{list(ROWS).index(name)}"
    folder = written(tmp_path / "folder", {"large.bin": some_bytes(2 * MIB, name.encode())})
    cloud.fill(bucket, {})
    proxy.fault = lambda ask: reply if ask.writes and "large" in str(ask) else cloud.door(ask)
    with pytest.raises(error, match=words) as seen:
        push(agent, folder, cloud.ref(bucket), cloud.asks(proxy.url))
    assert type(seen.value) is error
    assert TOKEN not in f"{seen.value} {seen.value.hint}"
    assert not [key for key in cloud.keys(bucket) if ".p2pcache" not in key]


def test_what_passes_is_tried_again(
    cloud: Gcs | Azure, agent: Agent, proxy: S3Proxy, tmp_path: Path
) -> None:
    files = {"large.bin": some_bytes(17 * MIB, f"again {cloud}".encode())}
    cloud.fill("again", {})
    replies = [
        Reply(503, "ServerBusy"), Reply(cut_body=100_000), Reply(500), Reply(429),
        Reply(wait_s=2.0),
    ]  # fmt: skip

    def fault(ask: Ask) -> Reply | None:
        return replies.pop() if ask.writes and replies else cloud.door(ask)

    proxy.fault = fault
    push(agent, written(tmp_path / "d", files), cloud.ref("again"), cloud.asks(proxy.url))
    assert replies == []
    assert cloud.read("again", "large.bin") == files["large.bin"]


def test_a_file_whose_last_answer_was_lost_is_not_sent_again(
    cloud: Gcs | Azure, agent: Agent, proxy: S3Proxy, tmp_path: Path
) -> None:
    size = 17 * MIB
    files = {"large.bin": some_bytes(size, f"lost {cloud}".encode())}
    cloud.fill("lost", {})
    lost: list[Ask] = []

    def lose(ask: Ask) -> Reply | None:
        last = ask.headers.get("content-range", "").startswith(f"bytes {16 * MIB}-")
        if ask.writes and (last or ask.query.get("comp") == ["blocklist"]) and not lost:
            lost.append(ask)
            return cloud.door(ask) or Reply(lost=True)
        return cloud.door(ask)

    proxy.fault = lose
    with at_most(60):
        done = push(agent, written(tmp_path / "d", files), cloud.ref("lost"), cloud.asks(proxy.url))
    assert len(lost) == 1
    assert proxy.taken_bytes < size + 100_000
    assert (done["sent_bytes"], done["sent_objects"]) == (size, 1)
    assert cloud.read("lost", "large.bin") == files["large.bin"]


def test_a_destination_that_is_not_there_or_makes_no_sense_is_told(
    cloud: Gcs | Azure, agent: Agent, proxy: S3Proxy, tmp_path: Path
) -> None:
    (tmp_path / "x").write_bytes(b"x")
    with pytest.raises(errors.NotFound):
        push(agent, tmp_path / "x", cloud.ref("not-there"), cloud.asks(proxy.url))
    cloud.fill("locked", {})
    with pytest.raises(errors.Denied):
        push(agent, tmp_path / "x", cloud.ref("locked"), cloud.wrong(proxy.url, "d3Jvbmcga2V5"))
    for to in ("gs://", "gs://bucket/key@1", "az://account", "az://account/container/../up"):
        with pytest.raises(errors.UsageError):
            push(agent, tmp_path / "x", to, cloud.asks(proxy.url))
