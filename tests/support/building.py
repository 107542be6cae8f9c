"""How programs of others are made for the tests: once, into a cache that all checkouts share.

What there is to make is listed in `builds.py`. Go's programs are built from source through its
module proxy, whose checksum database vouches for them.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

BUILD_S = 2400.0  # a large C++ program beside all tests, on two cores
# As it is now: some tests give themselves another HOME.
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "p2pcache-tests"
_SETUP = Path(__file__).resolve().parents[2] / "scripts" / "setup"
# Nobody debugs these programs: a fifth of the compiler's time goes into what a debugger reads.
_GO_FLAGS = ("-gcflags=all=-dwarf=false", "-ldflags=-s -w")


def made(place: Path, make: Callable[[Path], None]) -> Path:
    """`place`, which `make(draft)` makes when it is missing. Who asks meanwhile waits for it.

    The draft lies beside it and is renamed: what was interrupted leaves nothing that looks whole.
    """
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        CACHE.mkdir(parents=True, exist_ok=True)
        name = place.relative_to(CACHE).as_posix().replace("/", "-")
        with (CACHE / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not place.exists():
                with tempfile.TemporaryDirectory(dir=place.parent, prefix="build-") as folder:
                    draft = Path(folder) / place.name
                    make(draft)
                    draft.rename(place)
    return place


def tool(name: str) -> Path:
    """A command with pins of its own in scripts/pins, installed when it is missing."""
    done = subprocess.run([_SETUP, "--tool", name], check=True, stdout=subprocess.PIPE)
    return Path(os.fsdecode(done.stdout).strip())


def go_command() -> Path:
    """A Go that can build all of them: the one on PATH if it is new enough, else a pinned one."""
    return tool("go")


def go_module(module: str, version: str) -> Path:
    """The source of a Go module, unpacked; read-only."""
    found = subprocess.run(
        [go_command(), "mod", "download", "-json", f"{module}@{version}"],
        check=True, stdout=subprocess.PIPE, cwd="/", timeout=BUILD_S,
    )  # fmt: skip
    return Path(json.loads(found.stdout)["Dir"])


def go_build(
    source: Path, draft: Path, package: str = ".", *, mod: str = "readonly",
    env: Mapping[str, str] | None = None,
) -> None:  # fmt: skip
    """Build one command of a module."""
    subprocess.run(
        [go_command(), "build", f"-mod={mod}", *_GO_FLAGS, "-o", draft, package],
        check=True, cwd=source, timeout=BUILD_S, env={**os.environ, **(env or {})},
    )  # fmt: skip


def go_program(name: str, module: str, version: str, package: str = ".") -> Path:
    """The command `name` of a Go module, built when it is missing."""
    place = CACHE / f"{name}-{version}" / name
    return made(place, lambda draft: go_build(go_module(module, version), draft, package))


def python_with(name: str, *pip_arguments: str | Path) -> Path:
    """The Python of an environment of its own, CACHE/NAME, that has what pip was told to install.

    Only `bin/python` of it is to be used: the other commands name the place where it was made.
    """

    def install(draft: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", draft], check=True)
        command: Sequence[str | Path] = [
            draft / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "install",
            "--quiet", *pip_arguments,
        ]  # fmt: skip
        subprocess.run(command, check=True, timeout=BUILD_S)

    return made(CACHE / name, install) / "bin" / "python"
