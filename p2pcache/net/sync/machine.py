"""One link's state: what is sent, answered and believed, when it is late, when it ends. Pure.

The driver calls `start` once, `arriving` for each frame's header, `handle` for each message and
`tick` when `next_at` has come, and does what the returned actions say. A peer that breaks the
rules is an Untrusted out of `arriving` or `handle`.

Request numbers grow on each side. An answer to a number that was given out but is no longer waited
for is ignored (its caller gave up); one to a number never given out, or of the wrong kind, is
Untrusted.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from p2pcache.errors import Untrusted
from p2pcache.net.sync import preloads, spending
from p2pcache.net.sync.limits import Bucket, SyncOptions
from p2pcache.net.sync.wants import Knowledge, LookUp, OurWants, TheirWants
from p2pcache.net.sync.wire import (
    THROTTLED_MINOR,
    VERSION,
    Announce,
    Answer,
    Ask,
    Brings,
    Bye,
    Drop,
    Gone,
    Have,
    Heard,
    Hello,
    Holds,
    HoldsEnd,
    Load,
    ManifestAsk,
    ManifestPart,
    Map,
    MapAsk,
    Message,
    NameAsk,
    Names,
    OtherMajor,
    Peers,
    Permits,
    Ping,
    Pong,
    Refused,
    Throttled,
    Ticket,
    TicketAsk,
    Unknown,
    Want,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from p2pcache.content.ranges import RangeSet
    from p2pcache.net.sync.wants import Part
    from p2pcache.net.sync.wire import Held

BUSY = "unavailable"  # Refused.code, one of errors.py's


class Cause(enum.Enum):
    """Why a link ended."""

    LOST = "lost"  # the stream ended
    BYE = "bye"  # the peer said so
    OURS = "ours"  # we closed it: another link to the same peer stays, or we stop
    FROZEN = "frozen"  # it neither answers nor reads
    UNTRUSTED = "untrusted"  # it broke the rules
    VERSION = "version"  # another major version


@dataclass(frozen=True, slots=True)
class Ended:
    """How a link ended, for logs and for `Mesh`."""

    cause: Cause
    reason: str


@dataclass(frozen=True, slots=True)
class Send:
    """Write this message, after those before it."""

    message: Message


@dataclass(frozen=True, slots=True)
class Up:
    """The peer said hello: the link may be used."""

    hello: Hello


@dataclass(frozen=True, slots=True)
class Serve:
    """Find the answer to a request of the peer, then call `served`."""

    ask: Ask


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer to a request of ours; give it to whoever waits."""

    id: int
    answer: Answer


@dataclass(frozen=True, slots=True)
class WantRefused:
    """The peer will not tell what it holds, or not before the challenge is met."""

    id: int
    refused: Refused


@dataclass(frozen=True, slots=True)
class News:
    """For whoever owns the link."""

    message: Announce | Peers | Load | Permits | preloads.Message | spending.Message


Action: TypeAlias = Send | Up | Serve | LookUp | Answered | Knowledge | WantRefused | News | Ended


NO_LOAD = Load(0.0, 0.0, 0.0)  # of who did not say anything: it is idle


