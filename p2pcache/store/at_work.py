"""What this process has in hand in an open store, each under a lease that it renews: partials,
those that still wait for room, and the folder of its small files.
"""

from __future__ import annotations

import secrets
import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from p2pcache.store import durable
from p2pcache.store.lease import Busy, Lease, LeaseBook, LeaseLost
from p2pcache.store.partial import Meta, Partial, open_partial

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from p2pcache.store.layout import Layout

SWEEP_WAIT_S = 0.02  # another process's sweep holds a lease for about a millisecond...
SWEEP_WAITS = 5  # ...so a real holder is reported after a tenth of a second


class AtWork:
    """Any thread may call. `close` gives everything back; what is verified stays on the disk."""

    def __init__(self, layout: Layout, leases: LeaseBook) -> None:
        self._layout = layout
        self._leases = leases
        self._lock = threading.RLock()
        self._waiting: set[Lease] = set()
        self._partials: set[Partial] = set()
        self._small: tuple[Path, Lease] | None = None

    def partial(
        self, meta: Meta, room: Callable[[int, Path], AbstractContextManager[None]]
    ) -> Partial:
        """Open one. `room(incoming_bytes, directory)` frees the disk and promises it to nobody
        else. Raises Busy when another live holder has it, DiskFull when it does not fit.
        """
        directory = self._layout.partial(meta.name)
        with durable.local_faults("opening a partial"):
            lease = self._take(directory)
        with self._lock:
            self._waiting.add(lease)  # for room: it beats while others are asked what may go
        try:
            with (
                durable.local_faults("opening a partial"),
                room(_left(directory, meta.size if meta.total_known else 0), directory),
                self._lock,
            ):
                opened = open_partial(
                    directory, self._layout.trash, meta,
                    lease, boot=self._leases.who.boot, on_close=self._partials.discard,
                )  # fmt: skip
                self._partials.add(opened)
                self._waiting.discard(lease)
        except BaseException:
            with self._lock:
                self._waiting.discard(lease)
            lease.release()
            raise
        return opened

    def _take(self, directory: Path) -> Lease:
        for _ in range(SWEEP_WAITS):
            try:
                return self._leases.take(directory)
            except Busy:
                time.sleep(SWEEP_WAIT_S)
        return self._leases.take(directory)

    def small_dir(self) -> Path:
        """Where small files are written; made when it is asked for."""
        with self._lock, durable.local_faults("making a directory for small files"):
            if self._small is None:
                directory = self._layout.temporary / secrets.token_hex(8)
                self._small = (directory, self._leases.take(directory))
            return self._small[0]

    def heartbeat(self) -> None:
        """Renew all leases. Raises LeaseLost, after that, when another host took one over."""
        lost: LeaseLost | None = None
        with self._lock:
            partials = list(self._partials)
            waiting = list(self._waiting)
            small = self._small
        with durable.local_faults("renewing leases"):
            if small is not None:
                try:
                    small[1].heartbeat()
                except LeaseLost as exc:
                    lost = exc
                    self._leave_small_dir(small)
            for lease in waiting:
                try:
                    lease.heartbeat()
                except LeaseLost as exc:
                    lost = exc if lease in self._waiting else lost
            for partial in partials:
                try:
                    partial.heartbeat()
                except LeaseLost as exc:
                    lost = lost if partial.is_closed else exc
        if lost is not None:
            raise lost

    def close(self) -> None:
        """Close open partials and remove the folder of small files, whatever any of them raises."""
        with self._lock, ExitStack() as steps:
            steps.callback(self._discard_small_dir)
            for partial in list(self._partials):  # others discard theirs meanwhile
                steps.callback(partial.close)

    def _discard_small_dir(self) -> None:
        if self._small is not None:
            directory, lease = self._small
            self._small = None
            try:
                durable.discard_dir(directory, self._layout.trash)
            finally:
                lease.release()

    def _leave_small_dir(self, lost: tuple[Path, Lease]) -> None:
        """It is another process's to remove; the next small files get a new one."""
        with self._lock:
            if self._small is lost:
                self._small = None
            lost[1].withdraw()


def _left(directory: Path, size: int) -> int:
    """Bytes that the disk still has to give."""
    try:
        allocated = (directory / "data").stat().st_blocks * 512
    except FileNotFoundError:
        allocated = 0
    return max(size - allocated, 0)
