"""One link at work: a task that reads, one that writes, one that watches the clock, over a Stream.

Nobody who waits for an answer touches the stream: callers wait on events and may be cancelled at
any moment. No exception leaves `Link.run` but Cancelled. A link that ends badly is cut with
`Host.cut`, because a write to a frozen peer can be neither cancelled nor closed behind.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, assert_never

import trio

from p2pcache import errors
from p2pcache.content.peerid import PeerId, format_peer_id
from p2pcache.errors import Denied, LocalFault, NotFound, P2PCacheError, Unavailable, Untrusted
from p2pcache.net.sync.limits import Bucket, SyncOptions
from p2pcache.net.sync.machine import (
    Action,
    Answered,
    Cause,
    Conversation,
    Ended,
    News,
    Send,
    Serve,
    Up,
    WantRefused,
)
from p2pcache.net.sync.wants import Learned, LookUp, LostThere, PartThere, Settled, ThrottledThere
from p2pcache.net.sync.wire import (
    Announce,
    Answer,
    Ask,
    Bye,
    FrameReader,
    Hello,
    Load,
    Map,
    Message,
    Names,
    Peers,
    Permits,
    Ping,
    Refused,
    encode,
    parse,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from p2pcache.content.ranges import RangeSet
    from p2pcache.net.port import Host, Stream
    from p2pcache.net.sync import preloads, spending
    from p2pcache.net.sync.wants import Knowledge, Part
    from p2pcache.net.sync.wire import Held, ManifestPart, Ticket

_log = logging.getLogger(__name__)

Good = TypeVar("Good", "Map", "Ticket", "ManifestPart", "Names")
_BATCH_BYTES = 1 << 16  # frames that wait are written together up to this
_MAX_LOOKUPS = 512  # waiting for the shelf; then the peer's next frame waits
_ACLOSE_S = 2.0


class LinkOwner(Protocol):
    """Who the links belong to. Nothing here may raise, but `serve` and `look_up` errors.py's."""

    def link_up(self, link: Link) -> None:
        """The peer said hello."""
        ...

    def link_news(
        self,
        link: Link,
        news: Announce | Peers | Load | Permits | preloads.Message | spending.Message,
    ) -> None:
        """The peer said something unasked."""
        ...

    def link_pings(self, link: Link) -> None:
        """It asks whether the peer lives, or is asked: others may do so in the same moment."""
        ...

    def link_knows(self, link: Link, known: Knowledge | WantRefused) -> None:
        """News of a want."""
        ...

    def link_ended(self, link: Link, ended: Ended) -> None:
        """It is over; called once, at once."""
        ...

    async def serve(self, link: Link, ask: Ask) -> Answer:
        """Answer a request."""
        ...

    async def look_up(self, link: Link, looked: LookUp) -> Sequence[Held]:
        """What the peer may be told."""
        ...


