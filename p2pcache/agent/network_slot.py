"""The place of the agent's network: none until `init` or `join` left a key in the home, then one,
and another when the key changes. One that does not open, or that ends, is tried again: a port may
be taken for a moment, a disk full.
"""

from __future__ import annotations

import logging
import math
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

FIRST_PAUSE_S, LAST_PAUSE_S = 1.0, 60.0  # before the next try; doubled while it does not open
GOOD_LIFE_S = 60.0  # of a network that ended: then its trouble counts as the first again
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
        self._pause_s = FIRST_PAUSE_S
        self._next_try_at: float | None = None
        self._opened_at = math.inf

    @property
    def wanted(self) -> bool:
        """Whether there should be one."""
        return self.settings.enabled and self.files.network.exists()

    def own_id(self) -> bytes:
        """Our peer id, also while no network is open; empty while there is none, or none that can
        be read.
        """
        from p2pcache.net.identity import load_identity

        if not self.files.identity.exists():
            return b""
        try:
            return load_identity(self.files.identity).peer_id
        except LocalFault:
            return b""  # the network says what is wrong with it

    @property
    def open_for_s(self) -> float:
        """For how long there has been one now; of a young one not all members are met yet."""
        return trio.current_time() - self._opened_at

    async def run(self) -> None:
        """Open the network whenever there is a key for one; until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._tell_removed)
                await self._keep_open()
        finally:  # nobody is handed a network that has closed
            self._opening = False
            self._set(None)

    async def _keep_open(self) -> None:
        while True:
            self._again = again = trio.Event()
            if self.wanted:
                self._opening = True
                await self._one(again)
                self._opening = False
            else:
                self.trouble = self.hint = None
            self._set(None)
            await self._wait_next(again)

    async def _wait_next(self, again: trio.Event) -> None:
        """Until somebody wants it opened, or it is time for the next try."""
        pause_s = math.inf
        if self.trouble is not None:
            pause_s, self._pause_s = self._pause_s, min(2 * self._pause_s, LAST_PAUSE_S)
            self._next_try_at = trio.current_time() + pause_s
        with trio.move_on_after(pause_s):
            await again.wait()
            self._pause_s = FIRST_PAUSE_S
        self._next_try_at = None

    def why_off(self) -> str:
        """Why there is none now, for people, and when it is tried again."""
        if not self.settings.enabled:
            return "switched off by `network.enabled`"
        if self.trouble is None:
            return "it is being opened"
        if self._next_try_at is None:
            return f"{self.trouble}; it is being tried again"
        wait_s = math.ceil(max(0.0, self._next_try_at - trio.current_time()))
        return f"{self.trouble}; it is tried again in {wait_s} s"

    async def _one(self, again: trio.Event) -> None:
        self._opened_at = math.inf
        try:
            async with self._open(
                self.files.home, self.settings, self._store, self._now, self.files.home / "run"
            ) as opened:
                self.trouble = self.hint = None
                self._opened_at = trio.current_time()
                self._set(opened)
                await again.wait()
        except P2PCacheError as exc:
            self._failed(exc, again)
        except Exception as exc:  # noqa: BLE001 - the border: the agent serves this machine on
            self._failed(bug(exc, _log), again)
        if self.open_for_s > GOOD_LIFE_S:
            self._pause_s = FIRST_PAUSE_S

    def _failed(self, exc: P2PCacheError, again: trio.Event) -> None:
        if again.is_set():
            return  # what is wanted now was not tried yet
        level = logging.DEBUG if exc.message == self.trouble else logging.ERROR
        _log.log(level, "the network is off: %s", exc.message)
        self.trouble, self.hint = exc.message, exc.hint

    def _set(self, opened: AgentNetwork | None) -> None:
        self.current = opened
        self._changed.set()
        self._changed = trio.Event()

    async def _tell_removed(self) -> None:
        """Tell the network of blobs that leave the store: all that went since the last look at
        once, as each look goes through the whole index.
        """
        token, names, more = trio.lowlevel.current_trio_token(), list[bytes](), trio.Event()

        def note(removed: list[bytes]) -> None:
            names.extend(removed)
            more.set()

        self._store.watch_removed(lambda removed: token.run_sync_soon(note, removed))
        while True:
            await more.wait()
            more, told = trio.Event(), names.copy()
            names.clear()
            try:
                complete = await trio.to_thread.run_sync(self._store.complete_manifests)
            except LocalFault as exc:  # an index that cannot be read now: blobs are told alone
                _log.warning("cannot look which manifests are complete: %s", exc.message)
                complete = None
            if self.current is not None:
                mine = self.current.network.possessed() if complete is not None else []
                gone = [cid for cid in mine if cid not in (complete or ())]
                self.current.removed(told, gone)

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
        """The network, once it is open; None when there is none, it did not open at the last try
        (`trouble`, known at once), or it takes longer.
        """
        if not self.wanted:
            return None
        if not self._opening and self.trouble is None:  # a key that nobody told us of
            self._again.set()
        with trio.move_on_after(timeout_s):
            while self.current is None and self.trouble is None:
                await self._changed.wait()
        return self.current
