"""Agents with one private bucket: the bytes come from each other, for who may read them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from p2pcache import errors
from p2pcache.content.push_record import SHA256_METADATA
from tests.support.blobs import MIB
from tests.support.hub_repo import build_repo, lfs
from tests.support.hub_stub import GOOD_TOKEN, hub_stub
from tests.support.minio import Minio, minio
from tests.support.network import is_given, network, wait_until
from tests.support.partial_files import some_bytes
from tests.support.s3_proxy import S3Proxy, s3_proxy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.agents import Agent

pytestmark = pytest.mark.slow

REF = "s3://models/demo"
OFFLINE = {"AWS_EC2_METADATA_DISABLED": "true"}
PROOF_BYTES = 64 << 10
SPARE_BYTES = 6 * MIB  # a peer that brings nothing for 0.5 s has the origin tried, piece by piece
FILES = {"demo/config.json": b"{}", "demo/model.bin": some_bytes(24 * MIB + 5, b"shared")}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Minio]:
    with minio(tmp_path_factory.mktemp("minio")) as running:
        s3 = running.bucket("models")
        for key, body in FILES.items():
            s3.put_object(Bucket="models", Key=key, Body=body, ChecksumAlgorithm="SHA256")
        yield running


@pytest.fixture
def bucket(server: Minio) -> Iterator[S3Proxy]:
    with s3_proxy(server) as running:
        yield running


def from_peers(agent: Agent) -> int:
    return sum(s["bytes"] for s in agent.why()["sources"] if s["kind"] == "peer")


def get(agent: Agent, server: Minio, bucket: S3Proxy, **options: Any) -> dict[str, Any]:
    return agent.get(REF, credentials={**server.aws, "aws_endpoint_url": bucket.url}, **options)


def test_who_has_a_login_of_its_own_gets_the_bytes_from_the_other(
    tmp_path: Path, server: Minio, bucket: S3Proxy
) -> None:
    with network(tmp_path, 2, env=OFFLINE) as (a, b):
        get(a, server, bucket)
        bucket.seen.clear()
        get(b, server, bucket, to=str(tmp_path / "out"))
        assert (tmp_path / "out" / "model.bin").read_bytes() == FILES["demo/model.bin"]
        assert from_peers(b) >= sum(map(len, FILES.values())) - SPARE_BYTES
        ranges = [ask.headers["range"].removeprefix("bytes=") for ask in bucket.reads()]
        sizes = [int(last) + 1 - int(first) for first, last in (r.split("-") for r in ranges)]
        assert min(sizes) <= PROOF_BYTES, "the bucket is asked for the proof of access"
        assert sum(sizes) <= PROOF_BYTES + SPARE_BYTES


def test_who_has_none_gets_nothing_unless_the_bucket_is_said_to_be_public(
    tmp_path: Path, server: Minio, bucket: S3Proxy
) -> None:
    with network(tmp_path / "gated", 2, env=OFFLINE) as (a, b):
        manifest = get(a, server, bucket)["manifest"]
        with pytest.raises(errors.Denied):
            b.get(REF, credentials={"aws_endpoint_url": bucket.url})
        with pytest.raises(errors.NotFound):
            b.get(manifest)
    public = {0: {"s3.public": "on"}}
    with network(tmp_path / "public", 2, env=OFFLINE, each=public) as (a, b):
        manifest = get(a, server, bucket)["manifest"]
        b.get(manifest, to=str(tmp_path / "out"))
        assert (tmp_path / "out" / "model.bin").read_bytes() == FILES["demo/model.bin"]


def public_bucket(server: Minio, name: str, objects: dict[str, tuple[bytes, str]]) -> None:
    """One that wants no login. Of each object the bytes, and the sha256 that its metadata tells."""
    s3 = server.bucket(name)
    statement = {
        "Effect": "Allow", "Principal": "*", "Action": ["s3:GetObject", "s3:ListBucket"],
        "Resource": [f"arn:aws:s3:::{name}", f"arn:aws:s3:::{name}/*"],
    }  # fmt: skip
    policy = {"Version": "2012-10-17", "Statement": [statement]}
    s3.put_bucket_policy(Bucket=name, Policy=json.dumps(policy))
    for key, (body, sha256) in objects.items():
        s3.put_object(Bucket=name, Key=key, Body=body, Metadata={SHA256_METADATA: sha256})


def test_a_public_bucket_that_only_names_gated_content_does_not_open_it(
    tmp_path: Path, server: Minio
) -> None:
    """Whoever knows a digest can write it into metadata. Who has the bytes gives them anyway."""
    large = lfs(3 * MIB + 5, 7)
    repo = build_repo(tmp_path / "repo", {"model.safetensors": large})
    file = repo.files["model.safetensors"]
    data = file.on_disk.read_bytes()
    fakes = {"w/model.safetensors": (some_bytes(file.size, b"other"), file.sha256)}
    public_bucket(server, "names", fakes)
    public_bucket(server, "has", {"other/weights": (data, file.sha256)})
    anonymous = {"aws_endpoint_url": server.url}
    with hub_stub(repo) as hub, network(tmp_path, 2, env=OFFLINE) as (a, b):
        hub.gated.add("demo/model")
        token = {"hf_endpoint": hub.url, "hf_token": GOOD_TOKEN}
        a.get("hf://demo/model", credentials=token, hf_cache=False)
        named = a.get("s3://names/w", credentials=anonymous, to=str(tmp_path / "mine"))
        assert (tmp_path / "mine" / "model.safetensors").read_bytes() == data, "it works for a"
        for ref in (f"sha256:{file.sha256}", named["manifest"]):
            with pytest.raises(errors.NotFound):
                b.get(ref)
        a.get("s3://has/other", credentials=anonymous, hf_cache=False)
        wait_until(lambda: is_given(b, f"sha256:{file.sha256}"), "the bucket has it", 30.0)
        assert from_peers(b) == file.size
