"""Models for Ollama: made of GGUF files as its own `create` makes them, pushed and pulled by it."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from p2pcache import errors
from p2pcache.content.gguf import read_gguf
from p2pcache.content.ollama_model import OllamaModel, Part, make_model
from tests.support.agents import Agent, running_agent
from tests.support.faulty_http import FaultyServer, ranged
from tests.support.ollama import Ollama, gguf_of, ollama, small_gguf
from tests.support.registry import Registry, registry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ollama]:
    with ollama(tmp_path_factory.mktemp("ollama")) as made:
        yield made


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """Ollama 0.24 pulls a GGUF only from a registry that leads it to another host: here too."""
    with FaultyServer() as cdn:
        elsewhere = cdn.url("").replace("127.0.0.1", "localhost")
        with registry(tmp_path_factory.mktemp("registry"), redirect_to=elsewhere) as made:
            CDNS[made.host] = cdn
            yield made


CDNS: dict[str, FaultyServer] = {}


def pull(theirs: Ollama, there: Registry, name: str) -> None:
    """A real `ollama pull` of what was pushed."""
    serve(there)
    theirs.run("pull", "--insecure", f"http://{name}")
    assert name in theirs.names()


def serve(there: Registry) -> None:
    """What it has, at the other host."""
    for blob in there.data.rglob("blobs/sha256/*/*/data"):
        CDNS[there.host].on("/" + str(blob.relative_to(there.data)), ranged(blob.read_bytes()))


@pytest.fixture(autouse=True)
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "OLLAMA_MODELS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def push(agent: Agent, what: object, to: str, **options: Any) -> dict[str, Any]:
    with agent.client() as client:
        return dict(client.push(str(what), to=to, **options))


def created(theirs: Ollama, name: str, folder: Path, *lines: str) -> tuple[dict[str, Any], bytes]:
    """Manifest and config of what the real `ollama create` makes of a Modelfile."""
    (folder / "Modelfile").write_text("\n".join(lines) + "\n")
    theirs.run("create", name, "-f", "Modelfile", cwd=folder)
    where = theirs.models / "manifests" / "registry.ollama.ai" / "library" / name / "latest"
    said: dict[str, Any] = json.loads(where.read_text())
    return said, blob(theirs.models, said["config"]["digest"])


def blob(models: Path, digest: str) -> bytes:
    return (models / "blobs" / digest.replace(":", "-")).read_bytes()


def kinds(said: dict[str, Any]) -> list[tuple[str, str, int]]:
    return [(one["mediaType"], one["digest"], one["size"]) for one in said["layers"]]


def pushed_manifest(there: Registry, name: str) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(
        there.run("crane", "manifest", "--insecure", f"{there.host}/{name}")
    )
    return said


VISION = gguf_of(
    {"general.architecture": "clip", "general.type": "mmproj", "clip.vision.block_count": 2},
    {"v.patch_embd.weight": (64,)},
)


@pytest.mark.parametrize(
    "fields",
    [
        {"general.architecture": "llama", "general.file_type": 15, "llama.block_count": 1},
        {"general.architecture": "qwen2", "general.file_type": 0},
        {"general.architecture": "gemma4", "general.file_type": 7, "gemma4.block_count": 1},
        {"general.architecture": "nemotron_h", "general.file_type": 32},
        {"general.architecture": "a&<b>", "tokenizer.ggml.tokens": ["a", "bc", ""]},
    ],
    ids=lambda fields: str(fields["general.architecture"]),
)
def test_a_gguf_becomes_the_model_that_ollamas_own_create_makes(
    tmp_path: Path, theirs: Ollama, fields: dict[str, Any]
) -> None:
    body = gguf_of(fields, {"token_embd.weight": (256, 3), "output.weight": (1000, 5)})
    (tmp_path / "m.gguf").write_bytes(body)
    said, config = created(theirs, "compared", tmp_path, "FROM ./m.gguf")
    model = made_of(tmp_path, "m.gguf")
    assert config == model.bodies[0], (config, model.bodies[0])
    assert kinds(said) == kinds(json.loads(model.manifest))


def made_of(folder: Path, *names: str) -> OllamaModel:
    parts = []
    for name in names:
        with (folder / name).open("rb") as stream:
            header = read_gguf(stream, name)
        body = (folder / name).read_bytes()
        parts.append(Part(name, hashlib.sha256(body).digest(), len(body), header))
    return make_model(parts, {})


def test_a_model_with_a_projector_is_what_create_makes_of_both(
    tmp_path: Path, theirs: Ollama
) -> None:
    (tmp_path / "m.gguf").write_bytes(small_gguf(4096))
    (tmp_path / "mmproj.gguf").write_bytes(VISION)
    said, config = created(theirs, "both", tmp_path, "FROM ./m.gguf", "FROM ./mmproj.gguf")
    model = made_of(tmp_path, "m.gguf", "mmproj.gguf")
    ours = json.loads(model.manifest)
    assert sorted(kinds(said)) == sorted(kinds(ours)), "Ollama takes the files in any order"
    theirs_families = set(json.loads(config)["model_families"])
    assert theirs_families == set(json.loads(model.bodies[0])["model_families"])


def test_ollama_pulls_lists_and_shows_what_was_pushed(
    tmp_path: Path, there: Registry, theirs: Ollama
) -> None:
    made = tmp_path / "made"
    made.mkdir()
    (made / "small-Q4.gguf").write_bytes(small_gguf())
    (made / "template").write_text("{{ .Prompt }}<end>")
    (made / "system").write_text("be brief")
    (made / "params").write_text('{"temperature":0.25}')
    (made / "README.md").write_text("no layer")
    name = f"{there.host}/library/pushed:v1"
    with running_agent(tmp_path) as agent:
        would = push(agent, made, f"ollama://{name}", dry_run=True)["to"]
        done = push(agent, made, f"ollama://{name}")["to"]
        assert done["sent_bytes"] == would["missing_bytes"]
        pull(theirs, there, name)
        said = theirs.run("show", name)
        for part in ("llama", "temperature", "0.25", "be brief"):
            assert part in said
        assert "<end>" in theirs.run("show", "--template", name)
        back = agent.get(f"ollama://{name}", to=str(tmp_path / "back"))
        assert back["fetched_bytes"] < 5000, "the GGUF was here"
        assert (tmp_path / "back" / "model.gguf").read_bytes() == small_gguf()


def test_a_model_of_ollamas_goes_on_byte_for_byte(
    tmp_path: Path, there: Registry, theirs: Ollama
) -> None:
    theirs.create("kept", tmp_path)
    name = f"http://{there.host}/library/kept:v1"
    theirs.run("cp", "kept", name)
    theirs.run("push", "--insecure", name)
    digest = there.run("crane", "digest", "--insecure", f"{there.host}/library/kept:v1")
    serve(there)
    for one in ("kept", name):
        theirs.run("rm", one)
    with registry(tmp_path / "r") as other, running_agent(tmp_path) as agent:
        ref = f"ollama://{there.host}/kept:v1"
        moved = f"{there.host}/moved/kept:v2"
        push(agent, ref, f"ollama://{moved}")
        assert there.run("crane", "digest", "--insecure", moved) == digest
        pull(theirs, there, moved)
        push(agent, f"oci://{there.host}/library/kept:v1", f"ollama://{other.host}/as/image:v1")
        image = f"{other.host}/as/image:v1"
        assert other.run("crane", "digest", "--insecure", image) == digest


@pytest.mark.parametrize(
    ("files", "match"),
    [
        ({"m-00001-of-00002.gguf": b"", "m-00002-of-00002.gguf": b""}, "split GGUF"),
        ({"m.gguf": gguf_of({"general.architecture": "llama"}, {}, split=3)}, "split GGUF"),
        ({"a.gguf": small_gguf(4096), "b.gguf": small_gguf(8192)}, "has one GGUF"),
        ({"a.gguf": gguf_of({"general.type": "adapter"}, {})}, "is an adapter"),
        ({"a.gguf": VISION}, "is a projector"),
        ({"a.gguf": b"GGUF\x03\0\0\0"}, "ends within"),
        ({"a.txt": b"no model"}, "no GGUF"),
    ],
    ids=["split", "split-inside", "two", "adapter", "projector", "cut", "none"],
)
def test_what_makes_no_model_says_why_and_what_to_do(
    tmp_path: Path, shared_agent: Agent, there: Registry, files: dict[str, bytes], match: str
) -> None:
    (tmp_path / "made").mkdir()
    for path, body in files.items():
        (tmp_path / "made" / path).write_bytes(body)
    before = len(there.requests())
    with pytest.raises(errors.UsageError, match=match):
        push(shared_agent, tmp_path / "made", f"ollama://{there.host}/none:v1")
    assert len(there.requests()) == before, "nothing was asked of the registry"


@pytest.fixture(scope="module")
def shared_agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    with running_agent(tmp_path_factory.mktemp("agent")) as agent:
        yield agent
