"""libtorrent as the benchmarks run it: a process for each node, started by one line to all."""

from __future__ import annotations

import subprocess
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from scripts.bench_support import environment

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).resolve().parent.parent
NODE = str(ROOT / "scripts" / "torrent_node.py")


def libtorrent_python() -> str | None:
    """The Python that has libtorrent, installed when it is missing; None where it cannot be."""
    done = subprocess.run(
        [ROOT / "scripts" / "setup", "--tool", "libtorrent"],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    return done.stdout.strip() if done.returncode == 0 else None


def make_torrent(python: str, file: Path, torrent: Path) -> None:
    """Write the torrent of a file."""
    command = [python, "-W", "ignore", NODE, "make", str(file), str(torrent)]
    subprocess.run(command, check=True, env=environment())


class TorrentNode:
    """One process. `port`: where it listens."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.port = int(self._line())

    def start(self) -> None:
        """Begin to fetch or to seed."""
        self._in.write("\n")
        self._in.flush()

    def seconds(self) -> float:
        """Wait until it has everything: how long that took."""
        return float(self._line())

    @property
    def _in(self) -> IO[str]:
        assert self._process.stdin is not None
        return self._process.stdin

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("libtorrent ended by itself")
        return line

    def end(self) -> None:
        """Have it end, and wait for that."""
        self._in.close()
        self._process.wait(30)


@contextmanager
def torrent_node(
    python: str, torrent: Path, folder: Path, host: str, peers: Sequence[str],
    prefix: Sequence[str] = (),
) -> Iterator[TorrentNode]:  # fmt: skip
    """Ready, and not started. It seeds where `folder` has the file."""
    folder.mkdir(exist_ok=True)
    process = subprocess.Popen(
        [*prefix, python, "-W", "ignore", NODE, "run", str(torrent), str(folder), host, *peers],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip
    with ExitStack() as stack:
        stack.callback(process.kill)
        node = TorrentNode(process)
        yield node
        node.end()
