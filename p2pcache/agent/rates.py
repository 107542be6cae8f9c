"""Keeps the agent's rates to its settings, as the hour changes."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import trio

from p2pcache.errors import LocalFault
from p2pcache.transfer.timetable import Rates, minute_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from p2pcache.agent.network_slot import NetworkSlot
    from p2pcache.config.limits import LimitSettings
    from p2pcache.transfer.byte_server import ByteServer
    from p2pcache.transfer.link import Link

_log = logging.getLogger(__name__)

LOOK_S = 1.0  # a clock that is set counts as soon


class HourlyRates:
    """Of one agent. `now`: unix seconds. `most_up`: what lanes keep to besides."""

    def __init__(
        self,
        settings: LimitSettings,
        most_up: float | None,
        downlink: Link,
        uplink: Link,
        slot: NetworkSlot,
        now: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._most_up = most_up
        self._downlink = downlink
        self._uplink = uplink
        self._slot = slot
        self._now = now
        self.rates = self._due()
        self._divide()
        self._told: tuple[ByteServer, float | None] | None = None

    async def run(self) -> None:
        """Until cancelled."""
        while self._settings.night:
            self.rates = self._due()
            self._divide()
            await self._tell_lanes()
            await trio.sleep(LOOK_S)

    def _divide(self) -> None:
        self._downlink.set(self.rates.down)
        self._uplink.set(self.rates.up)

    def _due(self) -> Rates:
        rates = self._settings.at(minute_of(self._now()))
        ups = [up for up in (rates.up, self._most_up) if up is not None]
        return Rates(min(ups, default=None), rates.down)

    async def _tell_lanes(self) -> None:
        opened = self._slot.current
        if opened is None or self._told == (opened.server, self.rates.up):
            return
        try:
            await opened.server.limit_up(self.rates.up)
        except LocalFault as exc:  # it is being started again; then it is told once more
            _log.warning("the byte server was not told its rate: %s", exc.message)
            return
        self._told = opened.server, self.rates.up

    def status(self) -> dict[str, Any]:
        """What holds now."""
        return {
            "up_bytes_per_s": self.rates.up,
            "down_bytes_per_s": self.rates.down,
            "by_the_hour": bool(self._settings.night),
        }
