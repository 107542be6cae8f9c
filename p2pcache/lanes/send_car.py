"""Blocks of ours to a Kubo, as CARs of some blocks each (`dag/import`), block by block.

Kubo keeps the blocks of a CAR when all of it came (of 40 MiB that were cut off 0.43 kept none), so
a long one would have to begin anew. Children come before their parents, and nothing is pinned: what
is cut off in the middle is of use when the rest comes, and promises nothing. Each block is verified
before it goes out: a damaged disk must not be blamed on whoever receives it. Memory: one block, and
33 bytes for each block of a file.
"""

from __future__ import annotations

import http.client
import json
import os
import ssl
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from p2pcache.content import car, unixfs
from p2pcache.content import cid as cids
from p2pcache.content.unixfs import LEAF_BYTES
from p2pcache.content.verify import verify_block
from p2pcache.errors import Untrusted
from p2pcache.lanes.faults import Ended, disk_fault, ended, host_of, network_fault, plain_text
from p2pcache.lanes.odometer import counting
from p2pcache.lanes.orders import Fault, FaultKind, FetchLimits
from p2pcache.lanes.pace import paced, pacer_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAX_ANSWER_BYTES = 1 << 20  # what a server says of an import is some hundred bytes
# `no_progress_s`: without taking a byte, or an answer: its disk may be flushing
LIMITS = FetchLimits(no_progress_s=60.0)
PART_BYTES = 32 << 20  # of one CAR: what a crash costs, and 0.1 s of Kubo's time
HASH_BYTES = 32
_BOUNDARY = "p2pcache-car"
_HEAD = (
    f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="p2pcache.car"\r\n'
    "Content-Type: application/octet-stream\r\n\r\n"
).encode()
_TAIL = f"\r\n--{_BOUNDARY}--\r\n".encode()


@dataclass(frozen=True, slots=True)
class SentFile:
    """A blob, of which some blocks are to be sent. `hashes`: the sha2-256 of each block, joined;
    `leaves`: one byte a block, nonzero for those; `nodes`: the CIDs of those nodes above them.
    """

    path: str
    size: int
    hashes: bytes = field(repr=False)
    leaves: bytes = field(repr=False)
    nodes: frozenset[bytes] = field(repr=False)


@dataclass(frozen=True, slots=True)
class SendOrder:
    """To `url`, in CARs with this root, the files' blocks first, then `nodes` (CID, block)."""

    url: str
    root: bytes
    files: tuple[SentFile, ...]
    nodes: tuple[tuple[bytes, bytes], ...]
    limits: FetchLimits = LIMITS


@dataclass(frozen=True, slots=True)
class SendReport:
    """What the server said that it took. Bytes are of blocks."""

    sent_blocks: int
    sent_bytes: int
    seconds: float
    fault: Fault | None = None


