"""How long an event loop was deaf at most."""

from __future__ import annotations

from time import thread_time

import trio

from tests.support.own_time import own_time

BEAT_S = 0.01


class Pulse:
    """Start `beat` in the loop. `worst_s`: the longest pause, whoever made it; what Linux let the
    thread wait for a core is left out. `busy_s`: what its own thread computed at most between two
    beats, which no other program and no other thread changes.
    """

    def __init__(self) -> None:
        self.worst_s = self.busy_s = 0.0

    async def deaf_s(self) -> float:
        """`worst_s`, once the beat that is late has come."""
        await trio.sleep(5 * BEAT_S)
        return self.worst_s

    async def beat(self) -> None:
        """Until cancelled."""
        last, computed = own_time(), thread_time()
        while True:
            await trio.sleep(BEAT_S)
            now, used = own_time(), thread_time()
            self.worst_s = max(self.worst_s, now - last - BEAT_S)
            self.busy_s = max(self.busy_s, used - computed)
            last, computed = now, used
