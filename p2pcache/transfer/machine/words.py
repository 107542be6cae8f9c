"""What members say of an origin that told them to wait. Pure.

Two of them are believed: the origin is left alone until the earlier of their two times. One may
lie, or share no limit with us (limits are often by address): then one request of ours at a time,
which shows. One that began after the word and went well refutes all whose word was not over; they
are not heard again for a while. And whatever many say, after each such pause one request of ours is
tried before the next. Our own answers of that kind count in full, elsewhere (blame).
"""

from __future__ import annotations

import math

MAX_MEMBERS = 256  # whose words are kept at once


class Words:
    """Of one origin. `cap_s`: no word parks it for longer."""

    def __init__(self, cap_s: float) -> None:
        self.parked_until = -math.inf
        self.limited_until = -math.inf  # one request at a time
        self._cap_s = cap_s
        self._until: dict[str, float] = {}  # by member
        self._unheard: dict[str, float] = {}  # members that were wrong, until when
        self._since: dict[str, float] = {}  # when each of these spoke first
        self._parked_at = -math.inf
        self._tried = True  # since the last pause

    def heard(self, member: str, retry_after_s: float, now: float) -> None:
        """A member was told to wait."""
        self._until = {who: until for who, until in self._until.items() if until > now}
        self._since = {who: at for who, at in self._since.items() if who in self._until}
        self._unheard = {who: until for who, until in self._unheard.items() if until > now}
        if member in self._unheard or len(self._until) >= MAX_MEMBERS:
            return
        self._since.setdefault(member, now)
        self._until[member] = now + min(max(0.0, retry_after_s), self._cap_s)
        live = sorted(self._until.values(), reverse=True)
        self.limited_until = live[0]
        if len(live) < 2:
            return
        if now >= self.parked_until:
            if not self._tried:
                return
            self._parked_at, self._tried = now, False
        self.parked_until = min(live[1], self._parked_at + self._cap_s)

    def tried(self, began: float, now: float, *, well: bool) -> None:
        """A request of ours ended. `well`: the origin served it."""
        before = [who for who, at in self._since.items() if at <= began]
        if not before:
            return  # it was let in before anybody spoke
        self._tried = True
        if not well:
            return
        for who in before:
            if self._until[who] > began:  # else it may have been true
                self._unheard[who] = now + self._cap_s
            del self._until[who], self._since[who]
        live = sorted(self._until.values(), reverse=True)
        self.limited_until = live[0] if live else -math.inf
        if len(live) < 2:
            self.parked_until = -math.inf
