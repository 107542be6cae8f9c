"""What one connection still has to send: items in order and bounded, progress only the newest."""

from __future__ import annotations

from collections import deque

import trio

from p2pcache.agent.localapi.wire import Failed, FromServer, Progress, Result, encode


class Outbox:
    """A bounded queue with one reader. A slow client slows items down; progress is coalesced.

    `max_bytes` may be exceeded by one frame, so that a frame of any size can pass.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._frames: deque[bytes] = deque()
        self._queued_bytes = 0
        self._progress: dict[int, bytes] = {}
        self._sending = False
        self._work = trio.lowlevel.ParkingLot()  # the sender, when there is nothing to send
        self._room = trio.lowlevel.ParkingLot()  # those who wait for the queue to get shorter
        self._idle = trio.lowlevel.ParkingLot()  # those who wait for everything to be sent

    async def put(self, message: FromServer) -> None:
        """Queue a message; waits while the queue is full, except for progress, which never does.

        Always a checkpoint. Raises LocalFault if the message cannot be sent. If cancelled, nothing
        was queued.
        """
        frame = encode(message)
        await trio.lowlevel.checkpoint()
        if isinstance(message, Progress):
            self._progress[message.id] = frame
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

    async def take(self) -> bytes:
        """The next frame to send; the one taken before counts as sent now."""
        self._sending = False
        await trio.lowlevel.checkpoint()
        while not self._frames and not self._progress:
            self._idle.unpark_all()
            await self._work.park()
        self._sending = True
        if not self._frames:
            return self._progress.pop(next(iter(self._progress)))
        frame = self._frames.popleft()
        self._queued_bytes -= len(frame)
        self._room.unpark_all()
        return frame

    async def wait_sent(self) -> None:
        """Until everything that was queued has been sent."""
        while self._frames or self._progress or self._sending:
            await self._idle.park()

    def _append(self, frame: bytes) -> None:
        self._frames.append(frame)
        self._queued_bytes += len(frame)
