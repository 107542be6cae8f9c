"""Whatever block a call meets, the loop of the RPC answers others meanwhile.

What counts is what the loop's own thread computes between two beats: a block of 2 MiB takes a
second or more to decode. The blocks here have a third of what fits.
"""

from __future__ import annotations

import gc
import hashlib
from typing import TYPE_CHECKING

import pytest

from p2pcache.content import cid as cids
from p2pcache.content.carstream import encode_car
from p2pcache.content.dag import cbor, djson, fsdata, node
from p2pcache.content.dag.cbor import CidLink
from p2pcache.content.dag.fsdata import FsData, Kind
from p2pcache.content.dag.hashes import cid_of
from p2pcache.content.dag.walk import Found
from tests.support.kubo_rpc import FILE
from tests.support.pulse import Pulse
from tests.support.rpc_server import rpc_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.kubo_rpc import Said, Server

DEAF_S = 0.1  # of the loop's own thread; a collection of garbage alone takes it 0.05 s
BLOCK_BYTES = 2 << 20
HELD = b"\x01\x55\x00\x01x"  # a raw block of one byte that stands in its CID
LINK = CidLink(cids.raw_cid(hashlib.sha256(b"x").digest()))
MANY = 20_000


def linked(count: int, *, names: bool) -> bytes:
    """Links of dag-pb to a byte each."""
    return b"".join(
        node.link_field(HELD, b"%05d" % number if names else b"", 1) for number in range(count)
    )


BLOCKS = {
    "dag-json": djson.encode([LINK] * MANY),
    "dag-cbor": cbor.encode({f"{number:x}": LINK for number in range(MANY)}),
    "folder": linked(MANY, names=True)
    + node.field(node.DATA, fsdata.encode(FsData(Kind.DIRECTORY))),
    "file": linked(MANY, names=False)
    + node.field(node.DATA, fsdata.encode(FsData(Kind.FILE, b"", MANY, (1,) * MANY))),
    "sizes": node.field(node.DATA, b"\x08\x02" + node.field(0x22, b"\x01" * (BLOCK_BYTES - 40))),
}  # fmt: skip
CODECS = {"dag-json": cids.DAG_JSON, "dag-cbor": cids.DAG_CBOR}

EVERY = (
    "dag/get?arg={}", "dag/resolve?arg={}/x", "dag/export?arg={}", "files/stat?arg=/ipfs/{}",
    "pin/add?arg={}",
)  # fmt: skip
TREE = ("files/cp?arg=/ipfs/{}&arg=/x", "files/mv?arg=/x&arg=/y", "files/rm?arg=/y&r=true")
OF = {
    "dag-json": ("ls?arg={}",),
    "dag-cbor": (),
    "folder": ("ls?size=false&resolve-type=false&arg={}", *TREE, "pin/ls"),
    "file": ("cat?arg={}", "get?compress=true&compression-level=9&arg={}", *TREE),
    "sizes": ("cat?arg={}", "get?arg={}", "ls?arg={}"),
}


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[tuple[Server, Pulse]]:
    pulse = Pulse()
    gc.collect()
    gc.freeze()  # what other tests left would be looked through in the loop's thread
    try:
        with rpc_server(tmp_path_factory.mktemp("rpc"), pulse) as server:
            yield server, pulse
    finally:
        gc.unfreeze()


def put(server: Server, name: str) -> str:
    codec = CODECS.get(name, cids.DAG_PB)
    said = server.upload(f"block/put?cid-codec={cids.CODECS[codec]}", ("x", BLOCKS[name], FILE))
    assert said.status == 200
    cid = cids.format_cid(cid_of(codec, BLOCKS[name]))
    assert said.lines[0]["Key"] == cid
    return cid


def calls(server: Server, name: str) -> Iterator[tuple[str, Said]]:
    cid = put(server, name)
    for call in EVERY + OF[name]:
        target = call.format(cid)
        yield target, server.post(target)
    if name in CODECS:
        for codec in ("dag-cbor", "dag-json"):
            options = f"input-codec={name}&store-codec={codec}"
            yield options, server.upload(f"dag/put?{options}", ("x", BLOCKS[name], FILE))
    block = Found(cid_of(CODECS.get(name, cids.DAG_PB), BLOCKS[name]), BLOCKS[name])
    car = b"".join(encode_car([block.cid], [block]))
    yield "dag/import", server.upload("dag/import", ("x", car, FILE))


@pytest.mark.parametrize("name", BLOCKS)
def test_no_block_makes_the_loop_deaf_in_any_call(served, name):
    server, pulse = served
    slow, answered = {}, 0
    pulse.busy_s = 0.0
    for call, said in calls(server, name):
        assert said.status in (200, 500), call
        answered += said.status == 200
        if pulse.busy_s > DEAF_S:
            slow[call] = round(pulse.busy_s, 3)
        pulse.busy_s = 0.0
    assert not slow
    assert answered >= {"sizes": 1, "file": 9}.get(name, 4)


def test_a_folder_of_very_many_names_is_built_beside_the_loop(served):
    server, pulse = served
    parts = [(f"d/{number:x}", b"", FILE) for number in range(4000)]
    pulse.busy_s = 0.0
    said = server.upload("add?pin=false&only-hash=true", *parts)
    assert len(said.lines) == 4001
    assert pulse.busy_s < DEAF_S


def test_a_file_in_chunks_of_a_byte_lets_others_have_the_loop(served):
    server, pulse = served
    pulse.busy_s = 0.0
    said = server.upload("add?only-hash=true&chunker=size-1", ("x", b"x" * (1 << 17), FILE))
    assert said.status == 200
    assert pulse.busy_s < DEAF_S
