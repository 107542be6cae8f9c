"""One of the agent's limits, of downloads or of pushes, divided among the requests that run.

Each gets the same part, anew whenever one begins or ends, or the limit changes: workers read theirs
while they move bytes (lanes/throttle). Local files use no link. For the trio thread.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from p2pcache.lanes.inline import is_inline

if TYPE_CHECKING:
    from collections.abc import Iterator

    from p2pcache.lanes.orders import FetchLimits
    from p2pcache.lanes.throttle import Throttle


class Link:
    """`throttle` None: this agent never has a limit, and nothing is divided."""

    def __init__(self, throttle: Throttle | None = None) -> None:
        self._throttle = throttle
        self._bytes_per_s: float | None = None
        self._running = 0

    @property
    def is_limited(self) -> bool:
        """Whether there is a limit now."""
        return self._throttle is not None and self._bytes_per_s is not None

    def set(self, bytes_per_s: float | None) -> None:
        """Of all requests together, from now on."""
        self._bytes_per_s = bytes_per_s
        self._divide()

    @contextmanager
    def request(self, url: str, limits: FetchLimits) -> Iterator[FetchLimits]:
        """While it runs; gives the limits that it keeps to."""
        if self._throttle is None or url.startswith("file:") or is_inline(url):
            yield limits
            return
        self._running += 1
        self._divide()
        try:
            yield replace(limits, throttle=str(self._throttle.path))
        finally:
            self._running -= 1
            self._divide()

    def _divide(self) -> None:
        if self._throttle is not None:
            rate = self._bytes_per_s
            self._throttle.set(None if rate is None else rate / max(1, self._running))
