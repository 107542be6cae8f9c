"""A model of 300 MB goes to each kind of store and comes back to an agent that never saw it.

Both are killed in the middle, go on with what is missing, and show nothing half.
"""

from __future__ import annotations

import contextlib
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from p2pcache import errors
from tests.support.agents import Agent, running_agent
from tests.support.blobs import MIB, sha256_file
from tests.support.clouds import OFFLINE, running_cloud
from tests.support.faulty_http import FaultyServer, ranged
from tests.support.minio import minio
from tests.support.ollama import ollama, small_gguf
from tests.support.registry import PASSWORD, USER, Registry, registry
from tests.support.s3_proxy import Ask, Reply, S3Proxy, s3_proxy
from tests.support.swift import swift
from tests.support.watched_pull import QUICK, at_most

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from p2pcache import Client
    from p2pcache.agent.localapi.client import OnProgress
    from tests.support.ollama import Ollama
    from tests.support.s3_server import S3Server

pytestmark = pytest.mark.slow

TOTAL = 300 * MIB
KILLED_AT = 180 * MIB
KEPT = 64 * MIB  # of these at least: parts on their way are lost, and what no disk has for certain
RATE = 80 * MIB  # bytes per second, of what is killed: else it may be over before
END_S = 120
NAME = "library/model:v1"  # at a registry


@dataclass(frozen=True)
class Place:
    """A store that runs. `to`: what push and get take; `seen`: files that others see there, and
    their sizes; `options`: of `get`; `theirs`: an Ollama whose store `get` writes to.
    """

    to: str
    seen: Callable[[], Mapping[str, int]]
    login: dict[str, str]
    theirs: Ollama | None = None
    proxy: S3Proxy | None = None  # where a push is killed between two parts
    pulled_by_them: Callable[[], None] = lambda: None

    @property
    def options(self) -> dict[str, Any]:
        said: dict[str, Any] = {"credentials": self.login}
        return said | ({} if self.theirs is None else {"to_ollama": str(self.theirs.models)})

    def names(self) -> list[str]:
        return [] if self.theirs is None else self.theirs.names()


@contextlib.contextmanager
def s3(server: S3Server) -> Iterator[Place]:
    client = server.bucket("models")

    def seen() -> dict[str, int]:
        rows = client.list_objects_v2(Bucket="models", Prefix="m/").get("Contents", ())
        return {row["Key"].removeprefix("m/"): row["Size"] for row in rows}

    yield Place("s3://models/m/", seen, server.aws)


@contextlib.contextmanager
def place(kind: str, folder: Path) -> Iterator[Place]:
    """A store of this kind, empty."""
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        if kind in ("minio", "swift"):
            server: S3Server = enter(minio(folder)) if kind == "minio" else enter(swift(folder))
            yield enter(s3(server))
        elif kind in ("gcs", "azure"):
            cloud = enter(running_cloud(kind, folder))
            cloud.fill("models", {})

            def seen() -> dict[str, int]:
                keys = [key for key in cloud.keys("models") if key.startswith("m/")]
                return {key.removeprefix("m/"): len(cloud.read("models", key)) for key in keys}

            proxy = enter(s3_proxy(cloud.server)) if kind == "gcs" else None
            url = cloud.server.url if proxy is None else proxy.url
            yield Place(cloud.ref("models/m/"), seen, cloud.asks(url), proxy=proxy)
        elif kind == "oci":
            there = enter(registry(folder, login=True))
            login = {
                "registry_host": there.host, "registry_user": USER, "registry_password": PASSWORD,
            }  # fmt: skip
            yield Place(f"oci://{there.host}/{NAME}", lambda: tags(there), login)
        else:
            yield enter(of_ollama(folder))


@contextlib.contextmanager
def of_ollama(folder: Path) -> Iterator[Place]:
    """Ollama 0.24 pulls a GGUF only from a registry that leads it to another host: here too."""
    with contextlib.ExitStack() as stack:
        cdn = stack.enter_context(FaultyServer())
        elsewhere = cdn.url("").replace("127.0.0.1", "localhost")
        there = stack.enter_context(registry(folder / "registry", redirect_to=elsewhere))
        theirs = stack.enter_context(ollama(folder / "ollama"))
        name = f"{there.host}/{NAME}"

        def pull() -> None:
            for blob in there.data.rglob("blobs/sha256/*/*/data"):
                cdn.on("/" + str(blob.relative_to(there.data)), ranged(blob.read_bytes()))
            theirs.run("pull", "--insecure", f"http://{name}")
            assert theirs.names() == [name]
            for blob in (theirs.models / "blobs").iterdir():
                assert blob.name == f"sha256-{sha256_file(blob)}"
            theirs.run("rm", name)

        yield Place(f"ollama://{name}", lambda: tags(there), {}, theirs=theirs, pulled_by_them=pull)


