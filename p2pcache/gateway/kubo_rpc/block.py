"""`block/get`, `block/put`, `block/stat`, `block/rm`: single blocks."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

from p2pcache.content import cid as cids
from p2pcache.content import digests
from p2pcache.content.blocks import MAX_BLOCK_BYTES
from p2pcache.content.dag import hashes
from p2pcache.errors import Denied, NotFound, UsageError
from p2pcache.gateway.kubo_rpc import answers, multipart
from p2pcache.gateway.kubo_rpc.multipart import Data, File, FileEnd

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from p2pcache.gateway.kubo_rpc.answers import Pieces, Rows
    from p2pcache.gateway.kubo_rpc.call import Call
    from p2pcache.gateway.messages import Response

CODECS = {name: code for code, name in cids.CODECS.items()} | {"protobuf": cids.DAG_PB}
HASHES = {
    "sha2-256": digests.SHA2_256,
    "sha2-512": hashes.SHA2_512,
    "blake3": hashes.BLAKE3,
    "identity": cids.IDENTITY,
}
TOO_BIG = (
    "produced block is over 2MiB: big blocks can't be exchanged with other peers. consider using"
    " UnixFS for automatic chunking of bigger files, or pass --allow-big-block to override"
)


def codec_named(name: str) -> int:
    """Raises UsageError in Kubo's words."""
    try:
        return CODECS[name]
    except KeyError:
        raise UsageError(f'unknown multicodec: "{name[:80]}"') from None


def hash_named(name: str) -> int:
    """Raises UsageError in Kubo's words."""
    try:
        return HASHES[name]
    except KeyError:
        raise UsageError(f"unrecognized multihash function: {name[:80]}") from None


def cid_of(codec: int, block: bytes, code: int) -> bytes:
    """The CIDv1 of a block that a client gave us. Raises UsageError: too long for identity."""
    try:
        return hashes.cid_of(codec, block, code)
    except ValueError as exc:
        raise UsageError(str(exc)) from exc


async def whole_files(
    call: Call, argument: str, most: int = MAX_BLOCK_BYTES
) -> AsyncGenerator[bytes, None]:
    """The bytes of each file of the body, each at most `most`. Raises UsageError."""
    held = bytearray()
    async with aclosing(multipart.events(call.request, argument)) as events:
        async for event in events:
            match event:
                case File():
                    held = bytearray()
                case Data():
                    held += event.data
                    if len(held) > most:
                        raise UsageError(TOO_BIG)
                case FileEnd():
                    yield bytes(held)
                case _:
                    raise UsageError(f"`{argument}` takes files alone")


async def put(call: Call) -> Response:
    """`block/put`: every file of the body is a block."""
    query = call.query
    query.unsupported("allow-big-block")
    code = hash_named(query.text("mhtype") or "sha2-256")
    if (length := query.integer("mhlen", kind="int")) not in (None, -1):
        full = hashes.LENGTHS.get(code)
        if full is None or length not in full:
            raise UsageError(f"p2pcache keeps hashes whole: mhlen cannot be {length}")
    old = query.text("format")
    name = query.text("cid-codec") or "raw"
    v0 = old == "v0"
    if old is not None and not v0:
        name = old
    if v0 and code != digests.SHA2_256:
        raise UsageError("a CIDv0 is of a sha2-256")
    codec = cids.DAG_PB if v0 else codec_named(name)
    multipart.boundary_of(call.request, "data")
    return await answers.lines(call.held(_put(call, codec, code, v0, query.flag("pin"))))


async def _put(call: Call, codec: int, code: int, v0: bool, pin: bool) -> Rows:
    async with aclosing(whole_files(call, "data")) as found:
        async for block in found:
            cid = cid_of(codec, block, code)
            await call.put(cid, block)
            if pin:
                await call.context.pins.pin(cid, recursive=False)
            shown = cids.as_v0(cid) if v0 else cid
            yield {"Key": cids.format_cid(shown), "Size": len(block)}


async def block_of(call: Call, cid: bytes) -> bytes:
    """A block by a CID of any kind."""
    parts = cids.parts(cid)
    return parts.digest if parts.hash_code == cids.IDENTITY else await call.get(cids.as_v1(cid))


async def get(call: Call) -> Response:
    """`block/get`."""
    block = await block_of(call, await call.cid_of(call.query.arg("cid")))
    return await answers.stream(_one(block), "application/vnd.ipld.raw")


async def _one(block: bytes) -> Pieces:
    yield block


async def stat(call: Call) -> Response:
    """`block/stat`: of one that is not here it is fetched, as Kubo does."""
    cid = await call.cid_of(call.query.arg("cid"))
    length = await call.context.blocks.length(cid)
    if length is None:
        length = len(await block_of(call, cid))
    return answers.answer({"Key": cids.format_cid(cid), "Size": length})


async def rm(call: Call) -> Response:
    """`block/rm`: loose blocks alone; those of blobs go with their blob (`p2pcache rm`)."""
    wanted = [await call.cid_of(path) for path in call.query.args("cid")]
    return await answers.lines(_rm(call, wanted, call.query.flag("force", "f")))


async def _rm(call: Call, wanted: list[bytes], force: bool) -> Rows:
    for cid in wanted:
        row = {"Hash": cids.format_cid(cid)}
        try:
            if not await call.context.pins.remove(cid) and not force:
                raise NotFound(f"ipld: could not find {row['Hash']}")
        except (Denied, NotFound) as exc:
            row["Error"] = exc.message
        yield row
