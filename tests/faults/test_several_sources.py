"""One source lies or leaves, another one brings it: a pull from several sources at once."""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING

import trio
import trio.lowlevel

from p2pcache.content.digests import sha256_digest
from p2pcache.lanes.orders import FetchLimits, Location
from p2pcache.sources.port import SourceKind
from p2pcache.store.layout import StoreOptions
from p2pcache.store.store import Store
from p2pcache.transfer.driver import Driver
from p2pcache.transfer.policy import TransferOptions
from p2pcache.transfer.want import Origin, Wanted
from p2pcache.transfer.workers import WorkerOptions, Workers, open_workers
from tests.support import faulty_http as fh
from tests.support.blobs import MIB
from tests.support.faulty_http import FaultyServer
from tests.support.partial_files import some_bytes

if TYPE_CHECKING:
    from pathlib import Path

# Who stalls is asked twice, and these tests count what was asked for: nobody here stalls before
# the pull, which takes a second, has failed for taking too long.
NO_STALL_S = 30.0


def origin(name: str, kind: SourceKind, url: str) -> Origin:
    async def locate(_key: str) -> Location:
        await trio.lowlevel.checkpoint()
        return Location(url)

    return Origin(name, kind, 4, locate)


def driver_of(
    wanted: list[Wanted], origins: list[Origin], store: Store, workers: Workers
) -> Driver:
    return Driver(
        wanted,
        origins,
        store,
        workers,
        options=TransferOptions(stall_s=NO_STALL_S, origin_stall_s=NO_STALL_S),
        limits=FetchLimits(),
        cores=1,
        chance=random.random,
        watch=lambda _: None,
        hold=lambda _: None,
    )


async def test_who_comes_after_a_liar_is_asked_for_each_byte_once(tmp_path: Path) -> None:
    data = some_bytes(3 * MIB, b"several")
    digest = sha256_digest(hashlib.sha256(data).digest())
    wanted = [Wanted("f", len(data), digest, "f")]
    with FaultyServer() as server, Store.open(tmp_path, StoreOptions(reserve_bytes=0)) as store:
        liar = server.on("/liar", fh.ranged(some_bytes(len(data), b"a lie")))
        honest = server.on("/honest", fh.ranged(data))
        origins = [
            origin("liar", SourceKind.PEER, liar),
            origin("honest", SourceKind.ORIGIN, honest),
        ]
        async with open_workers(WorkerOptions()) as workers:
            driver = driver_of(wanted, origins, store, workers)
            with trio.fail_after(NO_STALL_S):
                await driver.run()
        assert driver.blobs[0].path.read_bytes() == data
        by_name = {s.name: s for s in driver.statistics().sources}
        assert by_name["honest"].wire_bytes == len(data)
        assert by_name["honest"].left is None, "nobody is banned for who came before"


async def test_after_two_liars_nothing_of_theirs_is_left_for_the_third(tmp_path: Path) -> None:
    data = some_bytes(3 * MIB, b"third")
    digest = sha256_digest(hashlib.sha256(data).digest())
    wanted = [Wanted("f", len(data), digest, "f")]
    lie = some_bytes(len(data), b"the same lie")
    with FaultyServer() as server, Store.open(tmp_path, StoreOptions(reserve_bytes=0)) as store:
        origins = [
            origin("first", SourceKind.PEER, server.on("/first", fh.ranged(lie))),
            origin("second", SourceKind.KUBO, server.on("/second", fh.ranged(lie))),
            origin("third", SourceKind.ORIGIN, server.on("/third", fh.ranged(data))),
        ]
        async with open_workers(WorkerOptions()) as workers:
            driver = driver_of(wanted, origins, store, workers)
            with trio.fail_after(NO_STALL_S):
                await driver.run()
        assert driver.blobs[0].path.read_bytes() == data
        by_name = {s.name: s for s in driver.statistics().sources}
        assert by_name["third"].wire_bytes == len(data), "not once more to find the old blocks out"
        assert by_name["third"].kept_bytes == len(data)
