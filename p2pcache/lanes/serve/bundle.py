"""Many small blobs in one body (the format: lanes/bundle_wire)."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING

from p2pcache.lanes.bundle_wire import FRAME_BYTES, pack_frame
from p2pcache.lanes.orders import BLOCK_BYTES
from p2pcache.lanes.serve.send import OpenBlob, Outlet, Stale, buffers

if TYPE_CHECKING:
    from p2pcache.lanes.serve.table import Entry, Table


@dataclass(slots=True)
class Bundle:
    """What will be sent: a status for each name, and where the blob lies if it is 200."""

    parts: list[tuple[HTTPStatus, Entry | None]] = field(default_factory=list)
    stale: list[bytes] = field(default_factory=list)  # names whose file is not what it was
    body_bytes: int = 0


def gather(table: Table, scope: bytes, names: list[bytes], most_bytes: int) -> Bundle:
    """Look at every blob, so that the length of the body is known; none is read yet.

    Two looks at a file (here and when it is opened) instead of descriptors of them all: a hundred
    answers at once would need 25,600.
    """
    bundle = Bundle()
    for name in names:
        entry = table.find(scope, name)
        status = _status(entry, most_bytes - bundle.body_bytes)
        if status is HTTPStatus.GONE:
            bundle.stale.append(name)
            status = HTTPStatus.NOT_FOUND
        good = status is HTTPStatus.OK
        bundle.parts.append((status, entry if good else None))
        bundle.body_bytes += FRAME_BYTES + (entry.size if entry and good else 0)
    return bundle


def _status(entry: Entry | None, room_bytes: int) -> HTTPStatus:
    if entry is None:
        return HTTPStatus.NOT_FOUND
    if entry.size > BLOCK_BYTES:
        return HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    if entry.size > room_bytes or (entry.live_path is not None and not _is_live(entry)):
        return HTTPStatus.SERVICE_UNAVAILABLE
    try:
        found = os.stat(entry.path)
    except OSError:
        return HTTPStatus.GONE
    same = entry.guard.holds(found) if entry.guard else found.st_size == entry.size
    return HTTPStatus.OK if same else HTTPStatus.GONE


def _is_live(entry: Entry) -> bool:
    """Whether the only block of a growing blob is here."""
    try:
        with OpenBlob(entry) as blob:
            assert blob.live_fd is not None
            return os.pread(blob.live_fd, 1, 0) == b"\x01"
    except Stale:
        return False


def send_bundle(outlet: Outlet, bundle: Bundle) -> None:
    """Send the body, a block of packed files at a time. Raises Stale when a file changed since."""
    buffer = buffers.take()
    used = 0
    try:
        for status, entry in bundle.parts:
            size = 0 if entry is None else entry.size
            if used + FRAME_BYTES + size > len(buffer):
                outlet.send(buffer[:used])
                used = 0
            buffer[used : used + FRAME_BYTES] = pack_frame(status, size)
            used += FRAME_BYTES
            if entry is None or not size:
                continue
            if used + size > len(buffer):  # only a blob of a whole block, or nearly
                outlet.send(buffer[:used])
                used = 0
            _read(entry, buffer[used : used + size])
            used += size
        outlet.send(buffer[:used])
    finally:
        buffers.give(buffer)


def _read(entry: Entry, view: memoryview) -> None:
    with OpenBlob(entry) as blob:
        if os.preadv(blob.fd, [view], 0) != len(view):
            raise Stale("the file is shorter than its blob")
        blob.check()