class Conversation:
    """One link. `now` is any steady clock in seconds."""

    def __init__(
        self, ours: Hello, options: SyncOptions, now: float, *, opened_by_us: bool = False
    ) -> None:
        self.theirs: Hello | None = None
        self.load = NO_LOAD  # theirs
        self._our_load = NO_LOAD
        self._load_at: float | None = None  # when it is told at the latest
        self._load_told_at = -math.inf
        self.rtt_s: float | None = None
        self.skipped_count = 0
        self._ours = ours
        self._options = options
        self._opened_by_us = opened_by_us
        self._ping_after_s = options.ping_first_s if opened_by_us else options.ping_after_s
        self._born = now
        self._heard_at = now
        self._pinged_at: float | None = None
        self._pings = 0
        self._next_at = now
        self._patient_until = now  # nobody is blamed before; see SyncOptions.late_s
        self._number = 0
        self._their_number = 0
        self._asks: dict[int, Ask] = {}
        self._serving = 0
        self._their_wants = TheirWants(options.soon_s, options.part_every_s)
        self._our_wants = OurWants(options.max_spans)
        self._frames = Bucket(options.frames_per_s, options.frames_burst, now)
        self._bytes = Bucket(options.bytes_per_s, options.bytes_burst, now)

    @property
    def is_busy(self) -> bool:
        """Whether one side waits for something of the other."""
        return bool(self._asks or self._serving or len(self._their_wants) or len(self._our_wants))

    def start(self) -> list[Action]:
        """Our first frame."""
        return [Send(self._ours)]

    # What we want

    def ask(self, make: Callable[[int], Ask]) -> tuple[int, Send] | None:
        """A request with a number of its own; None while too many are in flight."""
        if self.theirs is None or len(self._asks) >= self._options.max_asks:
            return None
        self._number += 1
        self._asks[self._number] = asked = make(self._number)
        return self._number, Send(asked)

    def forget(self, number: int) -> None:
        """Nobody waits for this answer any more."""
        self._asks.pop(number, None)

    def want(self, manifest: bytes | None, names: Sequence[bytes]) -> tuple[int, Send] | None:
        """Ask to be told; None when the peer's limits forbid it."""
        full = len(self._our_wants) >= self._options.max_wants
        if full or self._our_wants.names_count + len(names) > self._options.max_wanted_names:
            return None
        self._number += 1
        self._our_wants.add(self._number, names)
        return self._number, Send(Want(self._number, manifest, tuple(names)))

    def drop(self, number: int) -> list[Action]:
        """End a want of ours."""
        return [Send(Drop(number))] if self._our_wants.drop(number) else []

    # What the peer wants

    def busy(self, load: Load, now: float) -> None:
        """Our load changed: told with the next `tick` that is due to who wants something of us;
        others hear of it by pongs.
        """
        self._our_load = load
        if self._load_at is None and len(self._their_wants):
            options = self._options
            self._load_at = max(now + options.soon_s, self._load_told_at + options.load_every_s)

    def served(self, answer: Answer) -> list[Action]:
        """The answer to a Serve."""
        self._serving -= 1
        return [Send(answer)]

    def found(self, looked: LookUp, entries: Sequence[Held]) -> list[Action]:
        """The answer to a LookUp."""
        return [Send(message) for message in self._their_wants.found(looked, entries)]

    def not_found(self, looked: LookUp, refused: Refused) -> list[Action]:
        """The peer may not be told now (see `recheck`)."""
        self._their_wants.refused(looked)
        return [Send(refused)]

    def recheck(self, manifest: bytes) -> list[Action]:
        """The peer's rights to a manifest changed."""
        return [*self._their_wants.recheck(manifest)]

    def grew(self, name: bytes, blocks: RangeSet | None, now: float, links: int = 1) -> None:
        """More of a blob is held; told with the next `tick` that is due. `links` are told so."""
        self._their_wants.grew(name, blocks, now, self._options.have_beat_s(links))

    def brings(self, manifest: bytes, part: Part, now: float) -> None:
        """Our part in bringing a manifest changed; told with the next `tick` that is due."""
        self._their_wants.brings(manifest, part, now)

    def throttled(
        self, manifest: bytes, origin: bytes, retry_after_s: float, now: float
    ) -> list[Action]:
        """An origin told us to wait; an older minor version has no word for it."""
        if self.theirs is None or self.theirs.minor < THROTTLED_MINOR:
            return []
        told = self._their_wants.throttled(manifest, origin, retry_after_s, now)
        return [Send(one) for one in told]

    def lost(self, names: Iterable[bytes], now: float) -> None:
        """Blobs are held no more; told with a `tick` that is due now."""
        self._their_wants.lost(names, now)

    # What arrives

    def arriving(self, body_bytes: int, now: float) -> None:
        """Charge a frame before it is read."""
        if not (self._frames.take(1, now) and self._bytes.take(body_bytes, now)):
            raise Untrusted("a peer sends more than one may")

    def handle(self, heard: Heard, body_bytes: int, now: float) -> list[Action]:
        """What follows from a message."""
        self._heard_at = now
        if self.theirs is None:
            return self._first(heard)
        match heard:
            case Unknown(kind):
                if self.theirs.minor <= VERSION[1]:
                    raise Untrusted(f"a message of kind {kind} that its version does not have")
                self.skipped_count += 1
                return []
            case Hello() | OtherMajor():
                raise Untrusted("a second hello")
            case Ping(number):
                return [Send(Pong(number, self._our_load))]
            case Pong(number, load):
                return self._pong(number, load, now)
            case Load():
                self.load = heard
                return [News(heard)]
            case Announce() | Peers() | Permits():
                return [News(heard)]
            case preloads.Records() | preloads.States() | preloads.Watch() | spending.Spends():
                return [News(heard)]
            case Bye(reason):
                return [Ended(Cause.BYE, reason)]
            case Holds() | HoldsEnd() | Have() | Gone() | Brings() | Throttled():
                self._given_out(heard.id)
                return [*self._our_wants.hear(heard)]
            case Want():
                return self._want(heard)
            case Drop(number):
                self._their_wants.drop(number)
                return []
            case MapAsk() | TicketAsk() | ManifestAsk() | NameAsk():
                return self._serve(heard)
            case Map() | Ticket() | ManifestPart() | Names() | Refused():
                return self._answer(heard, body_bytes, now)

    def tick(self, now: float, *, room: bool, writing_since: float | None) -> list[Action]:
        """What is due. `room`: more may be queued; `writing_since`: of the write under way."""
        options = self._options
        if now > self._next_at + options.late_s:  # by our own fault
            self._patient_until = now + options.late_s
        if self.theirs is None:
            if now < self._born + options.hello_limit_s:
                return []
            return [Ended(Cause.FROZEN, f"no hello in {options.hello_limit_s:.0f} s")]
        patient = now < self._patient_until
        stuck = writing_since is not None and now >= writing_since + options.write_limit_s
        if stuck and not patient:
            return [Ended(Cause.FROZEN, f"it read nothing for {options.write_limit_s:.0f} s")]
        out: list[Action] = []
        pinged = self._pinged_at
        if pinged is not None and self._heard_at >= pinged:
            pinged = self._pinged_at = None
        if pinged is None:
            if now >= self._heard_at + self._ping_after_s:
                out.append(self._ping(now))
        elif now >= pinged + options.ping_limit_s and not patient:
            return [Ended(Cause.FROZEN, f"it said nothing for {now - self._heard_at:.0f} s")]
        due_at = self._due_at
        if room and due_at is not None and now >= due_at:
            if self._load_at is not None:
                self._load_at = None
                if len(self._their_wants):
                    self._load_told_at = now
                    out.append(Send(self._our_load))
            haves, lookups = self._their_wants.flush(now)
            out += [*(Send(have) for have in haves), *lookups]
        return out

    def ping_along(self, now: float) -> list[Action]:
        """What is said when the process is awake for a ping on another link, in or out.

        Links that rest would wake it one by one: each wake-up costs 0.5 ms, a ping more in the
        same one 0.1. So all links of a network soon have one beat, and an idle agent wakes for few
        moments of every 4.5 s. In that beat who opened a link asks, or both would at once; the
        other asks where that link plainly has another beat: who opened all of its links would keep
        its own.
        """
        if self.theirs is None or (
            self._pinged_at is not None and self._heard_at < self._pinged_at
        ):
            return []
        silent_s, options = now - self._heard_at, self._options
        most_s = math.inf if self._opened_by_us else options.ping_first_s - options.ping_apart_s
        if not options.ping_along_s <= silent_s <= most_s:
            return []
        return [self._ping(now)]

    @property
    def _due_at(self) -> float | None:
        """When what is new has to be told; all of it together."""
        load_at, wants_at = self._load_at, self._their_wants.due_at
        return min((at for at in (load_at, wants_at) if at is not None), default=None)

    def next_at(self, *, room: bool, writing_since: float | None) -> float:
        """When `tick` is due."""
        options = self._options
        if self.theirs is None:
            at = self._born + options.hello_limit_s
        else:
            pinged = self._pinged_at
            if pinged is not None and self._heard_at < pinged:
                at = pinged + options.ping_limit_s
            else:
                at = self._heard_at + self._ping_after_s
            if writing_since is not None:
                at = min(at, writing_since + options.write_limit_s)
            at = max(at, self._patient_until)
            if room and (due_at := self._due_at) is not None:
                at = min(at, due_at)
        self._next_at = at
        return at

    def _first(self, heard: Heard) -> list[Action]:
        match heard:
            case Hello():
                self.theirs = heard
                return [Up(heard)]
            case OtherMajor(major, minor):
                reason = f"it speaks version {major}.{minor} of the sync protocol"
                return [Send(Bye("version")), Ended(Cause.VERSION, reason)]
            case Bye(reason):
                return [Ended(Cause.BYE, reason)]
        raise Untrusted("a peer that does not say hello first")

    def _ping(self, now: float) -> Send:
        self._pings += 1
        self._pinged_at = now
        return Send(Ping(self._pings))

    def _pong(self, number: int, load: Load, now: float) -> list[Action]:
        if number > self._pings:
            raise Untrusted("a pong to no ping")
        if number == self._pings and self._pinged_at is not None:
            self.rtt_s = now - self._pinged_at
            self._pinged_at = None
        self.load = load
        return []

    def _want(self, want: Want) -> list[Action]:
        self._grows(want.id)
        wants, options = self._their_wants, self._options
        names = wants.names_count + len(want.names)
        if len(wants) >= options.max_wants or names > options.max_wanted_names:
            return [Send(Refused(want.id, BUSY, "too many wants", None))]
        looked = wants.add(want)
        return [looked] if self._our_load == NO_LOAD else [Send(self._our_load), looked]

    def _serve(self, ask: Ask) -> list[Action]:
        self._grows(ask.id)
        if self._serving >= self._options.max_serving:
            return [Send(Refused(ask.id, BUSY, "too many requests", None))]
        self._serving += 1
        return [Serve(ask)]

    def _answer(self, answer: Answer, body_bytes: int, now: float) -> list[Action]:
        self._given_out(answer.id)
        if isinstance(answer, Refused) and answer.id in self._our_wants:
            self._our_wants.refused(answer.id, now)
            return [WantRefused(answer.id, answer)]
        asked = self._asks.get(answer.id)
        if asked is None:
            return []
        if not isinstance(answer, Refused) and not _fits(asked, answer):
            raise Untrusted("an answer to something else than was asked")
        del self._asks[answer.id]
        self._frames.give_back(1)
        self._bytes.give_back(body_bytes)
        return [Answered(answer.id, answer)]

    def _given_out(self, number: int) -> None:
        if number > self._number:
            raise Untrusted("an answer to nothing that was asked")

    def _grows(self, number: int) -> None:
        if number <= self._their_number:
            raise Untrusted("a request number that was used before")
        self._their_number = number


def _fits(asked: Ask, answer: Answer) -> bool:
    match asked, answer:
        case MapAsk(_, name, first, count), Map(_, its_name, _, its_first, hashes, _):
            short = hashes is None or len(hashes) <= 32 * count
            return (name, first) == (its_name, its_first) and short
        case ManifestAsk(_, _, offset), ManifestPart(_, total, its_offset, data):
            return offset == its_offset and its_offset + len(data) <= total
        case (TicketAsk(), Ticket()) | (NameAsk(), Names()):
            return True
    return False
