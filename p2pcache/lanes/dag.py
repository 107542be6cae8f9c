"""A file of any UnixFS shape, block by block: for a DAG whose leaves are no blocks of ours.

Each block is one GET (`?format=raw` of a trustless gateway), verified before a byte of it is used.
Blocks are asked for one after the other on one connection; several files are several workers.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from p2pcache.content import cid as cids
from p2pcache.content.blocks import MAX_BLOCK_BYTES
from p2pcache.content.dag import files
from p2pcache.content.dag.hashes import raw_hash, verify_cid
from p2pcache.content.dag.walk import stream
from p2pcache.errors import P2PCacheError, Untrusted
from p2pcache.lanes import http
from p2pcache.lanes.faults import Ended, disk_fault, ended, host_of
from p2pcache.lanes.fetch import refuse_encoded
from p2pcache.lanes.odometer import counting
from p2pcache.lanes.orders import BLOCK_BYTES, Fault, FaultKind, FetchLimits, Location
from p2pcache.lanes.pace import Guard, pacer_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from p2pcache.content.dag.walk import Get


@dataclass(frozen=True, slots=True)
class DagOrder:
    """The file that `cid` is, into `dst_path` (new). `location`: where its gateway has it, ending
    in a CID; its other blocks are beside it. `size`: bytes, as its root tells.
    """

    location: Location
    cid: bytes
    dst_path: str
    size: int
    limits: FetchLimits


@dataclass(frozen=True, slots=True)
class DagReport:
    """`sha256` and `block_digests` (of each of our blocks, joined) of what was verified, written
    and fsynced; empty after a fault. `blocks`: requests. `is_dag_wrong`: every block was what its
    CID names, and together they are no file of that size: nobody could have sent better ones.
    """

    sha256: bytes
    block_digests: bytes
    wire_bytes: int
    blocks: int
    seconds: float
    fault: Fault | None = None
    is_dag_wrong: bool = False


class _WrongDag(Ended):
    """Ended by what the verified blocks say."""


class _Blocks:
    """Asks for one after the other. Raises `Ended`."""

    def __init__(self, order: DagOrder, count: Callable[[int], None]) -> None:
        self._pacer = pacer_for(order.limits)
        self._order = order
        self._base = order.location.url.rpartition("/")[0]
        self._count = count
        self.wire_bytes = self.blocks = 0

    def get(self, cid: bytes) -> bytes:
        order = self._order
        url = f"{self._base}/{cids.format_cid(cid)}?format=raw"
        guard = Guard(order.limits, self._pacer, count=self._count)
        location = replace(order.location, url=url)
        self.blocks += 1
        body = http.get(location, order.limits, guard, None)
        try:
            if body.status != 200:
                raise http.refuse_status(body, location)
            refuse_encoded(body)
            data = self._read(body)
        finally:
            self.wire_bytes += body.received_bytes
            body.finish()
        try:
            verify_cid(cid, data)
        except Untrusted as exc:
            message = f"{host_of(url)}: {exc.message}"
            arrived = raw_hash(0x12, data)
            raise Ended(Fault(FaultKind.UNTRUSTED, message, arrived=arrived)) from exc
        return data

    def _read(self, body: http.Body) -> bytes:
        most = MAX_BLOCK_BYTES if body.length is None else body.length
        if most > MAX_BLOCK_BYTES:
            raise ended(FaultKind.UNTRUSTED, f"a block of {most} bytes is over the limit")
        buffer, got = bytearray(most + (body.length is None)), 0
        with memoryview(buffer) as view:
            while got < len(buffer) and (count := body.read_into(view[got:])):
                got += count
        if body.length is not None and got < body.length:
            raise ended(FaultKind.UNAVAILABLE, f"{host_of(body.url)}: a block was cut short")
        return bytes(buffer[:got])


class _Hashes:
    """The whole sha2-256, and that of each of our blocks, of bytes that come in any pieces."""

    def __init__(self) -> None:
        self._whole = hashlib.sha256()
        self._block = hashlib.sha256()
        self._filled = 0
        self._made = bytearray()
        self.size = 0

    def update(self, data: bytes) -> None:
        self._whole.update(data)
        self.size += len(data)
        view = memoryview(data)
        while view:
            part = view[: BLOCK_BYTES - self._filled]
            self._block.update(part)
            self._filled += len(part)
            view = view[len(part) :]
            if self._filled == BLOCK_BYTES:
                self._end_block()

    def finish(self) -> tuple[bytes, bytes]:
        if self._filled:
            self._end_block()
        return self._whole.digest(), bytes(self._made)

    def _end_block(self) -> None:
        self._made += self._block.digest()
        self._block, self._filled = hashlib.sha256(), 0


def fetch_dag(order: DagOrder) -> DagReport:
    """Run one order in this process and report. Never raises for the remote or the disk; after a
    fault no file is left.
    """
    with counting(order.limits.counted) as count:
        blocks = _Blocks(order, count)
        report = put_together(order.cid, order.size, order.dst_path, blocks.get)
    return replace(report, wire_bytes=blocks.wire_bytes, blocks=blocks.blocks)


def put_together(cid: bytes, size: int, dst_path: str, get: Get) -> DagReport:
    """The file that `cid` is, of blocks that `get` gives verified, into `dst_path` (new). Reports
    as `fetch_dag`; `get` raises `Ended` for what is no fault of the DAG.
    """
    began = time.monotonic()
    try:
        sha256, digests = _write(cid, size, dst_path, get)
        fault, is_dag_wrong = None, False
    except Ended as exc:
        sha256, digests, fault = b"", b"", exc.fault
        is_dag_wrong = isinstance(exc, _WrongDag)
    return DagReport(sha256, digests, 0, 0, time.monotonic() - began, fault, is_dag_wrong)


def _write(cid: bytes, size: int, dst_path: str, get: Get) -> tuple[bytes, bytes]:
    hashes = _Hashes()
    try:
        fd = os.open(dst_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise Ended(disk_fault(exc, "create a file")) from exc
    try:
        for data in stream(files.read(cid), get):
            hashes.update(data)
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
        if hashes.size != size:
            raise _wrong_dag(cid, f"the file has {hashes.size} bytes, expected {size}")
        os.fchmod(fd, 0o444)
        os.fsync(fd)
    except BaseException as exc:
        with contextlib.suppress(OSError):
            os.unlink(dst_path)
        if isinstance(exc, OSError):
            raise Ended(disk_fault(exc, "write a file")) from exc
        if isinstance(exc, P2PCacheError):
            raise _wrong_dag(cid, exc.message) from exc
        raise
    finally:
        os.close(fd)
    return hashes.finish()


def _wrong_dag(cid: bytes, text: str) -> Ended:
    message = f"the DAG of {cids.format_cid(cid)} is wrong, whoever sends it: {text}"
    return _WrongDag(Fault(FaultKind.UNTRUSTED, message))
