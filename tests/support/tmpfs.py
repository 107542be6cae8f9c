"""A small real file system for a test to fill, to shrink and to make read-only (root only)."""

from __future__ import annotations

import contextlib
import os
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILL_STEP = 1 << 16


@dataclass(frozen=True)
class Tmpfs:
    path: Path

    def remount(self, options: str) -> None:
        """`size=64m`, `ro`, `rw`: as mount(8) takes them."""
        _run("mount", "-o", f"remount,{options}", str(self.path))

    def free_bytes(self) -> int:
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize

    def fill(self) -> Path:
        """Take every byte that is left, as another program would; gives the file to delete."""
        filler = self.path / "somebody-elses.log"
        with filler.open("ab", buffering=0) as out, contextlib.suppress(OSError):
            while out.write(b"x" * FILL_STEP):
                pass
        return filler


@contextlib.contextmanager
def tmpfs(path: Path, size_bytes: int) -> Iterator[Tmpfs]:
    """A tmpfs at `path` until the block ends."""
    if os.geteuid() != 0:
        raise RuntimeError("only root can mount a file system: run this test as root")
    path.mkdir(parents=True, exist_ok=True)
    _run("mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=0700", "p2pcache-test", str(path))
    try:
        yield Tmpfs(path)
    finally:
        _run("umount", "--lazy", str(path))


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True)
