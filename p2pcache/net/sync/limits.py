"""What one peer may cost us, and how long it may take. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SyncOptions:
    """Of one link. Both sides have the same numbers; a sender keeps to half of what it may."""

    hello_limit_s: float = 5.0  # a handshake is milliseconds; an idle stranger is no member
    ping_after_s: float = 5.0  # of silence; with ping_limit_s a frozen peer is cut after 8 s,
    ping_limit_s: float = 3.0  # 11 s with another 3 s of slack (issue B: under 11 s)
    ping_first_s: float = 4.5  # of who opened the link: two that ask at once say all of it twice
    ping_along_s: float = 2.0  # of silence: asked as well when another link is (`ping_along`);
    # less than half of ping_first_s, or a network could keep two beats
    ping_apart_s: float = 0.5  # so much sooner it is another beat
    write_limit_s: float = 8.0  # for one write: a peer that sends but never reads is cut as well
    late_s: float = 1.0  # our own loop was stopped for so long: silence was not the peer's
    have_every_s: float = 0.05  # DESIGN 6: a say every 20-100 ms...
    have_link_s: float = 0.0125  # ...and 80 frames/s in all: a frame costs both sides 0.5 ms, and
    have_most_s: float = 0.2  # 8 and 16 nodes end no later with 0.1 and 0.2 s (simulate.beat_s)
    soon_s: float = 0.02  # what we bring is told sooner: it keeps others from bringing it...
    part_every_s: float = 0.1  # ...once, then with other news or so often
    load_every_s: float = 0.5  # and so is our load
    frames_per_s: float = 1000.0  # 20 haves/s for each of 20 busy swarms, twice, and asks
    frames_burst: float = 4000.0
    bytes_per_s: float = 8 * 2**20  # answers to our own asks are not counted
    bytes_burst: float = 32 * 2**20
    pace: float = 0.5  # the part of the above that we use ourselves: clocks and queues differ
    max_asks: int = 32  # ours in flight on one link; more wait
    max_serving: int = 64  # theirs; more are refused
    max_wants: int = 256  # each way
    max_wanted_names: int = 16384  # each way; 16384 x 34 B and their sets are about 3 MB
    max_spans: int = 65536  # that one peer may make us remember, 10 MB
    outbox_frames: int = 512  # above: the peer is too slow for what it asked for, and is cut
    outbox_bytes: int = 16 * 2**20  # 8 serving tasks wait below half of it
    bye_limit_s: float = 1.0  # to send the last frames

    def have_beat_s(self, links: int) -> float:
        """How long what is new may wait for more, where as many links are told."""
        return min(max(self.have_every_s, links * self.have_link_s), self.have_most_s)


class Bucket:
    """A rate limit: `rate` units a second, at most `burst` at once."""

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._level = burst
        self._at = now

    def take(self, amount: float, now: float) -> bool:
        """Use up some; False (and nothing is used up) when there is not enough."""
        self._fill(now)
        if amount > self._level:
            return False
        self._level -= amount
        return True

    def spend(self, amount: float, now: float) -> float:
        """Use up some, also what is not there yet; how many seconds to wait before going on."""
        self._fill(now)
        self._level -= amount
        return max(0.0, -self._level / self._rate)

    def give_back(self, amount: float) -> None:
        """Undo a `take`."""
        self._level = min(self._burst, self._level + amount)

    def _fill(self, now: float) -> None:
        self._level = min(self._burst, self._level + max(0.0, now - self._at) * self._rate)
        self._at = now
