"""Open files of blobs, and the two ways out: `sendfile`, and blocks through a buffer under TLS."""

from __future__ import annotations

import mmap
import os
import ssl
import stat
from typing import TYPE_CHECKING, Self

from p2pcache.lanes.orders import BLOCK_BYTES
from p2pcache.lanes.pace import Pacer

if TYPE_CHECKING:
    import socket
    import threading

    from p2pcache.lanes.serve.table import Entry

SENDFILE_BYTES = 16 << 20  # a call; between two the file is looked at again. A piece at most


class Stale(Exception):
    """The file is not, or no more, the blob that the table says it is."""


class OpenBlob:
    """The files of one entry, open for one answer, and checked to be what was hashed.

    Raises Stale. A name is opened anew for every answer (10 us beside the milliseconds of a
    piece): a kept descriptor would go on serving what was dropped or replaced.
    """

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.live_fd: int | None = None
        # O_NONBLOCK: what became a pipe meanwhile must not hold a thread for ever
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            self.fd = os.open(entry.path, flags)
        except OSError as exc:
            raise Stale(f"cannot open it: {exc.strerror}") from exc
        try:
            self.check()
            if entry.live_path is not None:
                self.live_fd = os.open(entry.live_path, flags)
        except OSError as exc:
            self.__exit__()
            raise Stale(f"cannot open it: {exc.strerror}") from exc
        except Stale:
            self.__exit__()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        os.close(self.fd)
        if self.live_fd is not None:
            os.close(self.live_fd)

    def check(self) -> None:
        """Raise Stale when the file is another than the one that was hashed, or was removed."""
        found, entry = os.fstat(self.fd), self.entry
        same = entry.guard.holds(found) if entry.guard else found.st_size == entry.size
        if not same or not stat.S_ISREG(found.st_mode):
            raise Stale("the file is another one now")
        if entry.live_path is not None and found.st_nlink == 0:
            raise Stale("the partial blob was thrown away")


class _Buffers:
    """Page-aligned buffers of one block, lent to the answers that are being sent."""

    KEPT = 8  # more than cores gain nothing; what a crowd needed for a moment is given back

    def __init__(self) -> None:
        self._free: list[memoryview] = []

    def take(self) -> memoryview:
        try:
            return self._free.pop()
        except IndexError:
            return memoryview(mmap.mmap(-1, BLOCK_BYTES))

    def give(self, buffer: memoryview) -> None:
        if len(self._free) < self.KEPT:
            self._free.append(buffer)


buffers = _Buffers()


class UploadLimit:
    """Bytes per second of all connections together; None is no limit."""

    def __init__(self, bytes_per_s: float | None) -> None:
        self._pacer = None if bytes_per_s is None else Pacer(bytes_per_s)

    def set(self, bytes_per_s: float | None) -> None:
        """From now on."""
        self._pacer = None if bytes_per_s is None else Pacer(bytes_per_s)

    @property
    def step_bytes(self) -> int | None:
        """At most so many between two pauses."""
        pacer = self._pacer
        return None if pacer is None else pacer.step_bytes

    def delay_s(self, sent_bytes: int) -> float:
        """How long to pause after `sent_bytes` more were sent."""
        pacer = self._pacer
        return 0.0 if pacer is None else pacer.delay_s(sent_bytes)


class Outlet:
    """The sending half of a connection. Raises OSError when the reader is gone or was cut."""

    def __init__(self, sock: socket.socket, limit: UploadLimit, cut: threading.Event) -> None:
        self.sent_bytes = 0
        self.busy = False  # inside a send: only then silence of the reader counts against it
        self._sock = sock
        self._is_tls = isinstance(sock, ssl.SSLSocket)
        self._limit = limit
        self._cut = cut

    def send(self, data: bytes | memoryview) -> None:
        """Send everything; in steps where there is a limit, so that all get on at once."""
        view = memoryview(data)
        step = self._limit.step_bytes or max(1, len(view))
        for start in range(0, len(view), step):
            part = view[start : start + step]
            self.busy = True
            self._sock.sendall(part)
            self.busy = False
            self._sent(len(part))

    def send_span(self, blob: OpenBlob, start: int, end: int) -> None:
        """Send bytes `[start, end)`. Raises Stale when the file turns out to be another."""
        if self._is_tls:
            self._copy(blob, start, end)
        else:
            self._sendfile(blob, start, end)

    def _copy(self, blob: OpenBlob, start: int, end: int) -> None:
        """Not from a mapping: a file that shrinks under one ends the process (SIGBUS)."""
        buffer = buffers.take()
        try:
            while start < end:
                count = min(self._limit.step_bytes or BLOCK_BYTES, BLOCK_BYTES, end - start)
                count = os.preadv(blob.fd, [buffer[:count]], start)
                blob.check()
                if not count:
                    raise Stale("the file is shorter than its blob")
                self.send(buffer[:count])
                start += count
        finally:
            buffers.give(buffer)

    def _sendfile(self, blob: OpenBlob, start: int, end: int) -> None:
        out = self._sock.fileno()
        while start < end:
            count = min(self._limit.step_bytes or SENDFILE_BYTES, end - start)
            self.busy = True
            count = os.sendfile(out, blob.fd, start, count)
            self.busy = False
            blob.check()
            if not count:
                raise Stale("the file is shorter than its blob")
            self._sent(count)
            start += count

    def _sent(self, count: int) -> None:
        self.sent_bytes += count
        pause_s = self._limit.delay_s(count)
        if pause_s > 0 and self._cut.wait(pause_s):
            raise ConnectionAbortedError("cut by the agent")
