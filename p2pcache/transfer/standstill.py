"""How long this process stood still: stopped, its machine asleep, or without a core."""

from __future__ import annotations

import trio

BEAT_S = 0.2
LATE_S = 1.0  # a busy machine is late too; less than this is nobody's matter


class Standstill:
    """A clock that should move every BEAT_S, while `run` runs."""

    def __init__(self) -> None:
        self._at = trio.current_time()
        self._lost_s = 0.0

    async def run(self) -> None:
        """Until cancelled."""
        self._at = trio.current_time()
        while True:
            self._look()
            await trio.sleep(BEAT_S)

    def take(self) -> float:
        """Seconds since it was asked before; 0.0: it was here all the time."""
        self._look()
        lost_s, self._lost_s = self._lost_s, 0.0
        return lost_s

    def _look(self) -> None:
        now = trio.current_time()
        if now - self._at > BEAT_S + LATE_S:
            self._lost_s += now - self._at
        self._at = now
