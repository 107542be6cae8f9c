"""Baseten's pointer files with real agents, and with truss-transfer 0.0.44 itself."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from p2pcache import errors, truss
from p2pcache.cli.main import main
from p2pcache.formats.bptr.pointers import (
    MODEL_PATH,
    NEVER,
    S3,
    Azure,
    Gcs,
    Pointer,
    PointerFile,
)
from p2pcache.formats.bptr.write import as_text
from tests.support import minio as minio_server
from tests.support.agents import Agent, running_agent
from tests.support.azurite import ACCOUNT, KEY, azurite
from tests.support.cloud_logins import google_logins
from tests.support.fake_gcs import fake_gcs
from tests.support.faulty_http import FaultyServer, ranged, status
from tests.support.hub_repo import HubRepo, build_repo
from tests.support.hub_stub import GOOD_TOKEN, HubStub, hub_stub
from tests.support.minio import Minio, minio
from tests.support.network import network
from tests.support.s3_proxy import Reply, s3_proxy
from tests.support.tmpfs import tmpfs
from tests.support.truss_transfer import truss_call, truss_resolve

if TYPE_CHECKING:
    from collections.abc import Iterator

DATA = bytes(range(256)) * 8192  # two blocks
SHA256 = hashlib.sha256(DATA).hexdigest()
GIT = hashlib.sha1(b"blob %d\0" % len(DATA) + DATA).hexdigest()


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> HubRepo:
    return build_repo(tmp_path_factory.mktemp("repo"))


@pytest.fixture(scope="module")
def hub(repo: HubRepo) -> Iterator[HubStub]:
    with hub_stub(repo) as stub:
        yield stub


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    with running_agent(tmp_path_factory.mktemp("agent")) as running:
        yield running


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer() as running:
        yield running


@pytest.fixture
def here(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> Agent:
    """The agent is that of this process' commands and of `p2pcache.truss`."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("P2PCACHE_HOME", str(agent.home))
    monkeypatch.setenv("HF_HOME", agent.env["HF_HOME"])
    return agent


def pointer(url: str, **fields: Any) -> dict[str, Any]:
    resolution = {"resolution_type": "http", "url": url, "expiration_timestamp": NEVER}
    return {
        "resolution": resolution, "uid": "u", "file_name": "model.bin", "hashtype": "sha256",
        "hash": SHA256, "size": len(DATA), "runtime_secret_name": "hf_access_token", **fields,
    }  # fmt: skip


def written(folder: Path, *pointers: dict[str, Any], **more: Any) -> Path:
    path = folder / "bptr-manifest.json"
    path.write_text(json.dumps({"pointers": list(pointers), **more}))
    return path


def pull(agent: Agent, file: Path, to: Path, **options: Any) -> dict[str, Any]:
    folders = {"": str(to), MODEL_PATH: str(to)}
    with agent.client() as client:
        return dict(client.bptr_pull([file], folders=folders, model_path=MODEL_PATH, **options))


def matches(folder: Path, repo: HubRepo) -> None:
    for path, file in repo.files.items():
        assert hashlib.sha256((folder / path).read_bytes()).hexdigest() == file.sha256, path


def unique(tag: str) -> tuple[bytes, str]:
    """Content that no other test left in the agent's store."""
    data = tag.encode() + DATA
    return data, hashlib.sha256(data).hexdigest()


# -- with truss-transfer itself -------------------------------------------------------------------


