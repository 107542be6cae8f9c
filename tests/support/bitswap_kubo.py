"""A Kubo that speaks bitswap and the table of a local network with us, and blocks to trade."""

from __future__ import annotations

import json
import os
import urllib.parse
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import trio

from tests.support.kubo import ipfs_binary
from tests.support.kubo_daemon import kubo_daemon

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.kubo_daemon import KuboDaemon

ON_A_LAN = {
    "Routing": {
        "Type": "dhtserver", "LoopbackAddressesOnLanDHT": True, "DelegatedRouters": [],
    },
}  # fmt: skip
LIKE_OURS = ("--chunker=size-1048576", "--max-file-links=1024", "--raw-leaves", "--cid-version=1")


@dataclass(frozen=True)
class Trader:
    """A running Kubo. Every call has `timeout_s`."""

    daemon: KuboDaemon
    repo: Path

    @property
    def address(self) -> str:
        return f"{self.daemon.addresses[0]}/p2p/{self.daemon.peer}"

    async def call(self, path: str, *args: str, timeout_s: float = 60, **more: Any) -> bytes:
        """The body of the answer. Raises urllib's errors, with Kubo's words in them."""
        query = urllib.parse.urlencode([*(("arg", arg) for arg in args), *more.items()])
        url = f"http://{self.daemon.api}/api/v0/{path}?{query}"

        def ask() -> bytes:
            with urllib.request.urlopen(url, data=b"", timeout=timeout_s) as answer:
                return bytes(answer.read())

        return await trio.to_thread.run_sync(ask, abandon_on_cancel=True)

    async def lines(self, path: str, *args: str, **more: Any) -> list[Any]:
        """What it answers, a line each."""
        said = await self.call(path, *args, **more)
        return [json.loads(line) for line in said.splitlines()]

    async def connect(self, address: str) -> None:
        await self.call("swarm/connect", address)

    async def add(self, path: Path, *options: str) -> str:
        """The root of a file or folder."""
        return await self._run("add", "-Q", "-r", "-H", *options, str(path))

    async def put(self, path: Path) -> str:
        """The CID of a block, also of one that others would refuse."""
        return await self._run("block", "put", "--allow-big-block", "--cid-codec=raw", str(path))

    async def _run(self, *args: str) -> str:
        command = [str(ipfs_binary()), *args]
        env = {**os.environ, "IPFS_PATH": str(self.repo), "HOME": str(self.repo)}
        done = await trio.run_process(command, env=env, capture_stdout=True, capture_stderr=True)
        return done.stdout.decode().strip()


@contextmanager
def trading_kubo(repo: Path, swarm_key: bytes | None) -> Iterator[Trader]:
    """Ready, on loopback alone."""
    with kubo_daemon(repo, swarm_key, changes=ON_A_LAN) as daemon:
        yield Trader(daemon, repo)
