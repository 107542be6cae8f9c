"""Run a server that others wrote as a child process, and end it by its own process id."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

START_TIMEOUT_S = 60.0  # olah imports a web framework; two shared cores can make that slow
STOP_TIMEOUT_S = 5.0


def free_port() -> int:
    """A port of 127.0.0.1 that the OS says is free now; a caller retries when it was lost."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    """Whether something accepts connections on a port of 127.0.0.1."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def listens(pid: int, port: int) -> bool:
    """Whether anything listens on a port of the network namespace that a process lives in."""
    try:
        with open(f"/proc/{pid}/net/tcp") as table:
            rows = [line.split() for line in table.readlines()[1:]]
    except OSError:
        return False
    return any(row[1].endswith(f":{port:04X}") and row[3] == "0A" for row in rows)


@contextlib.contextmanager
def running(
    argv: Sequence[str],
    *,
    port: int,
    log: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    ready: Callable[[int], bool] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """The process, once its port answers. Its output goes to `log`; it is gone at the end.

    `ready` is asked with its pid instead, for one whose port cannot be reached from here.
    """
    with log.open("ab") as out:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=cwd,
            env=None if env is None else {**os.environ, **env},
        )  # fmt: skip
    try:
        is_ready = (lambda: answers(port)) if ready is None else (lambda: ready(process.pid))
        _wait_until(is_ready, process, log)
        yield process
    finally:
        stop(process)


def is_alive(pid: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process that we started: politely, then for certain."""
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait_until(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    give_up = time.monotonic() + START_TIMEOUT_S
    while not ready():
        if process.poll() is not None or time.monotonic() > give_up:
            said = log.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"{process.args!r} did not start (exit {process.poll()}):\n{said}")
        time.sleep(0.02)
