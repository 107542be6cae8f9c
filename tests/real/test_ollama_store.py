"""GGUF files of a hub and models of Ollama's are the same bytes: neither is copied nor fetched."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from p2pcache import errors
from tests.support.agents import Agent, running_agent
from tests.support.hub_repo import HubRepo, Recipe, build_repo, text
from tests.support.hub_stub import HubStub, hub_stub
from tests.support.ollama import Ollama, gguf_of, ollama, small_gguf
from tests.support.registry import registry

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

GGUF = small_gguf()
BLOB = f"sha256-{hashlib.sha256(GGUF).hexdigest()}"
VISION = gguf_of(
    {
        "general.architecture": "clip",
        "general.type": "mmproj",
        "clip.vision.block_count": 2,
        "clip.vision.embedding_length": 8,
        "clip.vision.projection_dim": 8,
    },
    {"v.patch_embd.weight": (64,)},
)
FILES = {
    "Small-1.0-Q4_K_M.gguf": Recipe(data=GGUF, lfs=True),
    "Small-1.0-F16.gguf": Recipe(data=small_gguf(8 << 20), lfs=True),
    "mmproj-F16.gguf": Recipe(data=VISION, lfs=True),
    "big-00001-of-00002.gguf": Recipe(data=small_gguf(4096), lfs=True),
    "big-00002-of-00002.gguf": Recipe(data=small_gguf(8192), lfs=True),
    "template": text("{{ .Prompt }}<end>"),
    "config.json": text("{}"),
}


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> HubRepo:
    return build_repo(tmp_path_factory.mktemp("repo"), FILES)


@pytest.fixture
def hub(repo: HubRepo) -> Iterator[HubStub]:
    with hub_stub(repo) as made:
        yield made


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ollama]:
    with ollama(tmp_path_factory.mktemp("ollama")) as made:
        yield made


def bring(
    agent: Agent, hub: HubStub, ref: str = "hf://demo/model", **options: object
) -> dict[str, Any]:
    credentials = {"hf_endpoint": hub.url}
    return agent.get(ref, hf_cache=str(agent.hub_cache), credentials=credentials, **options)


def test_a_gguf_of_a_hub_becomes_a_model_of_ollamas_without_a_copy(
    tmp_path: Path, hub: HubStub, theirs: Ollama
) -> None:
    with running_agent(tmp_path) as agent:
        done = bring(
            agent, hub, include=["*Q4_K_M.gguf", "mmproj*", "template"],
            to_ollama=str(theirs.models),
        )  # fmt: skip
        assert "Ollama has it as `small-1.0-q4_k_m:latest`" in done["notes"]
        assert "small-1.0-q4_k_m:latest" in theirs.names()
        said = theirs.run("show", "small-1.0-q4_k_m")
        assert "llama" in said
        assert "Projector" in said
        assert "<end>" in theirs.run("show", "--template", "small-1.0-q4_k_m")
        shown = Path(done["path"]) / "Small-1.0-Q4_K_M.gguf"
        assert shown.samefile(theirs.models / "blobs" / BLOB), "one file of three names"
        again = bring(
            agent, hub, "hf://demo/model/Small-1.0-Q4_K_M.gguf", ollama_name="me/own:v1",
            to_ollama=str(theirs.models),
        )  # fmt: skip
        assert again["fetched_bytes"] == 0
        assert "me/own:v1" in theirs.names()
        assert again["path"] == str(shown)


@pytest.mark.parametrize(
    ("include", "match"),
    [
        (["*.json"], "no GGUF"),
        (["big*"], "split GGUF"),
        (["Small*"], "has one GGUF"),
        (["mmproj*"], "is a projector"),
    ],
)
def test_what_is_no_model_is_said_before_it_is_shown(
    tmp_path: Path, hub: HubStub, include: list[str], match: str
) -> None:
    models = tmp_path / "models"
    with running_agent(tmp_path) as agent:
        with pytest.raises(errors.UsageError, match=match):
            bring(agent, hub, include=include, to_ollama=str(models))
        assert not (models / "manifests").exists()
        if match in ("no GGUF", "split GGUF"):  # its names say so
            assert not [a for a in hub.asked if "resolve" in a.path], "nothing was fetched"


def test_a_gguf_that_ollama_has_needs_no_byte_of_the_hub(
    tmp_path: Path, hub: HubStub, theirs: Ollama
) -> None:
    (tmp_path / "made").mkdir()
    theirs.create("has", tmp_path / "made")
    theirs_blob = theirs.models / "blobs" / BLOB
    with running_agent(tmp_path, OLLAMA_MODELS=str(theirs.models)) as agent:
        done = bring(agent, hub, "hf://demo/model/Small-1.0-Q4_K_M.gguf")
        assert done["fetched_bytes"] == 0
        assert Path(done["path"]).read_bytes() == GGUF
        assert not [a for a in hub.asked if a.method == "GET" and "gguf" in a.path]
        assert on_disk(tmp_path / "p2pcache", tmp_path / "hf") < len(GGUF), "no copy of it"
        assert theirs_blob.read_bytes() == GGUF
        assert done["link_kind"] in ("hard link", "reflink", "symbolic link"), done


def test_a_model_of_ollamas_is_placed_as_files_without_a_copy(
    tmp_path: Path, theirs: Ollama
) -> None:
    (tmp_path / "made").mkdir()
    theirs.create("placed", tmp_path / "made")
    with (
        registry(tmp_path / "r") as there,
        running_agent(tmp_path, OLLAMA_MODELS=str(theirs.models)) as agent,
    ):
        name = f"http://{there.host}/library/placed:v1"
        theirs.run("cp", "placed", name)
        theirs.run("push", "--insecure", name)
        out = tmp_path / "out"
        done = agent.get(f"ollama://{there.host}/placed:v1", to=str(out))
        assert done["fetched_bytes"] < 10_000
        assert (out / "model.gguf").read_bytes() == GGUF
        assert on_disk(tmp_path / "p2pcache", out) < len(GGUF), "no copy of it"


def on_disk(*folders: Path) -> int:
    """Bytes of files that only these folders have."""
    files = [p.lstat() for folder in folders for p in folder.rglob("*") if p.is_file()]
    return sum(
        one.st_blocks * 512 for one in {(f.st_dev, f.st_ino): f for f in files}.values()
        if one.st_nlink == 1
    )  # fmt: skip
