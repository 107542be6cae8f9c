"""What is pushed to the real registry, read back by unmodified crane and oras, and by us."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from p2pcache import errors
from p2pcache.destinations.registry.upload import PART_BYTES
from tests.support.agents import REPO, Agent, assert_nowhere, made_agent, running_agent
from tests.support.certs import make_server_cert
from tests.support.partial_files import some_bytes
from tests.support.registry import PASSWORD, Registry, docker_config, registry
from tests.support.token_server import token_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

LARGE = 9 << 20  # more than goes in one request
FILES = {
    "config.json": b"{}", "sub/empty": b"", "sub/same": b"{}",
    "model.gguf": some_bytes(LARGE + 7, b"model"),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("made") / "model"
    for path, body in FILES.items():
        (made / path).parent.mkdir(parents=True, exist_ok=True)
        (made / path).write_bytes(body)
    return made


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registry(tmp_path_factory.mktemp("registry")) as made:
        yield made


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    with running_agent(tmp_path_factory.mktemp("agent")) as made:
        yield made


@pytest.fixture(autouse=True)
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "OLLAMA_MODELS"):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "caller"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    return home


def push(agent: Agent, what: object, to: str, **options: Any) -> dict[str, Any]:
    with agent.client() as client:
        return dict(client.push(str(what), to=to, **options))


def shown(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_folder_is_an_artifact_that_oras_and_we_read_back(
    tmp_path: Path, folder: Path, there: Registry, agent: Agent
) -> None:
    to = f"oci://{there.host}/acme/pushed:v1"
    would = push(agent, folder, to, dry_run=True)["to"]
    before = len(there.requests())
    done = push(agent, folder, to)
    assert done["to"]["sent_bytes"] == would["missing_bytes"]
    assert done["to"]["sent_objects"] == would["missing_objects"] == 4
    assert not [one for one in there.requests()[before:] if one[2] >= 500]
    there.run("oras", "pull", "--plain-http", to.removeprefix("oci://"), "-o", tmp_path / "o")
    assert shown(tmp_path / "o") == FILES
    back = agent.get(to, to=str(tmp_path / "back"))
    assert shown(tmp_path / "back") == FILES
    assert back["manifest"] == done["manifest"]
    assert back["fetched_bytes"] == 0
    again = push(agent, folder, to)["to"]
    assert (again["sent_bytes"], again["missing_objects"]) == (0, 0)
    said = json.loads(there.run("crane", "manifest", "--insecure", to.removeprefix("oci://")))
    assert said["artifactType"]


def image_of(there: Registry, tmp_path: Path, name: str) -> str:
    """An image of two layers that crane pushed; its digest."""
    for number in (1, 2):
        with tarfile.open(tmp_path / f"layer{number}.tar", "w") as tar:
            (tmp_path / "file").write_bytes(some_bytes(300_000 * number, b"%d" % number))
            tar.add(tmp_path / "file", f"file{number}")
    layers = ["-f", tmp_path / "layer1.tar", "-f", tmp_path / "layer2.tar"]
    there.run("crane", "append", "--insecure", *layers, "-t", f"{there.host}/{name}")
    return there.run("crane", "digest", "--insecure", f"{there.host}/{name}")


def test_what_came_from_a_registry_goes_to_another_with_the_same_digest(
    tmp_path: Path, folder: Path, there: Registry, agent: Agent
) -> None:
    digest = image_of(there, tmp_path, "acme/image:v1")
    made = there.push_files("acme/files:v1", folder)
    with registry(tmp_path / "r") as other:
        push(agent, f"oci://{there.host}/acme/image:v1", f"oci://{other.host}/moved/image:v1")
        assert other.run("crane", "digest", "--insecure", f"{other.host}/moved/image:v1") == digest
        other.run("crane", "validate", "--insecure", "--remote", f"{other.host}/moved/image:v1")
        agent.get(f"oci://{there.host}/acme/files:v1", to=str(tmp_path / "files"))
        push(agent, f"oci://{there.host}/acme/files:v1", f"oci://{other.host}/moved/files:v1")
        assert other.run("crane", "digest", "--insecure", f"{other.host}/moved/files:v1") == made
        # a folder that another tool left, by the digest that it has
        there.run("crane", "pull", "--insecure", "--format=oci",
                  f"{there.host}/acme/image:v1", tmp_path / "layout")  # fmt: skip
        push(agent, tmp_path / "layout", f"oci://{other.host}/layout/image@{digest}")
        name = f"{other.host}/layout/image@{digest}"
        assert other.run("crane", "digest", "--insecure", name) == digest
        with pytest.raises(errors.UsageError, match="has the digest"):
            push(agent, folder, f"oci://{other.host}/layout/image@{digest}")


def test_a_blob_of_another_repository_is_mounted_and_not_sent(
    folder: Path, there: Registry, agent: Agent
) -> None:
    ref = f"oci://{there.host}/mount/from:v1"
    there.push_files("mount/from:v1", folder)
    agent.get(ref)
    to = f"oci://{there.host}/mount/to:v1"
    would = push(agent, folder, to, dry_run=True)["to"]
    before = len(there.requests())
    done = push(agent, folder, to)["to"]
    assert (would["missing_objects"], done["sent_objects"]) == (1, 1), "the manifest alone"
    assert done["sent_bytes"] == would["missing_bytes"] < 2000
    asked = there.requests()[before:]
    assert [s for m, uri, s in asked if m == "POST" and "mount=" in uri] == [201] * 3
    assert not [uri for m, uri, _ in asked if m == "PATCH"]


def test_a_push_that_was_killed_goes_on_where_it_was(
    tmp_path: Path, there: Registry, nobody: Path
) -> None:
    size = PART_BYTES * 3 // 2
    (tmp_path / "large").write_bytes(some_bytes(size, b"large"))
    to = f"oci://{there.host}/killed/large:v1"
    agent = made_agent(tmp_path)
    agent.start()
    try:
        with ThreadPoolExecutor(1) as pool:
            pushed = pool.submit(push, agent, tmp_path / "large", to, limit_rate=30 << 20)
            wait_until(lambda: uploaded(there) > PART_BYTES + (4 << 20))
            agent.kill()
            assert pushed.exception(60) is not None
        assert not there.data.joinpath("docker/registry/v2/repositories/killed/_manifests").exists()
        agent.start()
        done = push(agent, tmp_path / "large", to)["to"]
        assert done["sent_bytes"] < size - PART_BYTES - (4 << 20) + 5000, "not what was there"
        assert agent.get(to, to=str(tmp_path / "back"))["fetched_bytes"] == 0
    finally:
        agent.end()
    there.run("oras", "pull", "--plain-http", to.removeprefix("oci://"), "-o", tmp_path / "o")
    assert (tmp_path / "o" / "large").read_bytes() == (tmp_path / "large").read_bytes()


def uploaded(there: Registry) -> int:
    """Bytes of uploads that have not ended."""
    return sum(path.stat().st_size for path in there.data.rglob("_uploads/*/data"))


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_program_pushes_with_the_login_of_docker_and_keeps_it_to_itself(
    tmp_path: Path, folder: Path
) -> None:
    cert = make_server_cert(tmp_path / "cert")
    with (
        token_server(cert) as tokens,
        registry(tmp_path / "r", auth=tokens.auth) as there,
        running_agent(tmp_path) as agent,
    ):

        def run(*args: object, password: str = PASSWORD) -> subprocess.CompletedProcess[str]:
            config = docker_config(tmp_path / "d", there.host, password=password)
            return subprocess.run(
                [sys.executable, "-m", "p2pcache", "push", *map(str, args)],
                cwd=REPO, env=agent.env | {"DOCKER_CONFIG": str(config)}, check=False,
                capture_output=True, text=True, timeout=60,
            )  # fmt: skip

        to = f"oci://{there.host}/acme/model:v1"
        wrong = run(folder, to, password="not-this-one")
        assert wrong.returncode == 14
        assert f"docker login {there.host}" in wrong.stderr
        dry = run(folder, to, "--dry-run")
        assert (dry.returncode, "4 objects, 9.0 MiB would be sent" in dry.stderr) == (0, True), dry
        began = time.monotonic()
        done = run(folder, "--to", to, "--json", "--limit-rate", "6 MiB")
        assert time.monotonic() - began > 1.2, "9 MiB at 6 MiB/s"
        told = json.loads(done.stdout)["to"]
        assert (told["destination"], told["ref"]) == ("oci", to)
        docker_config(there.home, there.host)
        where = to.removeprefix("oci://")
        there.run("oras", "pull", "--plain-http", where, "-o", tmp_path / "o")
        assert shown(tmp_path / "o") == FILES
        # what a login gave goes nowhere without a word
        again = run(to, f"oci://{there.host}/acme/again:v1")
        assert again.returncode == 14
        assert "--allow-gated" in again.stderr
        assert run(to, f"oci://{there.host}/acme/again:v1", "--allow-gated").returncode == 0
        digests = {there.run("oras", "resolve", "--plain-http", f"{there.host}/acme/{name}:v1")
                   for name in ("model", "again")}  # fmt: skip
        assert len(digests) == 1
        assert run(folder, f"{to}?platform=linux/arm64").returncode == 2
        agent.stop()
        said = "".join(one.stdout + one.stderr for one in (wrong, dry, done, again))
        for secret in (PASSWORD, *tokens.tokens):
            assert secret not in said
        assert_nowhere(agent, [PASSWORD, "not-this-one", *tokens.tokens])
