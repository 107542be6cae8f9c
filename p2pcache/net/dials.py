"""Dials whom the mesh names, and remembers why it came to nothing."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from p2pcache import errors
from p2pcache.content.peerid import PeerId, format_peer_id
from p2pcache.errors import Denied, P2PCacheError, Untrusted
from p2pcache.net.sync.wire import PROTOCOL

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from p2pcache.net.mesh import Mesh, MeshOptions
    from p2pcache.net.port import Host, Stream

_log = logging.getLogger(__name__)

MAX_FAILURES = 64  # remembered for `doctor`
_PAUSE_S = 0.001  # however it is woken, it is no busy loop


class Dials:
    """Dials for one agent. `talk` has the stream from then on, and returns when the link is over.

    `look` is called each time before it waits, after whatever may have changed.
    """

    def __init__(
        self,
        host: Host,
        mesh: Mesh,
        options: MeshOptions,
        *,
        is_banned: Callable[[PeerId], bool],
        talk: Callable[[Stream], Awaitable[None]],
        look: Callable[[], None],
    ) -> None:
        self.failures: dict[PeerId, P2PCacheError] = {}  # of the last dials, oldest first
        self._host = host
        self._mesh = mesh
        self._options = options
        self._is_banned = is_banned
        self._talk = talk
        self._look = look
        self._wake = trio.Event()
        self._stopped = False

    def stop(self) -> None:
        """No more dials; those under way end by themselves."""
        self._stopped = True

    def wake(self) -> None:
        """Something changed: a contact, a link, or a place is free."""
        self._wake.set()

    async def run(self, nursery: trio.Nursery) -> None:
        """Dial in tasks of `nursery`, until stopped or cancelled."""
        while not self._stopped:
            self._wake = trio.Event()
            now = trio.current_time()
            for peer, addresses in self._mesh.due(now):
                nursery.start_soon(self._dial, peer, addresses)
            self._look()
            at = self._mesh.next_at(now)
            with trio.move_on_at(float("inf") if at is None else at):
                await self._wake.wait()
            await trio.sleep(_PAUSE_S)

    async def _dial(self, peer: PeerId, addresses: Sequence[str]) -> None:
        try:
            stream = await self._reach(peer, addresses)
            if stream is not None:
                await self._talk(stream)
                self._mesh.dial_ended(peer)
        finally:
            self.wake()

    async def _reach(self, peer: PeerId, addresses: Sequence[str]) -> Stream | None:
        options, now = self._options, trio.current_time
        try:
            if self._is_banned(peer):
                self._mesh.failed(peer, now(), for_long=True)
                return None
            await self._host.connect(peer, addresses, timeout_s=options.connect_s)
            stream = await self._host.open_stream(peer, PROTOCOL, timeout_s=options.open_s)
            self.failures.pop(peer, None)
            return stream
        except P2PCacheError as exc:
            _log.debug("dial of %s: %s", format_peer_id(peer), exc.message)
            self._remember(peer, exc)
            self._mesh.failed(peer, now(), for_long=isinstance(exc, Denied | Untrusted))
        except Exception as exc:  # noqa: BLE001  # a bug of a dial ends that dial, not the agent
            errors.bug(exc, _log)
            self._mesh.failed(peer, now(), for_long=True)
        return None

    def _remember(self, peer: PeerId, exc: P2PCacheError) -> None:
        self.failures.pop(peer, None)
        self.failures[peer] = exc
        while len(self.failures) > MAX_FAILURES:
            del self.failures[next(iter(self.failures))]
