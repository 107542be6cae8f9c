"""The repository of scripts/demo: about 300 MB of deterministic bytes, as git with LFS files.

olah serves a plain git repository; a large file stands in it as an LFS pointer, its bytes under
`.git/lfs/objects/aa/bb/<sha256>`, which is where git-lfs itself puts them.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

MB = 1_000_000
LARGE = {"model-00001-of-00002.safetensors": 140 * MB, "model-00002-of-00002.safetensors": 140 * MB}
STEP_BYTES = 4 * MB
# Fixed, so that the commit has the same name on every machine and in every run.
GIT_ENV = {
    "GIT_AUTHOR_NAME": "demo",
    "GIT_AUTHOR_EMAIL": "demo@localhost",
    "GIT_AUTHOR_DATE": "2026-01-01T00:00:00Z",
    "GIT_COMMITTER_NAME": "demo",
    "GIT_COMMITTER_EMAIL": "demo@localhost",
    "GIT_COMMITTER_DATE": "2026-01-01T00:00:00Z",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
}


@dataclass(frozen=True, slots=True)
class DemoRepo:
    """`files`: sha256 (hex) and size of every file, by path. `objects`: the large ones on disk."""

    commit: str
    files: dict[str, tuple[str, int]]
    objects: dict[str, Path]


def _bytes(name: str, size: int) -> Iterator[bytes]:
    chance = random.Random(f"p2pcache demo {name}")
    for start in range(0, size, STEP_BYTES):
        yield chance.randbytes(min(STEP_BYTES, size - start))


def _small_files() -> dict[str, bytes]:
    config = {"architectures": ["DemoForCausalLM"], "hidden_size": 64, "model_type": "demo"}
    index = {"metadata": {"total_size": sum(LARGE.values())}, "weight_map": {}}
    vocabulary = {f"token-{number}": number for number in range(2000)}
    return {
        "README.md": b"---\nlicense: apache-2.0\n---\n# demo/model\n\nRandom weights.\n",
        "config.json": json.dumps(config, indent=2).encode() + b"\n",
        "model.safetensors.index.json": json.dumps(index, indent=2).encode() + b"\n",
        "tokenizer/tokenizer.json": json.dumps({"vocab": vocabulary}).encode() + b"\n",
        "tokenizer/added_tokens.json": b"{}\n",
        "tokenizer/merges.txt": b"".join(_bytes("merges", 2 * MB)),
        "empty.txt": b"",
    }


def _large_file(repo: Path, name: str, size: int) -> tuple[str, Path]:
    """Write the LFS object and its pointer; its sha256 and where the object is."""
    part = repo / ".git" / "lfs" / "part"
    part.parent.mkdir(parents=True, exist_ok=True)
    state = hashlib.sha256()
    with part.open("wb") as out:
        for block in _bytes(name, size):
            state.update(block)
            out.write(block)
    oid = state.hexdigest()
    stored = repo / ".git" / "lfs" / "objects" / oid[:2] / oid[2:4] / oid
    stored.parent.mkdir(parents=True, exist_ok=True)
    part.rename(stored)
    (repo / name).write_text(
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n"
    )
    return oid, stored


def _git(repo: Path, *args: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(repo), *args],
        env={**os.environ, **GIT_ENV},
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def make_repo(repo: Path) -> DemoRepo:
    """Make the repository, or read what an earlier run made."""
    record = repo.parent / f"{repo.name}.json"
    if record.exists():
        made = json.loads(record.read_text())
        files = {path: (sha256, size) for path, (sha256, size) in made["files"].items()}
        return DemoRepo(made["commit"], files, {k: Path(v) for k, v in made["objects"].items()})
    repo.mkdir(parents=True, exist_ok=True)
    _git(repo, "init", "-q", "-b", "main")
    files: dict[str, tuple[str, int]] = {}
    objects: dict[str, Path] = {}
    for path, data in _small_files().items():
        (repo / path).parent.mkdir(exist_ok=True)
        (repo / path).write_bytes(data)
        files[path] = (hashlib.sha256(data).hexdigest(), len(data))
    for name, size in LARGE.items():
        oid, objects[name] = _large_file(repo, name, size)
        files[name] = (oid, size)
    attributes = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"
    (repo / ".gitattributes").write_bytes(attributes)
    files[".gitattributes"] = (hashlib.sha256(attributes).hexdigest(), len(attributes))
    # The pointers are committed as they stand: without a filter no git-lfs is needed.
    no_filter = ("-c", "filter.lfs.clean=cat", "-c", "filter.lfs.required=false")
    _git(repo, *no_filter, "add", "--all")
    _git(repo, *no_filter, "commit", "-q", "-m", "A demo model")
    made = DemoRepo(_git(repo, "rev-parse", "HEAD"), files, objects)
    where = {name: str(path) for name, path in objects.items()}
    record.write_text(json.dumps({"commit": made.commit, "files": files, "objects": where}))
    return made
