"""Pulls from the real registry, filled and read back by unmodified crane and oras."""

from __future__ import annotations

import hashlib
import json
import tarfile
import time
from collections import Counter
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from p2pcache import errors
from tests.support.agents import assert_nowhere, made_agent, running_agent
from tests.support.certs import make_server_cert
from tests.support.faulty_http import FaultyServer, ranged, redirect, status
from tests.support.network import network
from tests.support.partial_files import some_bytes
from tests.support.registry import PASSWORD, USER, Registry, docker_config, registry
from tests.support.scripted_registry import BASIC, Scripted
from tests.support.token_server import token_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.faulty_http import Answer, Exchange

pytestmark = pytest.mark.slow

LARGE = 5 << 20
FILES = {"config.json": b"{}", "sub/empty": b"", "model.gguf": some_bytes(LARGE + 7, b"gguf")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("model")
    for path, body in FILES.items():
        (made / path).parent.mkdir(exist_ok=True)
        (made / path).write_bytes(body)
    return made


@pytest.fixture
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user who is logged in nowhere; the tests are the caller, whose logins count."""
    for name in ("DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "OLLAMA_MODELS"):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "caller"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    return home


def shows(folder: Path) -> None:
    found = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
    assert found == FILES


def test_an_artifact_is_pulled_by_tag_and_digest_with_the_login_of_docker(
    tmp_path: Path, folder: Path, nobody: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with registry(tmp_path / "r", login=True) as there, running_agent(tmp_path) as agent:
        digest = there.push_files("acme/model:v1", folder)
        ref = f"oci://{there.host}/acme/model:v1"
        with pytest.raises(errors.Denied) as caught:
            agent.get(ref, to=str(tmp_path / "none"))
        assert f"docker login {there.host}" in (caught.value.hint or "")
        assert not (tmp_path / "none").exists()
        monkeypatch.setenv("DOCKER_CONFIG", str(docker_config(tmp_path / "d", there.host)))
        done = agent.get(ref, to=str(tmp_path / "out"))
        shows(tmp_path / "out")
        assert done["fetched_bytes"] == sum(map(len, FILES.values()))
        with agent.client() as client:
            meant = client.resolve(ref)
        assert meant["immutable"] == digest
        assert meant["gated"], "peers have to prove that they may read it"
        again = agent.get(f"oci://{there.host}/acme/model@{digest}", to=str(tmp_path / "by"))
        assert again["fetched_bytes"] == 0
        shows(tmp_path / "by")
        with pytest.raises(errors.NotFound):
            agent.get(f"oci://{there.host}/acme/model:v2")
        with pytest.raises(errors.NotFound):
            agent.get(f"oci://{there.host}/acme/other:v1")
        docker_config(tmp_path / "d", there.host, password="wrong")
        with pytest.raises(errors.Denied, match="does not accept the login"):
            agent.get(ref, refresh=True)
        monkeypatch.setenv("DOCKER_CONFIG", "/nonexistent")
        monkeypatch.setenv("REGISTRY_AUTH_FILE", str(there.home / ".docker/config.json"))
        assert agent.get(ref, refresh=True)["fetched_bytes"] == 0


def test_tokens_are_got_from_the_registrys_own_server_and_no_secret_is_kept(
    tmp_path: Path, folder: Path, nobody: Path
) -> None:
    cert = make_server_cert(tmp_path / "cert")
    with (
        token_server(cert) as tokens,
        registry(tmp_path / "r", auth=tokens.auth) as there,
        running_agent(tmp_path) as agent,
    ):
        docker_config(there.home, there.host)
        there.push_files("open/model:v1", folder)
        there.push_files("acme/model:v1", folder)
        tokens.given.clear()
        docker_config(nobody, there.host)
        open_ = agent.get(f"oci://{there.host}/open/model:v1", to=str(tmp_path / "open"))
        shows(tmp_path / "open")
        assert open_["fetched_bytes"]
        assert {who for who, _ in tokens.given} == {""}, "everybody may read it"
        agent.get(f"oci://{there.host}/acme/model:v1", to=str(tmp_path / "private"))
        shows(tmp_path / "private")
        assert tokens.given[-1] == (USER, "repository:acme/model:pull")
        asked = len(tokens.given)
        agent.get(f"oci://{there.host}/acme/model:v1", refresh=True)
        assert len(tokens.given) == asked, "the token is good for a while"
        identity = {"registry_host": there.host, "registry_identity": PASSWORD}
        agent.get(f"oci://{there.host}/acme/model:v1", refresh=True, credentials=identity)
        assert tokens.given[-1] == (USER, "repository:acme/model:pull")
        with pytest.raises(errors.Denied):
            agent.get(f"oci://{there.host}/acme/other:v1", credentials={})
        agent.why()
        agent.stop()
        secrets = [PASSWORD, *tokens.tokens]
        assert_nowhere(agent, secrets)


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Path:
    path = tmp_path_factory.mktemp("layer") / "layer.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(folder, "model")
    return path


def push_image(there: Registry, layer: Path) -> dict[str, str]:
    """`acme/image:v1` for two platforms; the digest of each image, and of the index as ""."""
    digests = {}
    for platform in ("linux/amd64", "linux/arm64"):
        name = f"{there.host}/acme/image:{platform.replace('/', '-')}"
        there.run("crane", "append", "--insecure", "-f", layer, "-t", name)
        there.run("crane", "mutate", "--insecure", name, "--set-platform", platform, "-t", name)
        digests[platform] = there.run("crane", "digest", "--insecure", name)
    index = f"{there.host}/acme/image:v1"
    names = [f"{there.host}/acme/image@{digest}" for digest in digests.values()]
    there.run("crane", "index", "append", "--insecure", "-m", names[0], "-m", names[1], "-t", index)
    digests[""] = there.run("crane", "digest", "--insecure", index)
    return digests


def blobs_of(layout: Path) -> list[Path]:
    return list((layout / "blobs" / "sha256").iterdir())


def test_an_image_becomes_a_layout_that_crane_and_oras_push_again(
    tmp_path: Path, layer: Path, nobody: Path
) -> None:
    with registry(tmp_path / "r") as there, running_agent(tmp_path) as agent:
        digests = push_image(there, layer)
        for platform in ("linux/amd64", "linux/arm64"):
            out = tmp_path / platform
            ref = f"oci://{there.host}/acme/image:v1"
            agent.get(ref, to=str(out), platform=platform)
            index = json.loads((out / "index.json").read_text())
            assert [one["digest"] for one in index["manifests"]] == [digests[platform]]
            for path in blobs_of(out):
                assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
            name = f"{there.host}/again/{platform.rpartition('/')[2]}"
            there.run("crane", "push", "--insecure", out, f"{name}:crane")
            there.run(
                "oras", "cp", "--from-oci-layout", f"{out}:v1", "--to-plain-http", f"{name}:oras"
            )
            for tag in ("crane", "oras"):
                pushed = there.run("crane", "digest", "--insecure", f"{name}:{tag}")
                assert pushed == digests[platform]
            there.run("crane", "validate", "--insecure", "--remote", f"{name}:crane")
        with agent.client() as client:
            (counted,) = client.origins()
            assert counted["host"] == there.host
            blobs = {
                p.name: p for n in ("amd64", "arm64") for p in blobs_of(tmp_path / "linux" / n)
            }
            total = sum(path.stat().st_size for path in blobs.values())
            assert counted["bytes"] == total, "what the listing holds itself is no traffic"
            assert client.resolve(ref, platform="linux/amd64")["immutable"] == digests[""]
            with pytest.raises(errors.NotFound, match="s390x") as caught:
                client.resolve(ref, platform="linux/s390x")
        assert "linux/amd64, linux/arm64" in (caught.value.hint or "")


def test_an_artifact_may_be_had_as_a_layout_too(tmp_path: Path, folder: Path, nobody: Path) -> None:
    with registry(tmp_path / "r") as there, running_agent(tmp_path) as agent:
        digest = there.push_files("acme/model:v1", folder)
        out = tmp_path / "out"
        agent.get(f"oci://{there.host}/acme/model:v1", to=str(out), layout="oci")
        there.run(
            "oras", "cp", "--from-oci-layout", f"{out}:v1",
            "--to-plain-http", f"{there.host}/copy/model:v1",
        )  # fmt: skip
        assert there.run("crane", "digest", "--insecure", f"{there.host}/copy/model:v1") == digest
        there.run("oras", "pull", "--plain-http", "-o", tmp_path / "oras", f"{there.host}/copy/model:v1")  # fmt: skip  # noqa: E501
        shows(tmp_path / "oras")


def test_a_private_authority_is_trusted_where_it_is_named(
    tmp_path: Path, folder: Path, nobody: Path
) -> None:
    cert = make_server_cert(tmp_path / "cert")
    settings = {"tls.ca_file": str(cert.ca_file), "oci.insecure": "none"}
    with (
        registry(tmp_path / "r", login=True, tls=cert) as there,
        running_agent(tmp_path / "knows", settings=settings) as knows,
        running_agent(tmp_path / "other", settings={"oci.insecure": "none"}) as other,
    ):
        there.push_files("acme/model:v1", folder, *there.client_tls(cert))
        docker_config(nobody, there.host)
        knows.get(f"oci://{there.host}/acme/model:v1", to=str(tmp_path / "out"))
        shows(tmp_path / "out")
        with pytest.raises(errors.Untrusted, match="certificate"):
            other.get(f"oci://{there.host}/acme/model:v1")


@pytest.fixture
def cdn(tmp_path: Path) -> Iterator[FaultyServer]:
    with FaultyServer() as server:
        yield server


def blob_path(there: Registry, body: bytes) -> str:
    """Where the registry keeps a blob, which is where its redirects lead."""
    name = hashlib.sha256(body).hexdigest()
    return f"/docker/registry/v2/blobs/sha256/{name[:2]}/{name}/data"


def test_blobs_behind_a_redirect_come_without_the_login(
    tmp_path: Path, folder: Path, nobody: Path, cdn: FaultyServer
) -> None:
    options: dict[str, Any] = {"login": True, "redirect_to": cdn.url("")}
    with registry(tmp_path / "r", **options) as there, running_agent(tmp_path) as agent:
        there.push_files("acme/model:v1", folder)
        for body in (*FILES.values(), b"{}"):
            cdn.on(blob_path(there, body), ranged(body))
        docker_config(nobody, there.host)
        agent.get(f"oci://{there.host}/acme/model:v1", to=str(tmp_path / "out"))
        shows(tmp_path / "out")
        assert len(cdn.headers_of(blob_path(there, FILES["model.gguf"]))) >= 1
        assert all("authorization" not in headers for _, headers in cdn.seen)


def test_addresses_and_tokens_that_end_are_renewed_in_the_middle_of_a_pull(
    tmp_path: Path, nobody: Path, cdn: FaultyServer
) -> None:
    body = some_bytes(24 << 20, b"large")
    there = Scripted(cdn, {"model.bin": body})
    docker_config(nobody, there.host)
    began, uses = time.monotonic(), Counter[str]()

    def token(ask: Exchange) -> bool:
        good = ask.headers.get("authorization") == BASIC
        said = {"token": f"t{time.monotonic() - began}", "expires_in": 1}
        return (status(200, json.dumps(said).encode()) if good else status(401))(ask)

    def lives(sent: str | None) -> bool:
        said = (sent or "").removeprefix("Bearer t")
        return bool(said) and time.monotonic() - began - float(said) < 1.0

    def presigned(ask: Exchange) -> bool:
        uses[ask.path] += 1
        return (status(403) if uses[ask.path] > 2 else ranged(body))(ask)

    def leads_there(ask: Exchange) -> bool:
        return redirect(f"{cdn.url('/cdn').replace('127.0.0.1', 'localhost')}?{ask.number}")(ask)

    cdn.on(there.blob(body), leads_there)
    there.lock(f'Bearer realm="{cdn.on("/token", token)}"', lives)
    cdn.on("/cdn", presigned)
    with running_agent(tmp_path) as agent:
        agent.get(there.ref, to=str(tmp_path / "out"), limit_rate=8 << 20)
        assert (tmp_path / "out" / "model.bin").read_bytes() == body
        assert max(uses.values()) > 2, "an address ended"
        assert sum(path.startswith("/token") for path, _ in cdn.seen) > 2, "tokens ended too"
        assert all("authorization" not in h for p, h in cdn.seen if p.startswith("/cdn"))


def test_a_token_that_ended_before_small_files_came_is_renewed(
    tmp_path: Path, nobody: Path, cdn: FaultyServer
) -> None:
    there, given = Scripted(cdn, dict(SMALL)), count(1)

    def token(_ask: Exchange) -> bool:
        said = {"token": f"t{next(given)}", "expires_in": 1}
        return status(200, json.dumps(said).encode())(_ask)

    there.lock(f'Bearer realm="{cdn.on("/token", token)}"', bool)
    for body in SMALL.values():
        cdn.on(there.blob(body), ended_once(ranged(body)))
    with running_agent(tmp_path) as agent:
        agent.get(there.ref, to=str(tmp_path / "out"))
        for path, body in SMALL.items():
            assert (tmp_path / "out" / path).read_bytes() == body


SMALL = {"a.txt": b"hello", "b.txt": b"again"}


def ended_once(good: Answer) -> Answer:
    """Refuses the first token, when it is over."""

    def answer(ask: Exchange) -> bool:
        if ask.headers.get("authorization") == "Bearer t1":
            ask.wait(1.2)
            return status(401)(ask)
        return good(ask)

    return answer


def test_an_agent_with_its_own_login_gets_what_is_private_from_another_agent(
    tmp_path: Path, folder: Path, nobody: Path
) -> None:
    with registry(tmp_path / "r", login=True) as there, network(tmp_path, 2) as (a, b):
        there.push_files("acme/model:v1", folder)
        ref = f"oci://{there.host}/acme/model:v1"
        login = {"registry_host": there.host, "registry_user": USER, "registry_password": PASSWORD}
        a.get(ref, credentials=login)
        with pytest.raises(errors.Denied):
            b.get(ref, credentials={})
        with pytest.raises(errors.Denied):
            b.get(ref, credentials={**login, "registry_password": "wrong"})
        done = b.get(ref, credentials=login, to=str(tmp_path / "out"))
        shows(tmp_path / "out")
        sources = {source["kind"]: source["bytes"] for source in b.why()["sources"]}
        assert sources["peer"] == done["fetched_bytes"], "its own login proved its access"
        assert not sources.get("origin")


def test_a_pull_that_was_killed_goes_on_where_it_was(tmp_path: Path, nobody: Path) -> None:
    body = some_bytes(32 << 20, b"large")
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "model.bin").write_bytes(body)
    with registry(tmp_path / "r", login=True) as there:
        there.push_files("acme/model:v1", tmp_path / "f")
        docker_config(nobody, there.host)
        ref = f"oci://{there.host}/acme/model:v1"
        agent = made_agent(tmp_path).start()
        seen: list[int] = []

        def kill(progress: Any) -> None:
            seen.append(progress["done_bytes"])
            if progress["done_bytes"] > 8 << 20:
                agent.kill()

        with agent.client() as client, pytest.raises(errors.P2PCacheError):
            client.get(ref, to=str(tmp_path / "out"), limit_rate=16 << 20, on_progress=kill)
        assert not (tmp_path / "out" / "model.bin").exists()
        agent.start()
        done = agent.get(ref, to=str(tmp_path / "out"))
        agent.end()
        assert (tmp_path / "out" / "model.bin").read_bytes() == body
        assert done["fetched_bytes"] <= len(body) - max(seen) + (8 << 20)
