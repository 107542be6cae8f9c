"""The place of the agent's network: none until `init` or `join` left a key in the home, then one,
and another when the key changes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from p2pcache.agent.network import AgentNetwork
from p2pcache.agent.network_files import Files
from p2pcache.agent.network_open import open_agent_network
from p2pcache.errors import LocalFault, P2PCacheError, bug

if TYPE_CHECKING:
    from p2pcache.config.network import NetworkSettings
    from p2pcache.store.store import Store

_log = logging.getLogger(__name__)

READY_S = 60.0  # to open the network: 1 s, but a busy machine imports libp2p for ten times that

Opener = Callable[
    [Path, "NetworkSettings", "Store", Callable[[], float], Path],
    AbstractAsyncContextManager[AgentNetwork],
]


class NetworkSlot:
    """The agent's network, if there is one now. `run` keeps it; who waits for it is woken when it
    is open or cannot be. `open_`: as `open_agent_network`.
    """

    def __init__(
        self,
        home: Path,
        settings: NetworkSettings,
        store: Store,
        now: Callable[[], float],
        open_: Opener | None = None,
    ) -> None:
        self.files = Files(home)
        self._open = open_ or open_agent_network
        self.current: AgentNetwork | None = None
        self.trouble: str | None = None  # why there is none although there should be
        self.hint: str | None = None  # what to do about the trouble
        self.settings = settings
        self._store = store
        self._now = now
        self._changed = trio.Event()
        self._again = trio.Event()
        self._opening = False

    @property
    def wanted(self) -> bool:
        """Whether there should be one."""
        return self.settings.enabled and self.files.network.exists()

    async def run(self) -> None:
        """Open the network whenever there is a key for one; until cancelled."""
        token = trio.lowlevel.current_trio_token()

        def removed(names: list[bytes]) -> None:
            token.run_sync_soon(self._removed, names)

        self._store.watch_removed(removed)
        while True:
            self._again = trio.Event()
            if self.wanted:
                self._opening = True
                await self._one(self._again)
                self._opening = False
            self._set(None)
            await self._again.wait()

    async def _one(self, again: trio.Event) -> None:
        try:
            async with self._open(
                self.files.home, self.settings, self._store, self._now, self.files.home / "run"
            ) as opened:
                self.trouble = self.hint = None
                self._set(opened)
                await again.wait()
        except P2PCacheError as exc:
            self.trouble, self.hint = exc.message, exc.hint
            _log.error("the network is off: %s", exc.message)
        except Exception as exc:  # noqa: BLE001 - the border: the agent serves this machine on
            ours = bug(exc, _log)
            self.trouble, self.hint = ours.message, ours.hint

    def _set(self, opened: AgentNetwork | None) -> None:
        self.current = opened
        self._changed.set()
        self._changed = trio.Event()

    def _removed(self, names: list[bytes]) -> None:
        if self.current is None:
            return
        complete = self._store.complete_manifests()
        gone = [cid for cid in self.current.network.possessed() if cid not in complete]
        self.current.removed(names, gone)

    async def restart(self) -> AgentNetwork:
        """Open the network anew after a key came. Raises LocalFault when it does not open."""
        old, self.trouble, self.hint = self.current, None, None
        self._again.set()
        with trio.move_on_after(READY_S):
            while self.current in (None, old) and self.trouble is None:
                await self._changed.wait()
        if self.current is None or self.current is old:
            why = self.trouble or "it takes too long"
            raise LocalFault(f"the network does not open: {why}", hint=self.hint)
        return self.current

    async def wait_any(self) -> AgentNetwork:
        """The network as soon as there is one, perhaps never."""
        while self.current is None:
            await self._changed.wait()
        return self.current

    async def wait_closed(self, opened: AgentNetwork) -> None:
        """Until this is no longer the network."""
        while self.current is opened:
            await self._changed.wait()

    async def wait_open(self, timeout_s: float) -> AgentNetwork | None:
        """The network, once it is open; None when there is none, it cannot be opened (`trouble`,
        known at once), or it takes longer.
        """
        if not self.wanted:
            return None
        if not self._opening and self.trouble is None:  # a key that nobody told us of
            self._again.set()
        with trio.move_on_after(timeout_s):
            while self.current is None and self.trouble is None:
                await self._changed.wait()
        return self.current
