"""scripts/bench oci: one layer of a registry (distribution) on this machine, tmpfs to tmpfs, plain
HTTP.

Ollama 0.24 pulls a layer only from a registry that redirects to another host: so the
blobs of a second one are read from an nginx, by Ollama and by us.

Whole processes from start to exit, servers (the agent, Ollama) running. All of them check the
sha2-256 that the manifest names; only p2pcache syncs what it keeps and resumes after a crash,
Ollama resumes, the others begin again.
"""

from __future__ import annotations

import json
import shutil
from functools import partial
from typing import TYPE_CHECKING

from scripts import measure as gauge
from scripts.bench_support import (
    CORES,
    GIB,
    MIB,
    Agent,
    Options,
    Row,
    agent,
    at_least,
    environment,
    info,
    on_tmpfs,
    progress,
)
from scripts.race import Contestant, Lap, Result, command, figures, ours, race, random_file
from tests.support.nginx import nginx
from tests.support.ollama import Ollama, ollama, ollama_binary, small_gguf
from tests.support.registry import Registry, registry, tool

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FILE = "model.bin"
LAYER, MODEL = "bench/layer:one", "library/model:one"
OURS, OURS_MODEL = "p2pcache", "p2pcache, Ollama's model"
OLLAMA = "ollama pull"
EQUALS = ("oras pull", "crane blob", "skopeo copy")  # of the same layer


def _fill(there: Registry, folder: Path, size: int) -> str:
    """The layer, pushed by oras. Its name by its digest."""
    given = folder / "given"
    random_file(given / FILE, size)
    there.push_files(LAYER, given)
    shutil.rmtree(given)
    body = json.loads(
        there.run("oras", "manifest", "fetch", "--plain-http", f"{there.host}/{LAYER}")
    )
    return f"{there.host}/{LAYER.partition(':')[0]}@{body['layers'][0]['digest']}"


def _fill_models(there: Registry, maker: Ollama, folder: Path, size: int) -> None:
    """A model, pushed by Ollama."""
    given = folder / "given"
    given.mkdir()
    (given / "model.gguf").write_bytes(small_gguf(size))
    (given / "Modelfile").write_text("FROM ./model.gguf\n")
    maker.run("create", "model", "-f", "Modelfile", cwd=given)
    shutil.rmtree(given)
    name = _model_name(there)
    maker.run("cp", "model", name)
    maker.run("push", "--insecure", name)
    for made in ("model", name):
        maker.run("rm", made)


def _model_name(there: Registry) -> str:
    return f"http://{there.host}/{MODEL}"


def _others(
    there: Registry, folder: Path, size: int, layer: str, env: Mapping[str, str]
) -> dict[str, Contestant]:
    out = folder / "out"
    out.mkdir()
    image = f"{there.host}/{LAYER}"
    crane = f'exec {tool("crane")} blob --insecure "$0" > "$1"'
    copied = folder / "copied"
    found = {
        "oras pull": command(
            [str(tool("oras")), "pull", "--plain-http", "--output", str(out), image], env,
            lambda: out / FILE, size, (out / FILE).unlink,
        ),
        "crane blob": command(
            ["sh", "-c", crane, layer, str(out / FILE)], env,
            lambda: out / FILE, size, (out / FILE).unlink,
        ),
    }  # fmt: skip
    skopeo = shutil.which("skopeo")
    if skopeo is not None:
        argv = [
            skopeo, "--insecure-policy", "copy", "--src-tls-verify=false", f"docker://{image}",
            f"dir:{copied}",
        ]  # fmt: skip
        blob = copied / layer.rpartition(":")[2]
        gone = partial(shutil.rmtree, copied)
        found["skopeo copy"] = command(argv, env, lambda: blob, size, gone)
    return found


def _ollama_pull(theirs: Ollama, name: str, size: int) -> Contestant:
    """By the CLI of a server of its own; the server is what spends the CPU seconds."""

    def pull() -> Lap:
        before = gauge.cpu_s(theirs.pid)
        done = gauge.run([str(ollama_binary()), "pull", "--insecure", name], theirs.env)
        cpu_s = gauge.cpu_s(theirs.pid) - before + done.cpu_s
        if sum(blob.stat().st_size for blob in (theirs.models / "blobs").iterdir()) < size:
            raise RuntimeError("ollama pull left less than the model")
        theirs.run("rm", name)
        return Lap(done.seconds, cpu_s)

    return pull


def _rows(results: dict[str, Result], size: int) -> list[Row]:
    mine = results[OURS].seconds
    rows = figures(results, size)
    for name in EQUALS:
        text = f"times as fast as {name}"
        if name in results:
            rows.append(at_least(text, results[name].seconds / mine, 1))
        else:
            rows.append(info(text, None))
    model = results[OLLAMA].seconds / results[OURS_MODEL].seconds
    return [*rows, at_least("times as fast as ollama pull", model, 1)]


def measure(options: Options) -> list[Row]:
    """Every row of this benchmark."""
    size, rounds = (256 * MIB, 3) if options.quick else (GIB, 5)
    with on_tmpfs(6 * size + 256 * MIB) as folder, agent(folder / "home") as running:
        progress("filling the registry")
        with registry(folder / "registry") as there:
            layer = _fill(there, folder, size)
            env = environment(HOME=str(there.home))
            mine = ours(running, f"oci://{there.host}/{LAYER}", size)
            others = _others(there, folder, size, layer, env)
            results = race({OURS: mine, **others}, rounds, there.pid)
        shutil.rmtree(folder / "registry")
        results |= _models(running, folder, size, rounds)
    return _rows(results, size)


def _models(running: Agent, folder: Path, size: int, rounds: int) -> dict[str, Result]:
    data = folder / "models"
    data.mkdir()
    with (
        nginx(data / "data", folder / "cdn", workers=CORES) as cdn,
        registry(data, redirect_to=cdn.url.replace("127.0.0.1", "localhost")) as there,
        ollama(folder / "ollama") as theirs,
    ):
        progress("filling the registry with a model")
        _fill_models(there, theirs, folder, size)
        mine = ours(running, f"ollama://{there.host}/{MODEL}", size)
        pull = _ollama_pull(theirs, _model_name(there), size)
        return race({OURS_MODEL: mine, OLLAMA: pull}, rounds, cdn.pid)
