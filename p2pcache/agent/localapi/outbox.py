"""What one connection still has to send: items in order and bounded, progress only the newest."""

from __future__ import annotations

from collections import deque

import trio

from p2pcache.agent.localapi.wire import Failed, FromServer, Progress, Result, encode

JOINED_BYTES = 1 << 16  # sent in one call; as much is queued before others get a turn
PROGRESS_S = 0.02  # progress waits that long for something to go with: a warm call is over by then


class Outbox:
    """A bounded queue with one reader. A slow client slows items down; progress is coalesced.

    Frames that are queued together are sent together: a system call and two turns of the event
    loop for each listed file were half of a warm `resolve`, and for each phase a third of a warm
    `get`.

    `max_bytes` may be exceeded by one frame, so that a frame of any size can pass.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._frames: deque[bytes] = deque()
        self._queued_bytes = 0
        self._progress: dict[int, bytes] = {}
        self._sending = False
        self._work = trio.lowlevel.ParkingLot()  # the sender, when there is nothing to send
        self._company = trio.lowlevel.ParkingLot()  # the sender, when there is only progress
        self._room = trio.lowlevel.ParkingLot()  # those who wait for the queue to get shorter
        self._idle = trio.lowlevel.ParkingLot()  # those who wait for everything to be sent

    async def put(self, message: FromServer) -> None:
        """Queue a message; waits while the queue is full, except for progress, which never does.

        Notices cancellation always, and lets others run when JOINED_BYTES wait. Raises LocalFault
        if the message cannot be sent. If cancelled, nothing was queued.
        """
        frame = encode(message)
        if self._queued_bytes < JOINED_BYTES and not isinstance(message, Progress):
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await trio.lowlevel.checkpoint()
        if isinstance(message, Progress):
            self._progress[message.id] = frame
            self._work.unpark()
        else:
            while self._queued_bytes >= self._max_bytes:
                await self._room.park()
            if isinstance(message, Result | Failed):
                # The last progress goes before the end of its request, or never.
                last = self._progress.pop(message.id, None)
                if last is not None:
                    self._append(last)
            self._append(frame)
            self._work.unpark()
            self._company.unpark()

    async def take(self) -> bytes:
        """The next frames to send, whole; those taken before count as sent now."""
        self._sending = False
        await trio.lowlevel.checkpoint()
        while not self._frames and not self._progress:
            self._idle.unpark_all()
            await self._work.park()
        if not self._frames:
            with trio.move_on_after(PROGRESS_S):
                await self._company.park()
        self._sending = True
        if not self._frames:
            return self._progress.pop(next(iter(self._progress)))
        taken = [self._frames.popleft()]
        size = len(taken[0])
        while self._frames and size + len(self._frames[0]) <= JOINED_BYTES:
            taken.append(self._frames.popleft())
            size += len(taken[-1])
        self._queued_bytes -= size
        self._room.unpark_all()
        return b"".join(taken)

    async def wait_sent(self) -> None:
        """Until everything that was queued has been sent."""
        while self._frames or self._progress or self._sending:
            await self._idle.park()

    def _append(self, frame: bytes) -> None:
        self._frames.append(frame)
        self._queued_bytes += len(frame)
