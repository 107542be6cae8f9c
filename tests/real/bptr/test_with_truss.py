"""Baseten's pointer files with truss-transfer 0.0.44 itself, and `p2pcache.truss` in its place."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from p2pcache import errors, truss
from p2pcache.cli.main import main
from p2pcache.formats.bptr.pointers import (
    NEVER,
    S3,
    Azure,
    Gcs,
    Pointer,
    PointerFile,
)
from p2pcache.formats.bptr.write import as_text
from tests.support.bptr_files import DATA, SHA256, matches, pointer, written
from tests.support.faulty_http import FaultyServer, ranged
from tests.support.truss_transfer import truss_call, truss_resolve

if TYPE_CHECKING:
    from tests.support.agents import Agent
    from tests.support.hub_repo import HubRepo
    from tests.support.hub_stub import HubStub


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
