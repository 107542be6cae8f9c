"""The agent as a process: starts, says that it is ready, drains on SIGTERM.

Foreground only; systemd (Type=notify) or a container runtime keeps it. An embedded agent serves
one command: it ends when its standard input is closed and no other client is connected.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING

import trio

from p2pcache.agent.localapi.embedded import STAYS, WARNING
from p2pcache.agent.localapi.server import serve
from p2pcache.agent.service import Service
from p2pcache.agent.wiring import open_agent
from p2pcache.errors import plain_errors

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from p2pcache.agent.localapi.server import Clients
    from p2pcache.config.settings import Config

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
OWN_CLIENT_S = 0.2  # for the connection of who started us: it may be seen closing after its pipe
DRAIN_S = 5.0  # after SIGTERM, for clients to take their answers; systemd waits 90


def notify(message: str) -> None:
    """Tell systemd (sd_notify(3)); nothing happens without NOTIFY_SOCKET."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    target = "\0" + address[1:] if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        try:
            sock.sendto(message.encode(), target)
        except OSError as exc:
            print_err(f"warning: systemd was not told `{message}`: {exc}")


def print_err(text: str) -> None:
    """One line for the journal."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def run(
    config: Config,
    socket_path: Path,
    hub_cache: Path | None,
    ollama_models: Path | None = None,
    *,
    embedded: bool,
) -> None:
    """Run an agent until it is told to stop. Raises one of our errors when it cannot start."""
    with plain_errors():
        trio.run(_main, config, socket_path, hub_cache, ollama_models, embedded)


async def _main(
    config: Config,
    socket_path: Path,
    hub_cache: Path | None,
    ollama_models: Path | None,
    embedded: bool,
) -> None:
    # It is the outermost: a second Ctrl-C must not break into the cleaning up. At its end it puts
    # back what it found, and then we are all but gone.
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    with trio.open_signal_receiver(*STOP_SIGNALS) as signals:
        await _serve(config, socket_path, hub_cache, ollama_models, embedded, signals)


async def _serve(
    config: Config,
    socket_path: Path,
    hub_cache: Path | None,
    ollama_models: Path | None,
    embedded: bool,
    signals: AsyncIterator[int],
) -> None:
    async with (
        open_agent(config, hub_cache, ollama_models) as agent,
        trio.open_nursery() as nursery,
    ):
        if agent.store.index_lost is not None:
            print_err(f"{WARNING}{agent.store.index_lost}; see `p2pcache doctor`")
        for name in config.unknown:
            print_err(f"{WARNING}`{name}` is no setting and does nothing; see `p2pcache config`")
        service = Service(agent)
        clients = await nursery.start(serve, socket_path, service)
        service.count_clients = lambda: clients.connected
        draining = trio.CancelScope()
        nursery.start_soon(_stop_on_signal, signals, service.stopping, draining)
        if embedded:
            nursery.start_soon(_stop_when_unused, clients, service.stopping)
        else:
            print_err(f"p2pcache agent ready: {socket_path} (home {config.home})")
        notify("READY=1")
        await service.stopping.wait()
        notify("STOPPING=1")
        agent.pulls.stop()
        agent.preloads.stop()
        draining.deadline = trio.current_time() + DRAIN_S
        with draining:
            await agent.pulls.wait_none()
            agent.context.traces.close()
            await clients.wait_answered()
        nursery.cancel_scope.cancel()


async def _stop_on_signal(
    signals: AsyncIterator[int], stopping: trio.Event, draining: trio.CancelScope
) -> None:
    """The first asks us to finish; who asks again does not want to wait for the clients."""
    async for _ in signals:
        if stopping.is_set():
            draining.cancel()
        stopping.set()


async def _stop_when_unused(clients: Clients, stopping: trio.Event) -> None:
    """The command that started us closes our standard input when it is done, and waits for our
    end unless we say that we stay.
    """
    async with trio.lowlevel.FdStream(os.dup(0)) as owner:
        while await owner.receive_some(4096):
            pass
    with trio.move_on_after(OWN_CLIENT_S):
        await clients.wait_none()
    if clients.connected:
        with contextlib.suppress(OSError):  # it is gone already
            os.write(1, STAYS)
    await clients.wait_none()
    stopping.set()
