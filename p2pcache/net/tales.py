"""Tells the linked members of each other: who came, soon; and everybody now and then."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from p2pcache.net.sync.wire import MAX_PEERS, Contact, Peers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from p2pcache.content.peerid import PeerId
    from p2pcache.net.mesh import Mesh, MeshOptions
    from p2pcache.net.sync.driver import Link


class Tales:
    """What one agent tells of its members. Never more than its listeners hear: `Mesh.hears`."""

    def __init__(
        self, mesh: Mesh, options: MeshOptions, links: Callable[[], Iterable[Link]]
    ) -> None:
        self._mesh = mesh
        self._options = options
        self._links = links
        self._untold: dict[PeerId, None] = {}
        self._untold_some = trio.Event()

    def came(self, link: Link) -> None:
        """A member has a link: it is told of the others, and they of it."""
        link.tell(Peers(tuple(self._mesh.contacts(but=link.peer))))
        self._untold[link.peer] = None
        self._untold_some.set()

    def left(self, peer: PeerId) -> None:
        """It is not told any more."""
        self._untold.pop(peer, None)

    async def run(self, nursery: trio.Nursery) -> None:
        """Tell, in tasks of `nursery`, until cancelled."""
        nursery.start_soon(self._tell)
        nursery.start_soon(self._retell)

    async def _tell(self) -> None:
        """Newcomers are told to all the others, many at a time."""
        while True:
            await self._untold_some.wait()
            await trio.sleep(self._options.tell_s)
            peers = list(self._untold)[:MAX_PEERS]
            for peer in peers:
                del self._untold[peer]
            if not self._untold:
                self._untold_some = trio.Event()
            self._spread(tuple(self._mesh.contact(peer) for peer in peers))
            await trio.sleep(self._options.tell_every_s)

    async def _retell(self) -> None:
        """Now and then everything is told again, so that what was missed heals."""
        while True:
            await trio.sleep(self._options.retell_s)
            self._spread(tuple(self._mesh.contacts()))

    def _spread(self, contacts: tuple[Contact, ...]) -> None:
        for link in list(self._links()):
            some = tuple(one for one in contacts if one.peer != link.peer)[:MAX_PEERS]
            if some:
                link.tell(Peers(some))
