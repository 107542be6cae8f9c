"""Agents with one private bucket: the bytes come from each other, for who may read them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from p2pcache import errors
from tests.support.blobs import MIB
from tests.support.minio import Minio, minio
from tests.support.network import network
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
