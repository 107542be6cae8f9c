"""A Kubo that gets something and misbehaves: whatever it does, nothing claims that it has it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trio

from p2pcache import errors
from p2pcache.content import cid as cids
from p2pcache.content.digests import sha256_digest
from p2pcache.content.manifest import FileEntry, Manifest
from p2pcache.destinations.kubo import KuboDestination
from p2pcache.destinations.port import Content, ContentFile
from p2pcache.lanes.send_car import send_car
from tests.support import faulty_http as fh
from tests.support.faulty_http import FaultyServer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from p2pcache.destinations.port import Pushed
    from p2pcache.lanes.send_car import SendOrder, SendReport

DATA = b"some bytes for a Kubo"
DIGEST = hashlib.sha256(DATA).digest()
ROOT = cids.raw_cid(DIGEST)
TEXT = cids.format_cid(ROOT)
OTHER = cids.format_cid(cids.raw_cid(bytes(32)))
LACKS = {"Message": "block was not found locally (offline)", "Code": 0, "Type": "error"}
UNPINNED = {"Message": f"path '/ipfs/{TEXT}' is not pinned", "Code": 0, "Type": "error"}


def says(value: object, code: int = 200) -> fh.Answer:
    return fh.status(code, json.dumps(value).encode())


def takes(answer: fh.Answer) -> fh.Answer:
    """The same after all of the body came."""

    def drained(ask: fh.Exchange) -> bool:
        seen = ask.body
        while not seen.endswith(b"0\r\n\r\n"):
            more = ask.sock.recv(1 << 16)
            if not more:
                break
            seen = (seen + more)[-99:]
        answer(ask)
        return False

    return drained


async def in_a_thread(order: SendOrder) -> SendReport:
    return await trio.to_thread.run_sync(send_car, order)


async def pushed(
    server: FaultyServer, tmp_path: Path, hashes: bytes = DIGEST, data: bytes = DATA,
    send: Callable[[SendOrder], Awaitable[SendReport]] = in_a_thread,
) -> Pushed:  # fmt: skip
    (tmp_path / "blob").write_bytes(data)
    file = ContentFile(str(tmp_path / "blob"), len(DATA), DIGEST, ROOT, hashes)
    manifest = Manifest.from_entries([FileEntry("blob", len(DATA), sha256_digest(DIGEST))])
    content = Content("sha256:blob", manifest, True, ROOT, (file,), {"blob": file}, ())
    one = KuboDestination(server.url(""), send, None)
    plan = await one.plan(content)
    assert one.missing(plan).bytes == len(DATA)
    return await one.send(content, plan, lambda _: None)


def kubo(server: FaultyServer) -> None:
    """One that lacks the block, takes it, pins it."""
    server.on("/api/v0/block/stat", says(LACKS, 500))
    pinned = says({"Keys": {TEXT: {"Type": "recursive"}}})
    server.on("/api/v0/pin/ls", fh.first(1, says(UNPINNED, 500), pinned))
    server.on("/api/v0/dag/import", takes(says({"Stats": {"BlockCount": 1}})))
    server.on("/api/v0/pin/add", says({"Pins": [TEXT]}))
    server.on("/api/v0/routing/provide", says(None))


async def test_what_it_says_itself_is_what_counts(tmp_path: Path) -> None:
    with FaultyServer() as server:
        kubo(server)
        done = await pushed(server, tmp_path)
        assert (done.sent.blocks, done.sent.bytes, done.provided) == (1, len(DATA), True)


@pytest.mark.parametrize(
    ("call", "answer", "error", "match"),
    [
        ("dag/import", takes(fh.status(403)), errors.Denied, "HTTP 403"),
        ("dag/import", takes(fh.status(405)), errors.Denied, "HTTP 405"),
        ("dag/import", takes(says({"Message": "no space left on device"}, 500)),
         errors.Unavailable, "no space left"),
        ("dag/import", takes(says({"Stats": {"BlockCount": 0}})), errors.Untrusted, "took 0"),
        ("dag/import", takes(fh.status(200, b"no json")), errors.Untrusted, "took None"),
        ("dag/import", takes(fh.hang_up), errors.Unavailable, "cut"),
        ("dag/import", fh.reset, errors.Unavailable, "cut"),
        ("pin/add", says({"Pins": [OTHER]}), errors.Untrusted, "says that it pinned"),
        ("pin/add", says({"Pins": []}), errors.Untrusted, "says that it pinned"),
        ("pin/add", says({"Message": "context deadline"}, 500), errors.Unavailable, "not pin"),
        ("pin/add", fh.status(403), errors.Denied, "HTTP 403"),
        ("pin/ls", says(UNPINNED, 500), errors.Unavailable, "does not list"),
        ("pin/ls", says({"Keys": {OTHER: {"Type": "recursive"}}}), errors.Untrusted, "other pins"),
        ("pin/ls", fh.status(403), errors.Denied, "HTTP 403"),
        ("block/stat", says({"Message": "repo is locked"}, 500), errors.Unavailable, "locked"),
    ],
)  # fmt: skip
async def test_the_table_of_what_it_may_do(
    tmp_path: Path,
    call: str,
    answer: fh.Answer,
    error: type[errors.P2PCacheError],
    match: str,
) -> None:
    with FaultyServer() as server:
        kubo(server)
        server.on(f"/api/v0/{call}", answer)
        with pytest.raises(error, match=match):
            await pushed(server, tmp_path)


async def test_a_pin_that_is_not_announced_is_a_note(tmp_path: Path) -> None:
    with FaultyServer() as server:
        kubo(server)
        server.on("/api/v0/routing/provide", says({"Message": "must be run in online mode"}, 500))
        done = await pushed(server, tmp_path)
        assert not done.provided
        assert "online mode" in done.notes[0]


async def test_a_blob_that_is_damaged_here_is_not_sent_and_kubo_is_not_blamed(
    tmp_path: Path,
) -> None:
    with FaultyServer() as server:
        kubo(server)
        with pytest.raises(errors.LocalFault, match="damaged on this disk"):
            await pushed(server, tmp_path, data=b"rotten" + DATA[6:])


async def test_a_kubo_that_takes_nothing_is_left(tmp_path: Path) -> None:
    async def quick(order: SendOrder) -> SendReport:
        limits = replace(order.limits, no_progress_s=0.3)
        return await in_a_thread(replace(order, limits=limits))

    with FaultyServer() as server:
        kubo(server)
        server.on("/api/v0/dag/import", fh.stall)
        with trio.fail_after(20), pytest.raises(errors.Unavailable):
            await pushed(server, tmp_path, send=quick)
