"""Ollama itself, as a server and as the client of one, with a small model of its own making.

Its module archive leaves some headers out: they come from Debian's and
Python's packages, unpacked and not installed. Nothing outside this machine is asked once it is
built: its update checks go to a host that is not there.
"""

from __future__ import annotations

import contextlib
import math
import os
import struct
import subprocess
import sys
import tarfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.building import BUILD_S, CACHE, go_build, go_module, made
from tests.support.processes import free_port, running

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

VERSION = "v0.24.0"
MODULE = "github.com/ollama/ollama"
COMMAND_S = 120.0
_PINS = Path(__file__).resolve().parents[2] / "scripts" / "pins" / "ollama.txt"


def ollama_binary() -> Path:
    """The `ollama` command, built when it is missing: 2 minutes."""

    def build(draft: Path) -> None:
        headers = _headers(draft.parent)
        flags = {"CGO_CFLAGS": f"-I{headers}", "CGO_CXXFLAGS": f"-I{headers}"}
        go_build(go_module(MODULE, VERSION), draft, env=flags)

    return made(CACHE / f"ollama-{VERSION}" / "ollama", build)


def _headers(folder: Path) -> Path:
    """`miniaudio/miniaudio.h`, `stb/stb_image.h` and `nlohmann/` below one folder."""
    found = folder / "include"
    subprocess.run(
        ["apt-get", "download", "libstb-dev", "nlohmann-json3-dev"],
        check=True, cwd=folder, timeout=BUILD_S,
    )  # fmt: skip
    for package in folder.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", package, folder / "deb"], check=True)
    (folder / "deb" / "usr" / "include").rename(found)
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:",
         "--require-hashes", "-r", _PINS],
        check=True, cwd=folder, timeout=BUILD_S,
    )  # fmt: skip
    (archive,) = folder.glob("miniaudio-*.tar.gz")
    with tarfile.open(archive) as tar:
        (member,) = [name for name in tar.getnames() if name.endswith("/miniaudio.h")]
        header = tar.extractfile(member)
        assert header is not None
        (found / "miniaudio").mkdir()
        (found / "miniaudio" / "miniaudio.h").write_bytes(header.read())
    return found


def small_gguf(tensor_bytes: int = 4 << 20) -> bytes:
    """A model file that Ollama reads, of one tensor of float32."""
    fields: dict[str, str | int | list[str]] = {
        "general.architecture": "llama", "general.name": "small",
        "llama.context_length": 64, "llama.block_count": 1, "llama.embedding_length": 8,
        "tokenizer.ggml.model": "llama",
    }  # fmt: skip
    return gguf_of(fields, {"token_embd.weight": (tensor_bytes // 4,)})


def gguf_of(
    fields: Mapping[str, str | int | list[str]],
    tensors: Mapping[str, tuple[int, ...]],
    split: int | None = None,
) -> bytes:
    """A GGUF with these keys (uint32 and texts) and tensors of float32. `split`: split.count."""
    keys = dict(fields) | ({} if split is None else {"split.count": split})
    data = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys))
    for key, value in keys.items():
        data += _text(key)
        if isinstance(value, list):
            data += struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(_text, value))
        elif isinstance(value, str):
            data += struct.pack("<I", 8) + _text(value)
        else:
            data += struct.pack("<II", 4, value)
    offset = 0
    for name, shape in tensors.items():
        data += _text(name) + struct.pack("<I", len(shape))
        data += struct.pack(f"<{len(shape)}QIQ", *shape, 0, offset)
        offset += math.prod(shape) * 4 + -math.prod(shape) * 4 % 32
    return data + bytes(-len(data) % 32) + (bytes(range(256)) * (offset // 256 + 1))[:offset]


def _text(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded


@dataclass(frozen=True)
class Ollama:
    """A server that runs, with a store and a HOME of its own."""

    port: int
    home: Path
    models: Path
    log: Path
    pid: int = 0

    @property
    def env(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "OLLAMA_HOST": f"127.0.0.1:{self.port}",
            "OLLAMA_MODELS": str(self.models),
            "NO_COLOR": "1",
            "HTTPS_PROXY": "http://127.0.0.1:9",  # nobody: it looks for updates of itself
        }

    def run(self, *args: object, cwd: Path | None = None) -> str:
        """One command; its output."""
        done = subprocess.run(
            [ollama_binary(), *map(str, args)], cwd=cwd, check=False, capture_output=True,
            timeout=COMMAND_S, env=self.env,
        )  # fmt: skip
        assert done.returncode == 0, (args, done.stderr.decode())
        return done.stdout.decode()

    def create(self, name: str, folder: Path) -> bytes:
        """Make a model with all kinds of layers; the bytes of its GGUF."""
        body = small_gguf()
        (folder / "small.gguf").write_bytes(body)
        (folder / "Modelfile").write_text(
            'FROM ./small.gguf\nTEMPLATE "{{ .Prompt }}"\nPARAMETER temperature 0.5\n'
            'SYSTEM "be brief"\nLICENSE "none"\nLICENSE "a second one"\n'
        )
        self.run("create", name, "-f", "Modelfile", cwd=folder)
        return body

    def names(self) -> list[str]:
        """What `ollama list` shows."""
        return [line.split()[0] for line in self.run("list").splitlines()[1:]]


@contextlib.contextmanager
def ollama(folder: Path) -> Iterator[Ollama]:
    """Run one; its store is `folder/models`."""
    (folder / "home").mkdir(parents=True, exist_ok=True)
    made = Ollama(free_port(), folder / "home", folder / "models", folder / "ollama.log")
    argv = [str(ollama_binary()), "serve"]
    with running(argv, port=made.port, log=made.log, env=made.env) as process:
        yield replace(made, pid=process.pid)
