"""`push` to a real MinIO: only what it lacks, checked by the store, and read back by anybody."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from p2pcache import errors
from tests.support.agents import REPO, Agent, running_agent
from tests.support.blobs import MIB
from tests.support.minio import PASSWORD, USER, Minio, minio
from tests.support.partial_files import some_bytes
from tests.support.s3_proxy import S3Proxy, s3_proxy
from tests.support.watched_pull import QUICK, at_most

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

OFFLINE = {"AWS_EC2_METADATA_DISABLED": "true"}  # no test asks 169.254.169.254


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Minio]:
    with minio(tmp_path_factory.mktemp("minio")) as running:
        yield running


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    with running_agent(tmp_path_factory.mktemp("agent"), settings=QUICK, **OFFLINE) as running:
        yield running


@pytest.fixture
def proxy(server: Minio) -> Iterator[S3Proxy]:
    with s3_proxy(server) as running:
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


def push(
    agent: Agent, what: object, to: str, aws: dict[str, str], **options: Any
) -> dict[str, Any]:
    with agent.client() as client:
        done = client.push(str(what), to=to, to_credentials=aws, **options)
    assert done["to"] is not None
    return dict(done["to"])


def stored(server: Minio, bucket: str) -> dict[str, bytes]:
    """Every object, as others read them."""
    s3 = server.client()
    rows = s3.list_objects_v2(Bucket=bucket).get("Contents", ())
    return {row["Key"]: s3.get_object(Bucket=bucket, Key=row["Key"])["Body"].read() for row in rows}


def record(server: Minio, bucket: str, prefix: str = "m/") -> dict[str, Any]:
    return dict(json.loads(stored(server, bucket)[f"{prefix}.p2pcache/ref"]))


def test_a_folder_gets_there_by_its_own_paths_and_is_not_sent_twice(
    server: Minio, agent: Agent, proxy: S3Proxy, tmp_path: Path
) -> None:
    files = model("once")
    folder = written(tmp_path / "folder", files)
    s3, to = server.bucket("once"), "s3://once/m"
    aws = {**server.aws, "aws_endpoint_url": proxy.url}
    total = sum(map(len, files.values()))
    with at_most(60):
        said = push(agent, folder, to, aws, dry_run=True)
        assert (said["missing_objects"], said["missing_bytes"]) == (5, total)
        assert stored(server, "once") == {}
        done = push(agent, folder, to, aws)
        assert (done["sent_objects"], done["sent_bytes"]) == (5, total)
        assert (done["ref"], done["notes"]) == ("s3://once/m/", [])
    there = stored(server, "once")
    ours = {key: there.pop(key) for key in list(there) if "/.p2pcache/" in key}
    assert there == {f"m/{path}": body for path, body in files.items()}
    assert sorted(key.split("/")[2] for key in ours) == ["manifests", "ref"]
    for path, body in files.items():
        head = s3.head_object(Bucket="once", Key=f"m/{path}", ChecksumMode="ENABLED")
        sha256 = hashlib.sha256(body)
        assert head["Metadata"] == {"p2pcache-sha256": sha256.hexdigest()}
        whole = base64.b64encode(sha256.digest()).decode()
        assert head["ChecksumSHA256"] == whole or head["ChecksumSHA256"].endswith("-3")
    before = proxy.taken_bytes
    with at_most(30):
        again = push(agent, folder, to, aws)
    assert (again["missing_bytes"], again["sent_bytes"]) == (0, 0)
    assert proxy.taken_bytes == before, "not even the record"


def test_a_pull_of_it_is_named_by_the_record_without_a_look_at_each(
    server: Minio, agent: Agent, proxy: S3Proxy, tmp_path: Path
) -> None:
    files = model("back")
    s3 = server.bucket("back")
    push(agent, written(tmp_path / "folder", files), "s3://back/m", server.aws)
    aws = {**server.aws, "aws_endpoint_url": proxy.url}
    with running_agent(tmp_path / "other", settings=QUICK, **OFFLINE) as other, at_most(60):
        done = other.get("s3://back/m/", to=str(tmp_path / "out"), credentials=aws)
        assert done["notes"] == [], "nothing is named by what arrived"
        assert {ask.method for ask in proxy.seen} == {"GET"}
        got = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.*")}
        assert not any(".p2pcache" in path for path in got)
        for path, body in files.items():
            assert (tmp_path / "out" / path).read_bytes() == body
        changed = some_bytes(3 * MIB, b"by somebody else")
        s3.put_object(Bucket="back", Key="m/model-2.bin", Body=changed)
        done = other.get("s3://back/m/", to=str(tmp_path / "two"), credentials=aws, refresh=True)
        assert (tmp_path / "two/model-2.bin").read_bytes() == changed
        assert "named by what arrived" in done["notes"][0]
        assert any(ask.method == "HEAD" for ask in proxy.seen)


def test_what_changed_is_replaced_and_the_rest_is_not_sent(
    server: Minio, agent: Agent, tmp_path: Path
) -> None:
    files = model("changed", large=3 * MIB)
    folder = written(tmp_path / "folder", files)
    server.bucket("changed", {"m/other": b"not ours"})
    first = push(agent, folder, "s3://changed/m", server.aws)
    assert "1 other objects are below s3://changed/m/" in first["notes"][0]
    (folder / "config.json").write_bytes(b"{}")
    second = push(agent, folder, "s3://changed/m", server.aws)
    assert (second["sent_objects"], second["sent_bytes"]) == (1, 2)
    there = stored(server, "changed")
    assert there["m/config.json"] == b"{}"
    rows = record(server, "changed")["files"]
    assert rows["config.json"]["sha256"] == hashlib.sha256(b"{}").hexdigest()
    assert rows.keys() == files.keys()


def test_what_others_put_there_is_known_by_its_sha256_and_not_by_its_etag(
    server: Minio, agent: Agent, tmp_path: Path
) -> None:
    same, other = some_bytes(MIB, b"the same"), some_bytes(MIB, b"other")
    folder = written(tmp_path / "folder", {"same": same, "plain": same, "other": other})
    s3 = server.bucket("theirs")
    s3.put_object(Bucket="theirs", Key="same", Body=same, ChecksumAlgorithm="SHA256")
    s3.put_object(Bucket="theirs", Key="plain", Body=same, ChecksumAlgorithm="CRC32")
    s3.put_object(Bucket="theirs", Key="other", Body=same, ChecksumAlgorithm="SHA256")
    done = push(agent, folder, "s3://theirs", server.aws)
    assert done["sent_objects"] == 2, "of `plain` the bucket tells no sha256"
    assert stored(server, "theirs")["other"] == other
    assert record(server, "theirs", "")["files"].keys() == {"same", "plain", "other"}


def test_a_file_that_is_pushed_alone_and_a_ref(server: Minio, agent: Agent, tmp_path: Path) -> None:
    body = some_bytes(2 * MIB, b"alone")
    (tmp_path / "one.gguf").write_bytes(body)
    server.bucket("alone")
    push(agent, tmp_path / "one.gguf", "s3://alone/a/b/", server.aws)
    assert stored(server, "alone")["a/b/one.gguf"] == body
    server.bucket("second")
    with agent.client() as client:
        done = client.push(
            "s3://alone/a/b/", to="s3://second", credentials=server.aws,
            to_credentials=server.aws, allow_gated=True,
        )  # fmt: skip
    assert done["to"] is not None
    assert stored(server, "second")["one.gguf"] == body
    assert record(server, "second", "")["ref"] == "s3://alone/a/b/"


def test_a_destination_that_makes_no_sense_is_told(
    server: Minio, agent: Agent, tmp_path: Path
) -> None:
    (tmp_path / "x").write_bytes(b"x")
    for to in ("s3://", "s3://x", "s3://bucket/key@version", "s3://bucket/../up"):
        with pytest.raises(errors.UsageError):
            push(agent, tmp_path / "x", to, server.aws)
    folder = written(tmp_path / "folder", {".p2pcache/ref": b"{}"})
    server.bucket("odd")
    with pytest.raises(errors.UsageError, match="holds the record"):
        push(agent, folder, "s3://odd", server.aws)


def test_the_command_line_takes_the_login_of_the_environment(
    server: Minio, agent: Agent, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"fourteen bytes")
    server.bucket("typed")

    def run(*args: str, secret: str = PASSWORD) -> subprocess.CompletedProcess[str]:
        login = {"AWS_ACCESS_KEY_ID": USER, "AWS_SECRET_ACCESS_KEY": secret}
        return subprocess.run(
            [sys.executable, "-m", "p2pcache", "push", str(tmp_path / "file"), *args],
            cwd=REPO, env={**agent.env, **login, "AWS_ENDPOINT_URL_S3": server.url},
            check=False, capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    with at_most(90):
        dry = run("s3://typed/m", "--dry-run")
        assert (dry.returncode, "1 object, 14 B would be sent" in dry.stderr) == (0, True)
        done = run("--to", "s3://typed/m", "--json", "--limit-rate", "10M")
        told = json.loads(done.stdout)["to"]
        assert (told["sent_objects"], told["ref"]) == (1, "s3://typed/m/")
        denied = run("s3://typed/n", secret="a-wrong-secret")
        assert denied.returncode == 14
        assert "a-wrong-secret" not in denied.stderr + agent.log.read_text()
        assert run("s3://no-such-bucket/m").returncode == 11
        assert run("gopher://typed").returncode == 2
    assert stored(server, "typed")["m/file"] == b"fourteen bytes"
