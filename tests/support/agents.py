"""A real agent in a process of its own, with a home of its own, for as long as a test needs it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2pcache.agent.localapi.client import Client
from p2pcache.config import socket_path
from tests.support.proctable import descendants

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

REPO = Path(__file__).resolve().parents[2]
START_S = STOP_S = 60.0  # several do so at once, on a machine that may have other work


@dataclass
class Agent:
    """`kill` is SIGKILL; `stop` is what systemd does. Workers of a killed one end by themselves."""

    home: Path
    env: dict[str, str]
    log: Path
    module: str = "p2pcache.agent"
    process: subprocess.Popen[bytes] | None = None
    prefix: tuple[str, ...] = ()  # runs it somewhere else: `namespaces.Lan.prefix`
    argv: tuple[str, ...] = ()
    ended: bool = False  # by the test, which is the only one that may
    stopping: bool = False  # it was told so; told twice, it does not wait for its clients
    hub_cache: Path = field(init=False)

    def __post_init__(self) -> None:
        self.hub_cache = Path(self.env["HF_HOME"]) / "hub"

    def start(self) -> Agent:
        self.launch()
        return self.wait_ready()

    def launch(self) -> None:
        """Start its process, and do not wait for it."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.prefix, sys.executable, "-m", self.module, *self.argv],
                cwd=REPO, env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        self.ended = self.stopping = False

    def wait_ready(self) -> Agent:
        """Until it answers."""
        assert self.process is not None
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()
            with contextlib.suppress(Exception), self.client() as client:
                client.status()
                return self
            time.sleep(0.02)
        raise AssertionError(f"no agent after {START_S} s: {self.log.read_text()}")

    def client(self) -> Client:
        return Client(self.home)

    def get(self, ref: str, **options: Any) -> dict[str, Any]:
        with self.client() as client:
            return dict(client.get(ref, **options))

    def why(self, ref: str = "last") -> dict[str, Any]:
        with self.client() as client:
            return dict(client.why(ref))

    def kill(self) -> None:
        assert self.process is not None
        self.ended = True
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        self.tell_to_stop()
        assert self.process is not None
        return self.process.wait(STOP_S)

    def tell_to_stop(self) -> None:
        """What `stop` begins with. One that ended by itself is left as it is."""
        if self.process is not None and self.process.poll() is None and not self.stopping:
            self.ended = self.stopping = True
            self.process.send_signal(signal.SIGTERM)

    def end(self) -> None:
        """Stop it, if it runs. Raises AssertionError with its log if it ended by itself, or if it
        logged a bug, which would else go by unseen.
        """
        if self.process is not None and self.process.poll() is None:
            try:
                self.stop()
            except subprocess.TimeoutExpired:
                self.kill()
                raise
        elif self.process is not None and not self.ended:
            status = self.process.returncode
            raise AssertionError(f"an agent ended with {status}: {self.log.read_text()[-8000:]}")
        said = self.log.read_text(errors="replace")
        assert "a bug: please report this" not in said, said[-8000:]


def agent_env(home: Path, **more: str) -> dict[str, str]:
    """An environment with nothing of the machine's user in it."""
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(home / "user"),
        "HF_HOME": str(home / "hf"),
        "P2PCACHE_HOME": str(home / "p2pcache"),
        "P2PCACHE_STORE_RESERVE": "1 MiB",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONWARNINGS": "error",
    }
    (home / "user").mkdir(parents=True, exist_ok=True)
    return env | more


def made_agent(
    folder: Path,
    *,
    settings: Mapping[str, str] | None = None,
    prefix: tuple[str, ...] = (),
    module: str = "p2pcache.agent",
    argv: tuple[str, ...] = (),
    **env: str,
) -> Agent:
    """An agent with its home below `folder`, not started. `settings`: {"fetch.patience": "1s"}."""
    variables = {
        "P2PCACHE_" + key.upper().replace(".", "_"): value
        for key, value in (settings or {}).items()
    }
    environment = agent_env(folder, **variables, **env)
    home = Path(environment["P2PCACHE_HOME"])
    home.mkdir(parents=True, exist_ok=True)
    assert len(os.fsencode(socket_path(home))) <= 107
    return Agent(home, environment, folder / "agent.log", module, prefix=prefix, argv=argv)


@contextlib.contextmanager
def running_agent(folder: Path, **options: Any) -> Iterator[Agent]:
    """A `made_agent` that runs."""
    with running_agents([made_agent(folder, **options)]) as (agent,):
        yield agent


@contextlib.contextmanager
def running_agents(agents: Sequence[Agent]) -> Iterator[Sequence[Agent]]:
    """They start together and end together: each alone takes seconds, most of them waiting."""
    with contextlib.ExitStack() as stack:
        for agent in agents:
            agent.launch()
            stack.callback(agent.end)
        stack.callback(_tell_to_stop, agents)
        for agent in agents:
            agent.wait_ready()
        yield agents


def _tell_to_stop(agents: Sequence[Agent]) -> None:
    for agent in agents:
        agent.tell_to_stop()


def no_traceback(agent: Agent) -> None:
    """Whatever happened to it, it said so in a line."""
    assert "Traceback" not in agent.log.read_text()


@contextlib.contextmanager
def frozen(agent: Agent) -> Iterator[None]:
    """An agent and everything it started stand still."""
    assert agent.process is not None
    pids = [agent.process.pid, *(one.pid for one in descendants(agent.process.pid))]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def assert_nowhere(agent: Agent, secrets: list[str]) -> None:
    """None of the secrets is in any file of the agent, nor in what it said."""
    files = [path for path in (*agent.home.rglob("*"), agent.log) if path.is_file()]
    assert any(path.name == "index.sqlite" for path in files)
    for path in files:
        data = path.read_bytes()
        for secret in secrets:
            assert secret.encode() not in data, f"{secret[:20]} is in {path}"
