"""Lets through what is new, and not too much of it: pure."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from p2pcache.net.discovery.found import Found, How

MAX_REMEMBERED = 4096


class Gate:
    """The same (peer, addresses) once in `again_s`; of each way at most `per_s`, after `burst`."""

    def __init__(self, *, again_s: float, per_s: float, burst: int) -> None:
        self._again_s = again_s
        self._per_s = per_s
        self._burst = burst
        self._passed: OrderedDict[Found, float] = OrderedDict()
        self._budget: dict[How, tuple[float, float]] = {}
        self.refused_count = 0

    def admit(self, found: Found, now: float) -> bool:
        """Whether to hand it on."""
        passed_at = self._passed.get(found)
        if passed_at is not None and now - passed_at < self._again_s:
            return False
        left, since = self._budget.get(found.how, (float(self._burst), now))
        left = min(float(self._burst), left + (now - since) * self._per_s)
        if left < 1:
            self._budget[found.how] = left, now
            self.refused_count += 1
            return False
        self._budget[found.how] = left - 1, now
        self._passed[found] = now
        self._passed.move_to_end(found)
        if len(self._passed) > MAX_REMEMBERED:
            self._passed.popitem(last=False)
        return True