class Link:
    """A conversation with one peer, from `run` to its end."""

    def __init__(
        self,
        host: Host,
        stream: Stream,
        ours: Hello,
        owner: LinkOwner,
        *,
        opened_by_us: bool,
        options: SyncOptions,
    ) -> None:
        now = trio.current_time()
        self.peer: PeerId = stream.peer
        self.opened_by_us = opened_by_us
        self.ended: Ended | None = None
        self.up_at: float | None = None
        self.talk = Conversation(ours, options, now, opened_by_us=opened_by_us)
        self._host = host
        self._stream = stream
        self._owner = owner
        self._options = options
        self._nursery: trio.Nursery | None = None
        self._outbox: deque[tuple[bytes, bool]] = deque()
        self._outbox_bytes = 0
        self._writing_since: float | None = None
        self._had_room = True  # when `_watch` looked last
        self._pace_frames = Bucket(
            options.frames_per_s * options.pace, options.frames_burst * options.pace, now
        )
        self._pace_bytes = Bucket(
            options.bytes_per_s * options.pace, options.bytes_burst * options.pace, now
        )
        self._waiting: dict[int, _Waiting] = {}
        self._lookups: deque[LookUp] = deque()
        self._work = trio.lowlevel.ParkingLot()  # the writer, when there is nothing to write
        self._room = trio.lowlevel.ParkingLot()  # those who wait for a shorter outbox
        self._free = trio.lowlevel.ParkingLot()  # those who wait to ask
        self._looker = trio.lowlevel.ParkingLot()
        self._looked = trio.lowlevel.ParkingLot()
        self._nap = trio.CancelScope()  # of `_watch`, until something is due
        self._over = trio.Event()

    @property
    def hello(self) -> Hello:
        """What the peer said of itself. Only once the link is up."""
        if self.talk.theirs is None:
            raise RuntimeError("the link is not up yet")
        return self.talk.theirs

    async def run(self) -> None:
        """The conversation, until it ends. If cancelled, the stream is closed."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self._do(self.talk.start())
                for task in (self._read, self._write, self._watch, self._look):
                    nursery.start_soon(self._guarded, task)
                try:
                    await self._over.wait()
                    await self._part()
                finally:
                    if self._writing_since is not None:  # also when cancelled: see the module
                        self._host.cut(self.peer)
                    nursery.cancel_scope.cancel()
        finally:
            self._end(Ended(Cause.OURS, "stopped"))
            with trio.move_on_after(_ACLOSE_S, shield=True):
                await self._stream.aclose()

    def close(self, reason: str) -> None:
        """Say bye and end; the connection stays for others."""
        self.tell(Bye(reason))
        self._end(Ended(Cause.OURS, reason))

    def connection_lost(self) -> None:
        """The host knows that nothing connects us any more."""
        self._end(Ended(Cause.LOST, "the connection is gone"))

    def distrust(self, reason: str) -> None:
        """The peer lied in a way that only the layers above can see."""
        self._end(Ended(Cause.UNTRUSTED, reason))

    def tell(self, message: Message) -> None:
        """Queue a message. A peer that lets too much pile up loses the link."""
        self._do([Send(message)])

    def pass_on(self, message: Message) -> bool:
        """Queue what somebody else said; dropped when much waits: that may not cost the link.
        Whether there was room.
        """
        room = self._has_room()
        if room:
            self.tell(message)
        return room

    async def ask(self, make: Callable[[int], Ask], kind: type[Good], *, timeout_s: float) -> Good:
        """Ask and wait. Raises NotFound, Denied, Unavailable. If cancelled, nobody else notices."""
        with trio.move_on_after(timeout_s):
            while (asked := None if self.ended else self.talk.ask(make)) is None:
                self._check_up()
                await self._free.park()
            number, send = asked
            waiting = self._waiting[number] = _Waiting()
            try:
                self._do([send])
                await waiting.done.wait()
            finally:
                self._waiting.pop(number, None)
                self.talk.forget(number)
                self._free.unpark()
            if waiting.answer is None:
                self._check_up()
            if isinstance(waiting.answer, Refused):
                raise _as_error(self.peer, waiting.answer)
            assert isinstance(waiting.answer, kind)  # the machine let nothing else pass
            return waiting.answer
        raise Unavailable(f"{format_peer_id(self.peer)} did not answer in {timeout_s:.1f} s")

    def want(self, manifest: bytes | None, names: Sequence[bytes]) -> int | None:
        """Ask to be told of names; the number of the want, None when there are too many."""
        asked = None if self.ended else self.talk.want(manifest, names)
        if asked is None:
            return None
        self._do([asked[1]])
        return asked[0]

    def drop(self, number: int) -> None:
        """End a want."""
        self._do(self.talk.drop(number))

    def ping_along(self) -> None:
        """Another link of ours pings or is pinged; see the machine's."""
        if self.ended is None:
            self._do(self.talk.ping_along(trio.current_time()))

    def busy(self, load: Load) -> None:
        """Our byte server's load changed."""
        self.talk.busy(load, trio.current_time())
        self._set_alarm()

    def grew(self, name: bytes, blocks: RangeSet | None, links: int) -> None:
        """More of a blob is held; so many links are told so."""
        self.talk.grew(name, blocks, trio.current_time(), links)
        self._set_alarm()

    def brings(self, manifest: bytes, part: Part) -> None:
        """Our part in bringing a manifest changed."""
        self.talk.brings(manifest, part, trio.current_time())
        self._set_alarm()

    def throttled(self, manifest: bytes, origin: bytes, retry_after_s: float) -> None:
        """An origin told us to wait."""
        self._do(self.talk.throttled(manifest, origin, retry_after_s, trio.current_time()))

    def lost(self, names: Iterable[bytes]) -> None:
        """Blobs are held no more."""
        self.talk.lost(names, trio.current_time())
        self._set_alarm()

    def recheck(self, manifest: bytes) -> None:
        """The peer's rights to a manifest changed."""
        self._do(self.talk.recheck(manifest))

    def _check_up(self) -> None:
        if self.ended is not None:
            who = format_peer_id(self.peer)
            raise Unavailable(f"the link to {who} ended: {self.ended.reason}")

    def _do(self, actions: Sequence[Action]) -> None:
        for action in actions:
            if self.ended is not None:
                return
            match action:
                case Send(message):
                    self._queue(message)
                case Up():
                    self.up_at = trio.current_time()
                    self._owner.link_up(self)
                    self._free.unpark_all()
                case Serve(ask):
                    if self._nursery is not None:
                        self._nursery.start_soon(self._guarded, self._serve, ask)
                case LookUp():
                    self._lookups.append(action)
                    self._looker.unpark()
                case Answered(number, answer):
                    waiting = self._waiting.get(number)
                    if waiting is not None:
                        waiting.answer = answer
                        waiting.done.set()
                case News(news):
                    self._owner.link_news(self, news)
                case Learned() | LostThere() | Settled() | PartThere() | ThrottledThere():
                    self._owner.link_knows(self, action)
                case WantRefused():
                    self._owner.link_knows(self, action)
                case Ended():
                    self._end(action)
                case _:
                    assert_never(action)

    def _queue(self, message: Message) -> None:
        try:
            frame = encode(message)
        except LocalFault:
            _log.exception("a bug: a message of ours that peers would refuse was not sent")
            return
        if (
            len(self._outbox) >= self._options.outbox_frames
            or self._outbox_bytes + len(frame) > self._options.outbox_bytes
        ):
            self._end(Ended(Cause.FROZEN, "it reads too slowly"))
            return
        self._outbox.append((frame, not isinstance(message, Answer)))
        self._outbox_bytes += len(frame)
        self._work.unpark()

    def _has_room(self) -> bool:
        options = self._options
        return (
            len(self._outbox) < options.outbox_frames // 2
            and self._outbox_bytes < options.outbox_bytes // 2
            and not self._lookups
        )

    def _end(self, ended: Ended) -> None:
        if self.ended is not None:
            return
        self.ended = ended
        who = format_peer_id(self.peer)
        level = logging.WARNING if ended.cause is Cause.UNTRUSTED else logging.DEBUG
        _log.log(level, "the link to %s ended (%s): %s", who, ended.cause.value, ended.reason)
        if ended.cause in (Cause.FROZEN, Cause.UNTRUSTED):
            self._host.cut(self.peer)
        for waiting in self._waiting.values():
            waiting.done.set()
        for lot in (self._free, self._work, self._room, self._looked):
            lot.unpark_all()
        self._over.set()
        self._owner.link_ended(self, ended)

    async def _part(self) -> None:
        """Let the writer send the last frames, if the peer may read them."""
        if self.ended is None or self.ended.cause not in (Cause.OURS, Cause.VERSION):
            return
        with trio.move_on_after(self._options.bye_limit_s):
            while self._outbox or self._writing_since is not None:
                await self._room.park()

    async def _guarded(self, task: Callable[..., Awaitable[None]], *args: Any) -> None:  # noqa: ANN401
        try:
            await task(*args)
        except Untrusted as exc:
            self._end(Ended(Cause.UNTRUSTED, exc.message))
        except P2PCacheError as exc:
            self._end(Ended(Cause.LOST, exc.message))
        except Exception as exc:  # noqa: BLE001  # a bug of ours ends one link, not the host
            self._end(Ended(Cause.OURS, errors.bug(exc, _log).message))

    async def _read(self) -> None:
        reader = FrameReader()
        while self.ended is None:
            header = reader.body_bytes is None
            data = await self._stream.receive_exactly(reader.needed)
            for body in reader.feed(data):
                if self.ended is None:
                    heard = parse(body)
                    self._do(self.talk.handle(heard, len(body), trio.current_time()))
                    if isinstance(heard, Ping):
                        self._owner.link_pings(self)
            if header and reader.body_bytes is not None:
                self.talk.arriving(reader.body_bytes, trio.current_time())
            while len(self._lookups) >= _MAX_LOOKUPS and self.ended is None:
                await self._looked.park()

    async def _write(self) -> None:
        while True:
            while not self._outbox:
                self._room.unpark_all()
                await self._work.park()
                if self.ended is not None and not self._outbox:
                    return
            batch = bytearray()
            wait_s = 0.0
            now = trio.current_time()
            while self._outbox and (not batch or len(batch) < _BATCH_BYTES):
                frame, paced = self._outbox.popleft()
                batch += frame
                self._outbox_bytes -= len(frame)
                if paced:
                    wait_s = self._pace_frames.spend(1, now)
                    wait_s = max(wait_s, self._pace_bytes.spend(len(frame), now))
                if wait_s:
                    break
            if wait_s and self.ended is None:
                await trio.sleep(wait_s)
            self._writing_since = trio.current_time()
            await self._stream.send_all(bytes(batch))
            self._writing_since = None
            if self._has_room():
                self._room.unpark_all()
                if not self._had_room:  # what is due waits for it
                    self._set_alarm()

    async def _watch(self) -> None:
        while self.ended is None:
            now = trio.current_time()
            room, writing = self._has_room(), self._writing_since
            due = self.talk.tick(now, room=room, writing_since=writing)
            self._do(due)
            if any(isinstance(one, Send) and isinstance(one.message, Ping) for one in due):
                self._owner.link_pings(self)
            self._had_room = self._has_room()
            at = self.talk.next_at(room=self._had_room, writing_since=self._writing_since)
            with trio.CancelScope(deadline=at) as self._nap:
                await trio.sleep_forever()

    def _set_alarm(self) -> None:
        """Something may be due sooner than `_watch` thinks. It sleeps on till then: to wake it for
        a new hour alone would cost as much as what is due.
        """
        self._had_room = self._has_room()
        self._nap.deadline = self.talk.next_at(
            room=self._had_room, writing_since=self._writing_since
        )

    async def _look(self) -> None:
        """One look-up after the other: their answers must not overtake each other."""
        while True:
            while not self._lookups:
                self._set_alarm()
                await self._looker.park()
            await self._wait_room()
            looked = self._lookups[0]
            try:
                entries = await self._owner.look_up(self, looked)
            except P2PCacheError as exc:
                self._do(self.talk.not_found(looked, _as_refused(looked.id, exc)))
            else:
                self._do(self.talk.found(looked, entries))
            self._lookups.popleft()
            self._looked.unpark_all()

    async def _serve(self, ask: Ask) -> None:
        await self._wait_room()
        try:
            answer = await self._owner.serve(self, ask)
        except P2PCacheError as exc:
            answer = _as_refused(ask.id, exc)
        except Exception as exc:  # noqa: BLE001  # a bug ends this request, not the link
            answer = _as_refused(ask.id, errors.bug(exc, _log))
        self._do(self.talk.served(answer))

    async def _wait_room(self) -> None:
        options = self._options
        while self.ended is None and (
            len(self._outbox) >= options.outbox_frames // 2
            or self._outbox_bytes >= options.outbox_bytes // 2
        ):
            await self._room.park()


class _Waiting:
    __slots__ = ("answer", "done")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.answer: Answer | None = None


def _as_refused(number: int, exc: P2PCacheError) -> Refused:
    """Our reason, without what is nobody else's business."""
    match exc:
        case Denied():
            return Refused(number, exc.code, exc.message, exc.challenge)
        case NotFound() | Unavailable():
            return Refused(number, exc.code, exc.message, None)
    _log.info("a peer was refused because of: %s", exc.message)
    return Refused(number, Unavailable.code, "not now", None)


def _as_error(peer: PeerId, refused: Refused) -> P2PCacheError:
    text = "".join(char if char.isprintable() else "?" for char in refused.text)
    message = f"{format_peer_id(peer)} says: {text}"
    if refused.code == NotFound.code:
        return NotFound(message)
    if refused.code == Denied.code:
        return Denied(message, challenge=refused.challenge)
    return Unavailable(message)
