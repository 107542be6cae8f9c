"""Pointers to what a login opens: buckets, containers, gated files, signed addresses."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import pytest

from p2pcache import errors
from p2pcache.cli.main import main
from p2pcache.formats.bptr.pointers import (
    MODEL_PATH,
)
from tests.support import minio as minio_server
from tests.support.agents import Agent, running_agent
from tests.support.azurite import ACCOUNT, KEY, azurite
from tests.support.bptr_files import DATA, SHA256, pointer, pull, unique, written
from tests.support.cloud_logins import google_logins
from tests.support.fake_gcs import fake_gcs
from tests.support.faulty_http import FaultyServer, ranged, status
from tests.support.hub_stub import GOOD_TOKEN, hub_stub
from tests.support.minio import Minio, minio
from tests.support.s3_proxy import Reply, s3_proxy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.hub_repo import HubRepo


def test_a_bucket_of_google_is_written_and_brought_with_the_login_that_its_pointers_name(
    tmp_path: Path, here: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        fake_gcs(tmp_path / "gcs") as gcs,
        s3_proxy(gcs) as proxy,
        google_logins() as google,
    ):
        gcs.bucket("models", {"demo/config.json": b"{}"})
        gcs.put("models", "demo/w@1/m.bin", DATA, {"p2pcache-sha256": SHA256})
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.url)
        file = tmp_path / "bptr.json"
        argv = ["bptr", "create", "gs://models/demo/", "--out", str(file), "--secret", "my_gcs"]
        assert main(argv) == 0
        pointers = {p["file_name"]: p for p in json.loads(file.read_text())["pointers"]}
        big = pointers[f"{MODEL_PATH}/demo/w@1/m.bin"]
        assert big["resolution"] == {
            "resolution_type": "gcs", "path": "demo/w@1/m.bin", "bucket_name": "models",
        }  # fmt: skip
        assert (big["hashtype"], big["hash"]) == ("sha256", SHA256)
        proxy.fault = lambda ask: None if google.accepts(ask.headers) else Reply(401)
        with pytest.raises(errors.Denied):
            pull(here, file, tmp_path / "to")
        monkeypatch.setenv("TRUSS_SECRET_my_gcs", google.account)
        pull(here, file, tmp_path / "to")
    assert (tmp_path / "to" / "demo" / "w@1" / "m.bin").read_bytes() == DATA
    assert (tmp_path / "to" / "demo" / "config.json").read_bytes() == b"{}"


def test_a_container_of_azure_is_written_and_brought_with_the_login_that_its_pointers_name(
    tmp_path: Path, here: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = DATA[:-1] + b"!"
    sha256 = hashlib.sha256(data).hexdigest()
    with azurite(tmp_path / "azure") as azure:
        azure.container("models", {"demo/config.json": b"[]"})
        azure.put("models", "demo/w@1/m.bin", data, {"p2pcache_sha256": sha256})
        endpoint = f"BlobEndpoint={azure.url}/{ACCOUNT}"
        connection = f"AccountName={ACCOUNT};AccountKey={KEY};{endpoint}"
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", connection)
        file, ref = tmp_path / "bptr.json", f"az://{ACCOUNT}/models/demo/"
        argv = ["bptr", "create", ref, "--out", str(file), "--secret", "my_azure"]
        assert main(argv) == 0
        pointers = {p["file_name"]: p for p in json.loads(file.read_text())["pointers"]}
        big = pointers[f"{MODEL_PATH}/demo/w@1/m.bin"]
        assert big["resolution"] == {
            "resolution_type": "azure", "account_name": ACCOUNT, "container_name": "models",
            "blob_name": "demo/w@1/m.bin",
        }  # fmt: skip
        assert (big["hashtype"], big["hash"]) == ("sha256", sha256)
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", f"AccountName={ACCOUNT};{endpoint}")
        with pytest.raises(errors.Denied):
            pull(here, file, tmp_path / "to")
        monkeypatch.setenv("TRUSS_SECRET_my_azure", "5ecre7 no JSON")
        with pytest.raises(errors.UsageError, match="none for Azure") as raised:
            pull(here, file, tmp_path / "to")
        assert "5ecre7" not in str(raised.value)
        monkeypatch.setenv("TRUSS_SECRET_my_azure", json.dumps({"account_key": KEY}))
        pull(here, file, tmp_path / "to")
    assert (tmp_path / "to" / "demo" / "w@1" / "m.bin").read_bytes() == data
    assert KEY not in here.log.read_text()


def test_a_gated_file_comes_with_the_login_that_its_pointer_names(
    tmp_path: Path, here: Agent, repo: HubRepo, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hub_stub(repo) as gated:
        gated.gated.add("demo/model")
        big = repo.files["weights/model-00002-of-00002.safetensors"]
        url = f"{gated.url}/demo/model/resolve/{repo.commit}/{big.path}"
        file = written(
            tmp_path,
            pointer(url, hashtype="etag", hash=big.sha256, size=big.size,
                    runtime_secret_name="my_login"),
        )  # fmt: skip
        with running_agent(tmp_path / "new") as fresh:
            with pytest.raises(errors.Denied):
                pull(fresh, file, tmp_path / "to", credentials={"hf_endpoint": gated.url})
            monkeypatch.setenv("TRUSS_SECRET_my_login", GOOD_TOKEN)
            pull(fresh, file, tmp_path / "to", credentials={"hf_endpoint": gated.url})
            assert (tmp_path / "to" / "model.bin").stat().st_size == big.size
            said = fresh.log.read_text() + json.dumps(fresh.why())
        stored = b"".join(p.read_bytes() for p in fresh.home.rglob("index.sqlite*"))
    assert GOOD_TOKEN not in said
    assert GOOD_TOKEN.encode() not in stored
    assert not any(a.authorization for a in gated.asked if a.origin == "cdn")


@pytest.mark.parametrize("hashtype", ["sha256", "md5"])
def test_the_signature_of_a_url_is_kept_nowhere(
    tmp_path: Path, server: FaultyServer, hashtype: str
) -> None:
    data, sha256 = unique("signature")
    url = server.on("/m.bin", ranged(data, ETag='"v1"')) + "?signature=5ecre7"
    gone = server.on("/gone.bin", status(403)) + "?signature=5ecre7"
    file = written(tmp_path, pointer(url, hashtype=hashtype, hash=sha256, size=len(data)))
    (tmp_path / "bad").mkdir()
    (tmp_path / "wrong").mkdir()
    bad = written(tmp_path / "bad", pointer(gone, hashtype="md5", hash="0" * 32))
    wrong = written(tmp_path / "wrong", pointer(gone, hashtype="md5", hash="0" * 32))
    wrong.write_text(wrong.read_text().replace("http://", "http://["))
    with running_agent(tmp_path / "new") as fresh, fresh.client() as client:
        done = pull(fresh, file, tmp_path / "to")
        said = json.dumps([done, client.why(), client.ls()])
        with pytest.raises(errors.Denied) as denied:
            pull(fresh, bad, tmp_path / "to")
        said += str(denied.value) + json.dumps(client.why()) + fresh.log.read_text()
        with pytest.raises(errors.Untrusted) as untrusted:
            pull(fresh, wrong, tmp_path / "to")
        said += str(untrusted.value)
        again = pull(fresh, file, tmp_path / "to2", offline=hashtype == "sha256")
        assert again["fetched_bytes"] == 0, "nothing changed since"
    kept = b"".join(path.read_bytes() for path in fresh.home.rglob("index*"))
    assert kept
    assert "5ecre7" not in said
    assert b"5ecre7" not in kept


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Minio]:
    with minio(tmp_path_factory.mktemp("minio")) as running:
        s3 = running.bucket("models", {"demo/config.json": b"{}"})
        s3.put_object(Bucket="models", Key="demo/w@1/m.bin", Body=DATA, ChecksumAlgorithm="SHA256")
        yield running


def test_a_bucket_is_written_and_its_pointers_brought_with_the_login_that_they_name(
    tmp_path: Path, here: Agent, bucket: Minio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", bucket.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", minio_server.USER)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", minio_server.PASSWORD)
    file = tmp_path / "bptr.json"
    argv = ["bptr", "create", "s3://models/demo/", "--out", str(file), "--secret", "my_bucket"]
    assert main(argv) == 0
    pointers = {p["file_name"]: p for p in json.loads(file.read_text())["pointers"]}
    big = pointers[f"{MODEL_PATH}/demo/w@1/m.bin"]
    assert big["resolution"] == {
        "resolution_type": "s3", "bucket_name": "models", "key": "demo/w@1/m.bin", "region": None,
    }  # fmt: skip
    assert (big["hashtype"], big["hash"]) == ("sha256", SHA256)
    # With a login that opens nothing, but for the one that the pointers name.
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    with pytest.raises(errors.Denied):
        pull(here, file, tmp_path / "to")
    login = {"access_key_id": minio_server.USER, "secret_access_key": minio_server.PASSWORD,
             "region": minio_server.REGION}  # fmt: skip
    monkeypatch.setenv("TRUSS_SECRET_my_bucket", json.dumps(login))
    pull(here, file, tmp_path / "to")
    assert (tmp_path / "to" / "demo" / "w@1" / "m.bin").read_bytes() == DATA
    assert (tmp_path / "to" / "demo" / "config.json").read_bytes() == b"{}"
    monkeypatch.setenv("TRUSS_SECRET_my_bucket", "5ecre7 no JSON")
    missing = written(tmp_path, {**big, "hash": "0" * 64, "runtime_secret_name": "my_bucket"})
    with pytest.raises(errors.UsageError, match="none for S3") as raised:
        pull(here, missing, tmp_path / "to")
    assert "5ecre7" not in str(raised.value)
    kept = b"".join(path.read_bytes() for path in here.home.rglob("index*"))
    assert minio_server.PASSWORD.encode() not in kept
    assert minio_server.PASSWORD not in here.log.read_text()
