"""A wall clock that a test can set under a running agent (wallclock.c, preloaded).

libfaketime would do, but its clock_nanosleep makes time.sleep fail in Python 3.11.
"""

from __future__ import annotations

import os
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

_SOURCE = Path(__file__).with_suffix(".c")
_SECONDS = struct.Struct("@q")


@dataclass(frozen=True)
class WallClock:
    env: dict[str, str]
    file: Path

    def shift(self, seconds: int) -> None:
        """From now on the process sees the real time plus `seconds`."""
        with self.file.open("r+b", buffering=0) as out:
            out.write(_SECONDS.pack(seconds))


def wall_clock(folder: Path) -> WallClock:
    """What to add to the environment of the process, and the handle to its clock."""
    library, file = folder / "wallclock.so", folder / "wallclock"
    file.write_bytes(_SECONDS.pack(0))
    argv = ["cc", "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o", library, _SOURCE]
    subprocess.run(argv, check=True)
    env = {"LD_PRELOAD": os.fspath(library), "WALLCLOCK_FILE": os.fspath(file)}
    return WallClock(env, file)
