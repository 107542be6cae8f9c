"""A deterministic Hugging Face style repository: same recipe, same bytes, same commit id.

One `HubRepo` is a real git repository (LFS files as pointers, their objects beside it, as `git lfs`
keeps them: olah reads that) plus the plain tree with the real bytes (nginx and the stub serve
that). Nothing needs git-lfs. Large files are written in blocks, so a 20 GiB recipe costs no memory.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

BLOCK = 1 << 20
_FIXED_TIME = "1700000000 +0000"  # commit ids depend on it


@dataclass(frozen=True)
class Recipe:
    """One file: either these bytes, or `size` bytes that follow from `seed`."""

    data: bytes | None = None
    size: int = 0
    seed: int = 0
    lfs: bool = False

    def chunks(self) -> Iterator[bytes]:
        if self.data is not None:
            yield self.data
            return
        source = random.Random(self.seed)
        for at in range(0, self.size, BLOCK):
            yield source.randbytes(min(BLOCK, self.size - at))


def text(content: str) -> Recipe:
    return Recipe(data=content.encode())


def lfs(size: int, seed: int) -> Recipe:
    return Recipe(size=size, seed=seed, lfs=True)


def small_model(lfs_bytes: int = 3_000_000) -> dict[str, Recipe]:
    """The everyday repository: config, folders, an odd name, an empty file, two LFS files."""
    return {
        "config.json": text('{"model_type": "demo", "hidden_size": 8}\n'),
        "README.md": text("# demo\n"),
        "empty.txt": text(""),
        "sub dir/vocäb #1.txt": text("a\nb\nc\n"),
        "model-00001-of-00002.safetensors": lfs(lfs_bytes, 1),
        "weights/model-00002-of-00002.safetensors": lfs(lfs_bytes // 2 + 7, 2),
    }


def many_small_files(count: int) -> dict[str, Recipe]:
    """`count` files of 2 to 40 KB in 50 folders, none of them LFS."""
    sizes = random.Random(count)
    return {
        f"part-{n % 50:02}/file-{n:05}.json": Recipe(size=sizes.randint(2_000, 40_000), seed=n)
        for n in range(count)
    }


@dataclass(frozen=True)
class BuiltFile:
    path: str
    size: int
    sha256: str
    git_sha1: str  # of the real bytes
    oid: str  # in git's tree: of the pointer for LFS files
    lfs: bool
    on_disk: Path

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.git_sha1

    def tree_entry(self, xet_hash: str | None = None) -> dict[str, Any]:
        """As the Hub's /tree lists it."""
        entry: dict[str, Any] = {
            "type": "file", "oid": self.oid, "size": self.size, "path": self.path,
        }  # fmt: skip
        if self.lfs:
            pointer = lfs_pointer(self.sha256, self.size)
            entry["lfs"] = {"oid": self.sha256, "size": self.size, "pointerSize": len(pointer)}
        if xet_hash is not None:
            entry["xetHash"] = xet_hash
        return entry


@dataclass(frozen=True)
class HubRepo:
    repo_type: str  # "model", "dataset" or "space"
    repo_id: str
    commit: str
    root: Path
    files: Mapping[str, BuiltFile]
    refs: dict[str, str] = field(default_factory=dict)  # branch, tag or refs/pr/N -> commit

    @property
    def mirrors(self) -> Path:
        """What olah's `mirrors-path` names."""
        return self.root / "mirrors"

    @property
    def plain(self) -> Path:
        """The tree with the real bytes."""
        return self.root / "plain"

    @property
    def total_bytes(self) -> int:
        return sum(file.size for file in self.files.values())


def build_repo(
    root: Path,
    recipes: Mapping[str, Recipe] | None = None,
    *,
    repo_id: str = "demo/model",
    repo_type: str = "model",
) -> HubRepo:
    """Build below `root` (emptied first). Branch `main`, tag `v1`, pull request `refs/pr/1`."""
    recipes = small_model() if recipes is None else recipes
    shutil.rmtree(root, ignore_errors=True)
    work = root / "mirrors" / f"{repo_type}s" / repo_id
    objects = work / ".git" / "lfs" / "objects"
    work.mkdir(parents=True)
    _git(work, "init", "--quiet", "--initial-branch=main")
    files = {}
    for path, recipe in recipes.items():
        built = _write(root / "plain" / path, path, recipe)
        files[path] = built
        checked_out = work / path
        checked_out.parent.mkdir(parents=True, exist_ok=True)
        if built.lfs:
            checked_out.write_bytes(lfs_pointer(built.sha256, built.size))
            kept = objects / built.sha256[:2] / built.sha256[2:4] / built.sha256
            kept.parent.mkdir(parents=True, exist_ok=True)
            if not kept.exists():
                os.link(built.on_disk, kept)
        else:
            os.link(built.on_disk, checked_out)
    _git(work, "add", "--all", "--force")
    _git(work, "commit", "--quiet", "--allow-empty", "--message", "Add the model")
    _git(work, "tag", "v1")
    commit = _git(work, "rev-parse", "HEAD")
    _git(work, "update-ref", "refs/pr/1", commit)
    refs = {"main": commit, "v1": commit, "refs/pr/1": commit}
    return HubRepo(repo_type, repo_id, commit, root, files, refs)


def lfs_pointer(sha256: str, size: int) -> bytes:
    return (
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n"
    ).encode()


def git_blob_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _write(on_disk: Path, path: str, recipe: Recipe) -> BuiltFile:
    on_disk.parent.mkdir(parents=True, exist_ok=True)
    size = len(recipe.data) if recipe.data is not None else recipe.size
    whole, blob = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size)
    with on_disk.open("wb") as out:
        for chunk in recipe.chunks():
            whole.update(chunk)
            blob.update(chunk)
            out.write(chunk)
    sha256 = whole.hexdigest()
    oid = git_blob_id(lfs_pointer(sha256, size)) if recipe.lfs else blob.hexdigest()
    return BuiltFile(path, size, sha256, blob.hexdigest(), oid, recipe.lfs, on_disk)


def _git(work: Path, *argv: str) -> str:
    env = {
        **os.environ,
        "GIT_CONFIG_GLOBAL": os.devnull,  # a user's own git-lfs filters or signing stay out
        "GIT_CONFIG_NOSYSTEM": "1",
        **{f"GIT_{who}_NAME": "demo" for who in ("AUTHOR", "COMMITTER")},
        **{f"GIT_{who}_EMAIL": "demo@example.org" for who in ("AUTHOR", "COMMITTER")},
        **{f"GIT_{who}_DATE": _FIXED_TIME for who in ("AUTHOR", "COMMITTER")},
    }
    done = subprocess.run(
        ["git", "-c", "core.autocrlf=false", "-c", "gc.auto=0", *argv],
        cwd=work, env=env, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return done.stdout.strip()
