"""What members and we say of origins that told somebody to wait, for the time of one pull."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from p2pcache.lanes.faults import THROTTLING, host_of
from p2pcache.transfer import events as ev
from p2pcache.transfer.budgets import origin_key

if TYPE_CHECKING:
    from collections.abc import Callable

    from p2pcache.lanes.orders import Fault, Location

TOLD_AGAIN_S = 1.0  # a time that is so much later is told again


class ThrottleWords:
    """A member names a place; which origin of ours is there is known when it is first located.

    `tell`: says to the other members that a place told us to wait, and for how many seconds.
    """

    def __init__(self, tell: Callable[[bytes, float], None]) -> None:
        self._tell = tell
        self._heard: dict[str, tuple[bytes, float]] = {}  # by peer: which place, until when
        self._places: dict[str, bytes] = {}  # of origins
        self._told_until: dict[str, float] = {}  # of origins that told us to wait

    @property
    def was_warned(self) -> bool:
        """Whether a member said that some origin told it to wait."""
        return bool(self._heard)

    def heard(self, name: str, place: bytes, retry_after_s: float) -> None:
        """A member's word."""
        self._heard[name] = place, trio.current_time() + retry_after_s

    def forget(self, name: str) -> None:
        """A member left."""
        self._heard.pop(name, None)

    def asks(self, origin: str, location: Location) -> list[str]:
        """Where an origin of ours is asked. Returns the members whose words may be of use now."""
        host = host_of(location.url)
        key = origin_key(host)
        if not host or self._places.get(origin) == key:  # what a listing holds itself has no host
            return []
        self._places[origin] = key
        return list(self._heard)

    def words_of(self, name: str) -> list[ev.Event]:
        """What the machine is told of a member's word; nothing of one that left meanwhile."""
        if name not in self._heard:
            return []
        key, until = self._heard[name]
        left_s = until - trio.current_time()
        if left_s <= 0:
            return []
        return [ev.OriginWord(o, name, left_s) for o, place in self._places.items() if place == key]

    def refused(self, origin: str, fault: Fault) -> None:
        """An origin refused a request of ours: the others are told when it said for how long."""
        key, retry_after_s = self._places.get(origin), fault.retry_after_s
        if key is None or not retry_after_s or fault.http_status not in THROTTLING:
            return
        until = trio.current_time() + retry_after_s
        if until > self._told_until.get(origin, 0.0) + TOLD_AGAIN_S:
            self._told_until[origin] = until
            self._tell(key, retry_after_s)
