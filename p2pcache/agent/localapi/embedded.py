"""Run an agent for as long as this process needs one.

The agent is a child whose standard input is a pipe from here: when it closes, for whatever reason,
the agent exits, or says on its standard output that others use it, and exits after them.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from p2pcache.agent.localapi.home_lock import elsewhere
from p2pcache.agent.localapi.listener import is_listening
from p2pcache.errors import DiskFull, LocalFault, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

START_S = 30.0  # a cold disk and a store to look through; a warm start takes 1 s
MIN_FREE_BYTES = 64 << 10  # an agent's index and log want more than this to begin with
SLOW_S = 2.0  # from then on the user wants to know what is waited for
POLL_S = 0.01
LEAVE_S = 10.0  # for an agent that nobody uses to end: what it drains and cuts is bounded below it
STAYS = b"p2pcache: others use this agent\n"  # what it says on its standard output when it stays on
MAX_LOG_TAIL_CHARS = 2000
WARNING = "warning: "  # how a line begins that whoever starts an agent should see


def agent_command(*, embedded: bool, limit_up: int | None = None) -> tuple[str, ...]:
    """How to start an agent. `-P`: the folder that the user happens to be in is not searched.

    `limit_up`: bytes/s that all other agents together get from it, whatever its settings say.
    """
    command = (sys.executable, "-P", "-m", "p2pcache.agent")
    limit = () if limit_up is None else ("--limit-up", str(limit_up))
    return (*command, "--embedded", *limit) if embedded else (*command, *limit)


def agent_environment(home: Path | None = None) -> dict[str, str]:
    """This process's environment, in which the same p2pcache as this one is found."""
    package_parent = str(Path(__file__).parents[3])
    paths = [package_parent, os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    return environment if home is None else {**environment, "P2PCACHE_HOME": str(home)}


_left_running: list[subprocess.Popen[bytes]] = []  # still used by others; reaped at the next start


class EmbeddedAgent:
    """An agent process that this one started. `close` lets it go."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether its process is gone."""
        return self._process.poll() is not None

    def close(self) -> None:
        """Close the pipe and wait until the agent has ended (`LEAVE_S` at most), or says that it
        stays for others: a file system that it used can be unmounted then. Never raises.
        """
        process = self._process
        give_up = time.monotonic() + LEAVE_S
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(OSError):
            process.stdin.close()
        with process.stdout as said:
            if _ends(said.fileno(), give_up):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, give_up - time.monotonic()))
        if process.poll() is None:
            _left_running.append(process)


def _ends(fileno: int, give_up: float) -> bool:
    """Whether an agent's output came to its end; False: it stays, or it is too slow."""
    poll = select.poll()
    poll.register(fileno, select.POLLIN)
    said = b""
    while poll.poll(max(0.0, give_up - time.monotonic()) * 1000):
        more = os.read(fileno, 4096)
        if not more:
            return True
        said = (said + more)[-4096:]
        if STAYS in said:
            return False
    return False


def start_agent(
    home: Path, socket_path: Path, command: Sequence[str] | None = None,
    *, on_slow: Callable[[], None] = lambda: None,
) -> EmbeddedAgent | None:  # fmt: skip
    """Start an agent for `home` and wait until it listens; `on_slow` is called after `SLOW_S`.

    None when another process started one at the same moment: use that. Raises LocalFault with the
    end of its log when it does not come up.
    """
    _left_running[:] = [process for process in _left_running if process.poll() is None]
    log = home / "embedded-agent.log"
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        with log.open("wb") as log_file:
            process = subprocess.Popen(
                command or agent_command(embedded=True),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log_file,
                env=agent_environment(home),
                start_new_session=True,  # a Ctrl-C is for us; we then tell the agent
            )
    except OSError as exc:
        raise LocalFault(
            f"cannot start an agent in {home}: {exc.strerror or exc}",
            hint="set P2PCACHE_HOME to a folder that this user can write to",
        ) from exc
    agent = EmbeddedAgent(process)
    try:
        if not _wait_listening(process, home, socket_path, log, on_slow):
            return None
        for line in log.read_text("utf-8", "replace").splitlines():
            if line.startswith(WARNING):
                warnings.warn(line.removeprefix(WARNING), stacklevel=4)
        return agent
    except BaseException:
        agent.close()
        raise


def _is_full(home: Path) -> bool:
    try:
        disk = os.statvfs(home)
    except OSError:
        return False
    return disk.f_bavail * disk.f_frsize < MIN_FREE_BYTES


def _wait_listening(
    process: subprocess.Popen[bytes], home: Path, socket_path: Path, log: Path,
    on_slow: Callable[[], None],
) -> bool:  # fmt: skip
    """True: it listens. False: it left because another agent does."""
    deadline = time.monotonic() + START_S
    slow_at = deadline - START_S + SLOW_S
    while time.monotonic() < deadline:
        exited = process.poll() is not None
        if is_listening(socket_path):
            return not exited
        if exited:
            if elsewhere(home, socket_path) is not None:
                return False
            break
        if time.monotonic() >= slow_at:
            slow_at = deadline
            on_slow()
        time.sleep(POLL_S)
    tail = log.read_text("utf-8", "replace")[-MAX_LOG_TAIL_CHARS:].strip()
    if process.poll() == UsageError.exit_code:  # a setting; the agent has said which
        message, _, hint = tail.removeprefix("error: ").partition("\nhint: ")
        raise UsageError(message, hint=hint or f"its log: {log}")
    if not tail and _is_full(home):  # not even its log could be written
        raise DiskFull(f"the agent cannot run: no space is left in {home}", hint="free some space")
    what = "ended" if process.poll() is not None else f"was not ready after {START_S:g} s"
    raise LocalFault(f"the agent {what}" + (f"\n{tail}" if tail else ""), hint=f"its log: {log}")
