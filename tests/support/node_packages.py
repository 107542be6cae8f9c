"""npm packages for tests: node itself is pinned, npm checks the hashes of package-lock.json.

They lie in the cache that all checkouts share, one folder for each state of their source folder.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

INSTALL_S = 300.0


def node() -> Path:
    """The `node` command."""
    setup = Path(__file__).resolve().parents[2] / "scripts" / "setup"
    done = subprocess.run([setup, "--tool", "node"], check=True, stdout=subprocess.PIPE)
    return Path(os.fsdecode(done.stdout).strip()).resolve()


def installed(name: str, source: Path) -> Path:
    """A copy of `source` with the packages that its package-lock.json names."""
    mark = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(source.iterdir())))
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    cache = Path(home) / "p2pcache-tests"
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / f"{name}-{mark.hexdigest()[:12]}"
    with (cache / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            making = folder.with_suffix(".new")
            shutil.rmtree(making, ignore_errors=True)
            shutil.copytree(source, making)
            bin_folder = node().parent
            path = f"{bin_folder}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
            subprocess.run(
                [bin_folder / "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
                cwd=making, check=True, timeout=INSTALL_S, env={**os.environ, "PATH": path},
            )  # fmt: skip
            making.rename(folder)
    return folder
