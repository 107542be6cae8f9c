"""A queue that keeps only the newest event for each key, so that a slow reader costs no memory."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

E = TypeVar("E")


class Latest(trio.abc.ReceiveChannel[E], Generic[E]):
    """Written with `put`, read like any trio receive channel; bounded by the number of keys.

    An event takes the place in the queue of the unread one that it replaces.
    """

    def __init__(self) -> None:
        self._events: OrderedDict[Hashable, E] = OrderedDict()  # a dict pops its first in O(n)
        self._closed = False
        self._readers = trio.lowlevel.ParkingLot()

    def put(self, key: Hashable, event: E) -> None:
        """Replace what is unread under this key."""
        if not self._closed:
            self._events[key] = event
            self._readers.unpark()

    def forget(self, which: Callable[[E], bool]) -> None:
        """Drop unread events that no longer mean anything."""
        for key in [key for key, event in self._events.items() if which(event)]:
            del self._events[key]

    def end(self) -> None:
        """Nothing will follow: readers get what is unread, then trio.EndOfChannel."""
        self._closed = True
        self._readers.unpark_all()

    def receive_nowait(self) -> E:
        """Raises trio.WouldBlock, trio.EndOfChannel."""
        if self._events:
            return self._events.popitem(last=False)[1]
        raise trio.EndOfChannel if self._closed else trio.WouldBlock

    async def receive(self) -> E:
        """The next event. If cancelled, none is lost."""
        await trio.lowlevel.checkpoint()
        while not self._events and not self._closed:
            await self._readers.park()
        return self.receive_nowait()

    async def aclose(self) -> None:
        """See `end`."""
        self._events.clear()
        self.end()
        await trio.lowlevel.checkpoint()