class _Blocks:
    """The blocks one at a time, in CARs. `blocks`, `bytes`: of the one that is being sent. Raises
    `Ended` for our disk.
    """

    def __init__(self, order: SendOrder, count: Callable[[int], None]) -> None:
        self._order = order
        self._count = count
        self._pacer = pacer_for(order.limits)
        self._all = self._sections()
        self._next = next(self._all, None)
        self.blocks = self.bytes = 0

    @property
    def is_over(self) -> bool:
        """Whether all was sent."""
        return self._next is None

    def body(self) -> Iterator[bytes | memoryview]:
        """The next CAR, in its envelope."""
        self.blocks = self.bytes = 0
        yield _HEAD + car.encode_header([self._order.root])
        while self._next is not None and self.bytes < PART_BYTES:
            cid, data = self._next
            frame, _ = car.encode_section(cid, data)
            yield frame
            yield from paced(memoryview(data), self._pacer, self._count, LEAF_BYTES)
            self.blocks += 1
            self.bytes += len(data)
            self._next = next(self._all, None)
        yield _TAIL

    def _sections(self) -> Iterator[tuple[bytes, bytes]]:
        for file in self._order.files:
            yield from self._file(file)
        yield from self._order.nodes

    def _file(self, file: SentFile) -> Iterator[tuple[bytes, bytes]]:
        if any(file.leaves):
            try:
                fd = os.open(file.path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    for number, wanted in enumerate(file.leaves):
                        if wanted:
                            yield self._leaf(file, fd, number)
                finally:
                    os.close(fd)
            except OSError as exc:
                raise Ended(disk_fault(exc, f"read {file.path}")) from exc
        if file.nodes:
            made: list[tuple[bytes, bytes]] = []
            unixfs.file_root(
                split(file.hashes), file.size, lambda cid, block: made.append((cid, block))
            )
            for cid, block in made:
                if cid in file.nodes:
                    yield cid, block

    def _leaf(self, file: SentFile, fd: int, number: int) -> tuple[bytes, bytes]:
        expected = file.hashes[number * HASH_BYTES :][:HASH_BYTES]
        data = os.pread(fd, LEAF_BYTES, number * LEAF_BYTES)
        try:
            verify_block(expected, data)
        except Untrusted as exc:
            text = f"{file.path} is damaged on this disk: {exc.message}"
            raise ended(FaultKind.LOCAL, text) from exc
        return cids.raw_cid(expected), data


def split(hashes: bytes) -> Iterator[bytes]:
    """Joined hashes one by one."""
    return (hashes[at : at + HASH_BYTES] for at in range(0, len(hashes), HASH_BYTES))


def send_car(order: SendOrder) -> SendReport:
    """Run one order in this process and report. Never raises for the remote or the disk."""
    began = time.monotonic()
    sent_blocks = sent_bytes = 0
    fault = None
    with counting(order.limits.counted) as count:
        try:
            blocks = _Blocks(order, count)
            while not blocks.is_over:
                _post(order, blocks)
                sent_blocks += blocks.blocks
                sent_bytes += blocks.bytes
        except Ended as exc:
            fault = exc.fault
    return SendReport(sent_blocks, sent_bytes, time.monotonic() - began, fault)


def _post(order: SendOrder, blocks: _Blocks) -> None:
    parts = urlsplit(order.url)
    host, port = parts.hostname or "", parts.port
    is_tls = parts.scheme == "https"
    silent_s = order.limits.no_progress_s
    connection = (
        http.client.HTTPSConnection(
            host, port, timeout=silent_s, context=ssl.create_default_context()
        )
        if is_tls
        else http.client.HTTPConnection(host, port, timeout=silent_s)
    )
    try:
        status, answer = _exchange(connection, order.url, blocks)
    except (OSError, http.client.HTTPException) as exc:
        raise Ended(network_fault(exc, order.url)) from exc
    finally:
        connection.close()
    if status != 200:
        raise Ended(_refusal(status, answer, order.url))
    taken = _taken(answer)
    if taken != blocks.blocks:
        text = f"{host_of(order.url)} got {blocks.blocks} blocks and says that it took {taken}"
        raise ended(FaultKind.UNTRUSTED, text)


def _exchange(
    connection: http.client.HTTPConnection, url: str, blocks: _Blocks
) -> tuple[int, bytes]:
    """Status and body of the answer. Raises OSError, HTTPException."""
    parts = urlsplit(url)
    headers = {
        "Content-Type": f"multipart/form-data; boundary={_BOUNDARY}",
        "Transfer-Encoding": "chunked",
        "User-Agent": "p2pcache",
        "Connection": "close",
    }
    target = f"{parts.path}?{parts.query}" if parts.query else parts.path
    broke: OSError | None = None
    try:
        connection.request("POST", target, blocks.body(), headers, encode_chunked=True)
    except (BrokenPipeError, ConnectionResetError) as exc:
        broke = exc  # it may have said why before it hung up
    try:
        response = connection.getresponse()
        answer = response.read(MAX_ANSWER_BYTES)
    except (OSError, http.client.HTTPException):
        if broke is not None:
            raise broke from None
        raise
    if broke is not None and response.status == 200:
        raise broke  # it answered before it had all of it: that is no yes
    return response.status, answer


def _taken(answer: bytes) -> int | None:
    """The blocks that it counted (`stats=true`)."""
    with suppress(ValueError, KeyError, TypeError):
        count = json.loads(answer)["Stats"]["BlockCount"]
        return count if isinstance(count, int) else None
    return None


def _refusal(status: int, body: bytes, url: str) -> Fault:
    """401, 403 and other 4xx: Denied; what Kubo says with a 500 is for its owner to mend."""
    said = ""
    with suppress(ValueError):
        said = plain_text(body[:500].decode("utf-8", "replace"))
    kind = FaultKind.UNAVAILABLE
    if 300 <= status < 500 and status not in (408, 429):
        kind = FaultKind.DENIED
    return Fault(kind, f"{host_of(url)} refuses (HTTP {status}): {said}", http_status=status)