def test_truss_transfer_brings_what_we_wrote_and_we_bring_it_too(
    tmp_path: Path, here: Agent, hub: HubStub, repo: HubRepo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    theirs, ours, file = tmp_path / "theirs", tmp_path / "ours", tmp_path / "bptr.json"
    path = str(theirs)  # its absolute names are where it writes
    argv = ["bptr", "create", "hf://demo/model", "--out", str(file), "--model-path", path]
    assert main(argv) == 0
    pointers = json.loads(file.read_text())["pointers"]
    assert {Path(p["file_name"]).relative_to(theirs / "model").as_posix() for p in pointers} == {
        *repo.files
    }
    done = truss_resolve(file.read_text(), theirs, tmp_path, {})
    assert done.returncode == 0, done.log
    matches(theirs / "model", repo)
    assert main(["bptr", "pull", str(file), "--to", str(ours), "--model-path", path]) == 0
    matches(ours / "model", repo)


def test_truss_transfer_reads_every_kind_that_we_write(tmp_path: Path) -> None:
    kinds = (S3("b", "k/x"), Gcs("b", "k/y"), Azure("a", "c", "k/z"))
    pointers = [
        Pointer(kind, "u", f"{tmp_path}/to/{n}", "sha256", SHA256, 3, secret="none")
        for n, kind in enumerate(kinds)
    ]
    done = truss_resolve(as_text(PointerFile(tuple(pointers))), tmp_path / "to", tmp_path, {})
    assert "Total pointers: 3" in done.log, done.log
    assert done.returncode != 0, "it has no login for them"


def test_our_functions_have_its_signatures_and_its_form(here: Agent) -> None:
    fields = ("repo_id", "revision", "volume_folder", "kind", "allow_patterns", "ignore_patterns",
              "runtime_secret_name")  # fmt: skip
    get = f"[getattr(truss_transfer.PyModelRepo('a/b'), f) for f in {fields}]"
    assert truss_call(get) == [getattr(truss.PyModelRepo("a/b"), field) for field in fields]
    empty = truss_call("truss_transfer.create_basetenpointer_from_models([])")
    assert truss.create_basetenpointer_from_models([]) == empty


# -- the failures that were seen of it ------------------------------------------------------------


def test_corrupted_bytes_of_the_right_size_are_refused_and_not_shown(
    tmp_path: Path, agent: Agent, server: FaultyServer
) -> None:
    data, sha256 = unique("corrupted")
    url = server.on("/m.bin", ranged(data[:-1] + b"x"))
    file = written(tmp_path, pointer(url, hash=sha256, size=len(data)))
    with pytest.raises(errors.Untrusted):
        pull(agent, file, tmp_path / "to")
    assert not (tmp_path / "to" / "model.bin").exists()


def test_a_pull_that_failed_in_the_middle_leaves_no_file_and_goes_on_from_there(
    tmp_path: Path, agent: Agent, server: FaultyServer
) -> None:
    data, sha256 = unique("in the middle")
    healthy, first_sent = ranged(data), threading.Event()

    def later_blocks_fail(exchange: Any) -> bool:
        asked = exchange.range
        if asked is not None and asked[0] >= 1 << 20:
            first_sent.wait(5)
            exchange.wait(1)  # for whoever asked for the first block to verify it
            exchange.head(404, Content_Length=0)
            return True
        healthy(exchange)
        if asked is not None and asked[1] == 1 << 20:
            first_sent.set()
        return True

    url = server.on("/m.bin", later_blocks_fail)
    file = written(tmp_path, pointer(url, hash=sha256, size=len(data)))
    with pytest.raises(errors.P2PCacheError):
        pull(agent, file, tmp_path / "to")
    assert not (tmp_path / "to" / "model.bin").exists()
    server.on("/m.bin", healthy)
    done = pull(agent, file, tmp_path / "to")
    assert done["fetched_bytes"] == len(data) - (1 << 20), "the first block was kept"
    assert (tmp_path / "to" / "model.bin").read_bytes() == data


def test_a_damaged_file_of_the_right_size_is_replaced(
    tmp_path: Path, agent: Agent, server: FaultyServer
) -> None:
    file = written(tmp_path, pointer(server.on("/m.bin", ranged(DATA))))
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "model.bin").write_bytes(bytes(len(DATA)))
    done = pull(agent, file, tmp_path / "to")
    assert (tmp_path / "to" / "model.bin").read_bytes() == DATA
    assert any("replaced" in note for note in done["notes"])


@pytest.mark.parametrize("name", ["../../../x", "/etc/x", f"{MODEL_PATH}/../x", "a/../../x", ""])
def test_no_name_leaves_the_folder_and_no_byte_is_asked_for(
    tmp_path: Path, agent: Agent, server: FaultyServer, name: str
) -> None:
    file = written(tmp_path, pointer(server.on("/m.bin", ranged(DATA)), file_name=name))
    with pytest.raises(errors.Untrusted):
        pull(agent, file, tmp_path / "to")
    assert server.seen == []


def test_what_is_cached_on_the_same_disk_is_both_in_the_folder_and_in_the_store(
    tmp_path: Path, agent: Agent, server: FaultyServer
) -> None:
    data, sha256 = unique("same disk")
    url = server.on("/m.bin", ranged(data))
    file = written(tmp_path, pointer(url, hash=sha256, size=len(data)))
    pull(agent, file, tmp_path / "to")
    asked = len(server.seen)
    # Whatever room is left on the disk: there is no headroom below which nothing is kept.
    again = pull(agent, file, tmp_path / "to2")
    assert (again["fetched_bytes"], len(server.seen)) == (0, asked)
    for folder in ("to", "to2"):
        assert (tmp_path / folder / "model.bin").read_bytes() == data