def tags(there: Registry) -> dict[str, int]:
    """A model that a tag names has all of its files: their sizes do not matter."""
    folder = there.data / "docker/registry/v2/repositories/library/model/_manifests/tags"
    return {path.name: 0 for path in folder.iterdir()} if folder.exists() else {}


@pytest.fixture(scope="module")
def random_bytes() -> bytes:
    """No two blocks are the same: each begins with its number."""
    rest = random.Random(300).randbytes(MIB - 8)
    return b"".join(number.to_bytes(8, "big") + rest for number in range(TOTAL // MIB))


def model(kind: str, data: bytes) -> dict[str, bytes]:
    """Files of 300 MB together. For Ollama they are those of which a model of its own is made."""
    if kind == "ollama":
        head = small_gguf(TOTAL)[:-TOTAL]
        return {"model.gguf": head + data, "template": b"{{ .Prompt }}", "system": b"be brief"}
    small = {"config.json": b'{"a": 300}', "sub/empty": b"", "sub/tokens.json": data[:70_000]}
    if kind == "gcs":
        return small | {"model-1.bin": data}
    return small | {"model-1.bin": data[: 200 * MIB], "model-2.bin": data[200 * MIB :]}


def kill_between_parts(agent: Agent, proxy: S3Proxy) -> None:
    """Fake-gcs-server appends all that comes; Google ignores bytes that it has already. So nothing
    may have arrived that the agent does not know of: one file, whose parts come one by one.
    """

    def fault(ask: Ask) -> Reply | None:
        if not ask.writes or proxy.taken_bytes < KILLED_AT or agent.ended:
            return None
        agent.kill()
        return Reply(cut_body=0)

    proxy.fault = fault


def kill_amid(agent: Agent, phase: str, call: Callable[[Client, OnProgress], object]) -> None:
    """Kill it when that much was sent or has come: a push takes the folder in before."""

    def watch(progress: Any) -> None:
        if (
            progress.get("phase") == phase
            and progress.get("done_bytes", 0) >= KILLED_AT
            and not agent.ended
        ):
            agent.kill()

    with at_most(END_S), agent.client() as client, pytest.raises(errors.P2PCacheError):
        call(client, watch)
    assert agent.ended, "it was over too early"


@pytest.mark.parametrize("kind", ["minio", "swift", "gcs", "azure", "oci", "ollama"])
def test_a_model_goes_there_and_comes_back_whatever_is_killed(
    kind: str, random_bytes: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offline = {**OFFLINE, "AWS_EC2_METADATA_DISABLED": "true"}
    given = tmp_path / "given"
    for path, body in model(kind, random_bytes).items():
        (given / path).parent.mkdir(parents=True, exist_ok=True)
        (given / path).write_bytes(body)
    sizes = {str(p.relative_to(given)): p.stat().st_size for p in given.rglob("*") if p.is_file()}
    with place(kind, tmp_path / "store") as there:
        for name in ("DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "OLLAMA_MODELS"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HOME", str(tmp_path))
        sent: dict[str, Any] = {"to": there.to, "to_credentials": there.login}
        with running_agent(tmp_path / "one", settings=QUICK, **offline) as one:
            if there.proxy is not None:
                kill_between_parts(one, there.proxy)
            kill_amid(
                one, "nothing" if there.proxy else "sending", lambda client, watch: client.push(
                    given, on_progress=watch, limit_rate=RATE, **sent
                ),
            )  # fmt: skip
            seen = there.seen()
            whole = {path: size for path, size in sizes.items() if path in seen}
            assert whole == {path: seen[path] for path in whole}, "nothing half"
            assert sum(whole.values()) < TOTAL
            assert "v1" not in seen, "no tag before all of it is there"
            if there.proxy is not None:
                there.proxy.fault = lambda ask: None
            one.start()
            with at_most(END_S), one.client() as client:
                done = client.push(given, **sent)["to"]
            assert done is not None
            assert 0 < done["sent_bytes"] <= TOTAL - KEPT, "what had arrived is not sent again"
        there.pulled_by_them()
        out = tmp_path / "out"
        with running_agent(tmp_path / "two", settings=QUICK, **offline) as two:
            kill_amid(
                two, "fetching", lambda client, watch: client.get(
                    there.to, to=str(out), on_progress=watch, limit_rate=RATE, **there.options
                ),
            )  # fmt: skip
            assert not list(out.rglob("model*")), "nothing half"
            assert there.names() == []
            two.start()
            with at_most(END_S):
                back = two.get(there.to, to=str(out), **there.options)
            assert 0 < back["fetched_bytes"] <= TOTAL - KEPT, "what had come is not fetched again"
            assert there.names() == ([] if there.theirs is None else [there.to[len("ollama://") :]])
        for path in sizes:
            came = f"{path}.txt" if path in ("template", "system") else path  # layers of text
            assert sha256_file(out / came) == sha256_file(given / path), path
