"""Models of a real Ollama: pulled from a registry that it pushed to, shown in its own store."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import pytest

from p2pcache import errors
from tests.support.agents import running_agent
from tests.support.ollama import Ollama, ollama
from tests.support.registry import Registry, registry
from tests.support.registry_proxy import Fault, registry_proxy
from tests.support.watched_pull import at_most

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

FILES = {
    "manifest.json", "image-config.json", "model.gguf", "template.txt", "system.txt",
    "license.txt", "license-2.txt", "params.json",
}  # fmt: skip


@pytest.fixture(scope="module")
def maker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ollama]:
    with ollama(tmp_path_factory.mktemp("maker")) as made:
        yield made


@pytest.fixture(scope="module")
def gguf(maker: Ollama, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return maker.create("small", tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def there(
    maker: Ollama, gguf: bytes, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Registry]:
    """A registry that Ollama pushed its model to."""
    with registry(tmp_path_factory.mktemp("registry")) as made:
        name = f"http://{made.host}/library/small:v1"
        maker.run("cp", "small", name)
        maker.run("push", "--insecure", name)
        yield made


@pytest.fixture(autouse=True)
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "OLLAMA_MODELS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_a_pulled_model_is_one_of_ollamas_and_shares_our_bytes(
    tmp_path: Path, there: Registry, gguf: bytes
) -> None:
    ref = f"ollama://{there.host}/small:v1"
    with running_agent(tmp_path) as agent, ollama(tmp_path / "theirs") as theirs:
        done = agent.get(ref, to_ollama=str(theirs.models), to=str(tmp_path / "out"))
        assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
        assert (tmp_path / "out" / "model.gguf").read_bytes() == gguf
        name = f"{there.host}/library/small:v1"
        assert theirs.names() == [name]
        said = theirs.run("show", name)
        for part in ("llama", "temperature", "0.5", "be brief", "a second one"):
            assert part in said
        blob = theirs.models / "blobs" / f"sha256-{hashlib.sha256(gguf).hexdigest()}"
        assert blob.stat().st_nlink > 1, "a link, no copy"
        again = agent.get(ref, to_ollama=str(theirs.models))
        assert again["link_kind"] is None, "nothing was written a second time"
        assert done["path"] == str(tmp_path / "out")
        theirs.run("rm", name)
        assert theirs.names() == []
        assert agent.get(ref, to_ollama=str(theirs.models))["fetched_bytes"] == 0
        assert theirs.names() == [name]


def test_what_ollama_has_is_taken_from_there_without_a_byte(
    tmp_path: Path, maker: Ollama, there: Registry, gguf: bytes
) -> None:
    with running_agent(tmp_path, OLLAMA_MODELS=str(maker.models)) as agent:
        before = len(there.requests())
        done = agent.get(f"ollama://{there.host}/small:v1", to=str(tmp_path / "out"))
        assert (tmp_path / "out" / "model.gguf").read_bytes() == gguf
        asked = [uri for method, uri, _ in there.requests()[before:] if method == "GET"]
        assert done["fetched_bytes"] < 10_000, "the manifest, which is no blob of its store"
        assert not [uri for uri in asked if hashlib.sha256(gguf).hexdigest() in uri]


def test_a_damaged_blob_of_ollamas_is_neither_taken_nor_left(
    tmp_path: Path, there: Registry, gguf: bytes
) -> None:
    models = tmp_path / "models"
    blob = models / "blobs" / f"sha256-{hashlib.sha256(gguf).hexdigest()}"
    blob.parent.mkdir(parents=True)
    blob.write_bytes(bytes(len(gguf)))
    with running_agent(tmp_path, OLLAMA_MODELS=str(models)) as agent:
        done = agent.get(f"ollama://{there.host}/small:v1", to_ollama=str(models))
        assert done["fetched_bytes"] >= len(gguf)
        assert blob.read_bytes() == gguf
        assert any("replaced" in note for note in done["notes"])


def test_a_registry_that_falls_silent_in_a_blob_is_given_up_and_ollama_sees_nothing_of_it(
    tmp_path: Path, there: Registry, gguf: bytes
) -> None:
    models, quick = tmp_path / "models", {"fetch.no_progress": "1s", "fetch.patience": "1s"}
    with registry_proxy(there) as proxy, running_agent(tmp_path, settings=quick) as agent:
        proxy.fault = lambda ask: Fault(wait_s=30.0) if ask.is_("GET", "blob") else None
        ref = f"ollama://{proxy.host}/small:v1"
        with at_most(25), pytest.raises(errors.Unavailable):
            agent.get(ref, to_ollama=str(models))
        assert not (models / "manifests").exists()
        proxy.fault = lambda ask: None
        agent.get(ref, to_ollama=str(models))
    blob = models / "blobs" / f"sha256-{hashlib.sha256(gguf).hexdigest()}"
    assert blob.read_bytes() == gguf


def test_a_part_of_a_model_is_not_shown_to_ollama(tmp_path: Path, there: Registry) -> None:
    with running_agent(tmp_path) as agent:
        models = tmp_path / "models"
        ref = f"ollama://{there.host}/small:v1"
        done = agent.get(ref, to_ollama=str(models), include=["*.txt"])
        assert any("not shown to Ollama" in note for note in done["notes"])
        assert not (models / "manifests").exists()
        with pytest.raises(errors.NotFound, match="small:v2"):
            agent.get(f"ollama://{there.host}/small:v2", to_ollama=str(models))
        assert not (models / "manifests").exists()


def test_a_model_of_ollamas_is_an_image_layout_for_the_tools_of_registries(
    tmp_path: Path, there: Registry
) -> None:
    with running_agent(tmp_path) as agent:
        agent.get(f"oci://{there.host}/library/small:v1", to=str(tmp_path / "out"))
        index = json.loads((tmp_path / "out" / "index.json").read_text())
        name = f"{there.host}/again/small:v1"
        there.run("crane", "push", "--insecure", tmp_path / "out", name)
        digest = there.run("crane", "digest", "--insecure", name)
        assert digest == index["manifests"][0]["digest"]