def test_across_disks_the_file_is_whole_and_the_store_still_has_it(
    tmp_path: Path, agent: Agent, server: FaultyServer
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can mount another disk")
    data, sha256 = unique("across disks")
    url = server.on("/m.bin", ranged(data))
    file = written(tmp_path, pointer(url, hash=sha256, size=len(data)))
    with tmpfs(tmp_path / "disk", 16 << 20) as other:
        assert pull(agent, file, other.path / "to")["made"] == {"copy": 1}
        assert (other.path / "to" / "model.bin").read_bytes() == data
        (other.path / "to" / "model.bin").unlink()
        assert pull(agent, file, other.path / "to")["fetched_bytes"] == 0
        assert (other.path / "to" / "model.bin").read_bytes() == data


def test_pointers_are_brought_through_the_proxy_of_the_environment(tmp_path: Path) -> None:
    data, sha256 = unique("proxy")
    file = written(tmp_path, pointer("http://origin.invalid/m.bin", hash=sha256, size=len(data)))
    with FaultyServer() as proxy:
        proxy.on("/m.bin", ranged(data))
        with running_agent(tmp_path / "new", http_proxy=f"http://127.0.0.1:{proxy.port}") as fresh:
            pull(fresh, file, tmp_path / "to")
        assert {headers["host"] for _, headers in proxy.seen} == {"origin.invalid"}
    assert (tmp_path / "to" / "model.bin").read_bytes() == data


# -- pointers -------------------------------------------------------------------------------------


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


# -- p2pcache.truss -------------------------------------------------------------------------------


def test_models_are_resolved_when_they_are_pulled_with_the_patterns_of_truss(
    tmp_path: Path, here: Agent, hub: HubStub, repo: HubRepo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    model = truss.PyModelRepo(
        "demo/model", "main", "vol", allow_patterns=["*.safetensors", "config.jso?"]
    )
    folder = str(tmp_path / "models")
    got = truss.lazy_data_resolve(str(tmp_path / "to"), [model], folder)
    assert got == str(tmp_path / "to")
    shown = {p.relative_to(folder).as_posix() for p in Path(folder).rglob("*") if p.is_file()}
    assert shown == {f"vol/{path}" for path in repo.files if path.endswith(".safetensors")}
    text = truss.create_basetenpointer_from_models([model], folder)
    assert {p["uid"] for p in json.loads(text)["pointers"]} == {
        f"demo/model:main:{path}" for path in repo.files if path.endswith(".safetensors")
    }
    model.allow_patterns = ["*.gguf"]
    with pytest.raises(errors.NotFound):
        truss.create_basetenpointer_from_models([model], folder)
    with pytest.raises(errors.NotFound):
        truss.lazy_data_resolve(str(tmp_path / "to"), [model], folder)


def test_no_pointer_file_is_an_error_unless_nothing_is_wanted(tmp_path: Path) -> None:
    assert not any(os.path.exists(path) for path in truss.MANIFEST_PATHS)
    with pytest.raises(errors.NotFound, match="no pointer file"):
        truss.lazy_data_resolve(str(tmp_path))
    assert truss.lazy_data_resolve(str(tmp_path), [], "/x") == str(tmp_path)
    with pytest.raises(errors.UsageError, match="model_path"):
        truss.lazy_data_resolve(str(tmp_path), [])
    with pytest.raises(errors.UsageError, match="Unknown kind: xet"):
        truss.lazy_data_resolve(str(tmp_path), [truss.PyModelRepo("a/b", kind="xet")], "/x")


def test_pointer_files_of_several_places_are_one_and_the_first_counts(
    tmp_path: Path, here: Agent, server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.on("/m.bin", ranged(DATA))
    first = written(tmp_path, pointer(url))
    yaml = tmp_path / "bptr-manifest"
    yaml.write_text(
        f"pointers:\n- resolution: {{url: '{url}', expiration_timestamp: {NEVER}}}\n"
        f"  uid: x\n  file_name: model.bin\n  hashtype: md5\n  hash: 0123\n  size: 5\n"
        f"- resolution: {{url: '{url}', expiration_timestamp: {NEVER}}}\n"
        f"  uid: x\n  file_name: sub/other.bin\n  hashtype: sha256\n  hash: {SHA256}\n"
        f"  size: {len(DATA)}\n"
    )
    monkeypatch.setenv("TRUSS_TRANSFER_DOWNLOAD_DIR", str(tmp_path / "to"))
    assert truss.lazy_data_resolve(manifests=[first, yaml]) == str(tmp_path / "to")
    assert (tmp_path / "to" / "model.bin").read_bytes() == DATA
    assert (tmp_path / "to" / "sub" / "other.bin").read_bytes() == DATA
