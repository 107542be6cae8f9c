"""`dag/get`, `put`, `resolve`, `stat`, `export`, `import`: DAGs of any codec that we know."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from p2pcache.content import cid as cids
from p2pcache.content import varint
from p2pcache.content.carstream import CarReader, encode_car
from p2pcache.content.dag import cbor, djson, node, traverse
from p2pcache.content.dag.cbor import CidLink
from p2pcache.errors import NotFound, P2PCacheError, Untrusted, UsageError
from p2pcache.gateway.kubo_rpc import answers, multipart, paths, steps
from p2pcache.gateway.kubo_rpc.block import block_of, cid_of, codec_named, hash_named, whole_files
from p2pcache.gateway.kubo_rpc.multipart import Data, File, FileEnd

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from p2pcache.content.dag.cbor import Value
    from p2pcache.content.dag.walk import Found
    from p2pcache.gateway.kubo_rpc.answers import Pieces, Rows
    from p2pcache.gateway.kubo_rpc.call import Call
    from p2pcache.gateway.messages import Response

MAX_ROOTS = 10_000  # of all CARs of one import: each is pinned and told of


def decode(codec: int, block: bytes) -> Value:
    """A block to a value. Raises Untrusted, UsageError for a codec without values."""
    if codec == cids.DAG_CBOR:
        return cbor.decode(block)
    if codec == cids.DAG_JSON:
        return djson.decode(block)
    if codec == cids.RAW:
        return block
    if codec == cids.DAG_PB:
        return _pb_value(block)
    raise UsageError(f"p2pcache does not know the codec {codec:#x}")


def encode(codec: int, value: Value) -> bytes:
    """A value to a block. Raises UsageError when the codec cannot say it."""
    if codec == cids.DAG_CBOR:
        return cbor.encode(value)
    if codec == cids.DAG_JSON:
        return djson.encode(value)
    if codec == cids.RAW:
        if not isinstance(value, bytes):
            raise UsageError("a raw block is bytes, and this is something else")
        return value
    if codec == cids.DAG_PB:
        return _pb_block(value)
    raise UsageError(f"p2pcache does not know the codec {codec:#x}")


def _pb_value(block: bytes) -> Value:
    found = node.parse(block)
    links: list[Value] = []
    for one in found.links:
        row: dict[str, Value] = {
            "Hash": CidLink(one.cid),
            "Name": one.name.decode("utf-8", "replace"),
        }
        if one.size is not None:
            row["Tsize"] = one.size
        links.append(row)
    value: dict[str, Value] = {"Links": links}
    if found.data is not None:
        value["Data"] = found.data
    return value


def _pb_block(value: Value) -> bytes:
    match value:
        case {"Links": list(rows), **rest} if set(rest) <= {"Data"}:
            data = rest.get("Data")
            if data is None or isinstance(data, bytes):
                return node.encode([_pb_link(row) for row in rows], data)
    raise UsageError('a dag-pb node is `{"Data": bytes, "Links": [...]}`')


def _pb_link(row: Value) -> node.Link:
    match row:
        case {"Hash": CidLink(cid), **rest} if set(rest) <= {"Name", "Tsize"}:
            name, size = rest.get("Name", ""), rest.get("Tsize")
            if isinstance(name, str) and (size is None or (type(size) is int and size >= 0)):
                return node.Link(cid, name.encode(), size)
    raise UsageError('a link of a dag-pb node is `{"Hash": link, "Name": text, "Tsize": number}`')


async def get(call: Call) -> Response:
    """`dag/get`: a block, or a value in it, as dag-json or another codec."""
    query = call.query
    codec = codec_named(query.text("output-codec") or "dag-json")
    found = await paths.resolve(paths.parse(query.arg("ref")), call.run)
    block = await block_of(call, found.cid)
    own = cids.codec(found.cid)
    if own != codec or found.remainder:
        block = await steps.in_thread(_recoded, own, block, found.remainder, codec)
    return await answers.stream(_one(block))


def _recoded(own: int, block: bytes, names: tuple[str, ...], codec: int) -> bytes:
    return encode(codec, _within(decode(own, block), names))


def _within(value: Value, names: tuple[str, ...]) -> Value:
    for name in names:
        match value:
            case dict() if name in value:
                value = value[name]
            case list() if name.isdecimal() and int(name) < len(value):
                value = value[int(name)]
            case _:
                raise NotFound(f'key not found: "{name}"')
    return value


async def _one(block: bytes) -> Pieces:
    yield block


async def put(call: Call) -> Response:
    """`dag/put`: every file of the body is a value."""
    query = call.query
    query.unsupported("allow-big-block")
    reads = codec_named(query.text("input-codec") or "dag-json")
    writes = codec_named(query.text("store-codec") or "dag-cbor")
    code = hash_named(query.text("hash") or "sha2-256")
    multipart.boundary_of(call.request, "object data")
    return await answers.lines(call.held(_put(call, reads, writes, code, query.flag("pin"))))


async def _put(call: Call, reads: int, writes: int, code: int, pin: bool) -> Rows:
    async with aclosing(whole_files(call, "object data")) as found:
        async for data in found:
            block = await steps.in_thread(_recoded, reads, data, (), writes)
            cid = cid_of(writes, block, code)
            await call.put(cid, block)
            if pin:
                await call.context.pins.pin(cid)
            yield {"Cid": answers.link(cid)}


async def resolve(call: Call) -> Response:
    """`dag/resolve`: the block at the end of a path, and what of the path lies within it."""
    found = await paths.resolve(paths.parse(call.query.arg("ref")), call.run)
    rest = "".join(f"/{name}" for name in found.remainder)
    return answers.answer({"Cid": answers.link(found.cid), "RemPath": rest})


async def stat(call: Call) -> Response:
    """`dag/stat`: blocks and bytes below roots."""
    roots = [await call.cid_of(path) for path in call.query.args("root")]
    return await answers.lines(_stat(call, roots))


async def _stat(call: Call, roots: list[bytes]) -> Rows:
    rows: list[dict[str, Any]] = []
    seen: set[bytes] = set()
    unique_bytes = 0
    for root in roots:
        size = count = 0
        async with aclosing(call.flow(traverse.blocks(root))) as found:
            async for one in found:
                size += len(one.block)
                count += 1
                if (key := cids.multihash(one.cid)) not in seen:
                    seen.add(key)
                    unique_bytes += len(one.block)
        rows.append({"Cid": cids.format_cid(root), "Size": size, "NumBlocks": count})
    shared = sum(row["Size"] for row in rows)
    ratio = shared / unique_bytes if unique_bytes else 1
    yield {
        "UniqueBlocks": len(seen), "TotalSize": unique_bytes,
        **({"SharedSize": shared - unique_bytes} if shared > unique_bytes else {}),
        "Ratio": int(ratio) if ratio == int(ratio) else ratio, "DagStats": rows,
    }  # fmt: skip


async def export(call: Call) -> Response:
    """`dag/export`: a CARv1."""
    root = await call.cid_of(call.query.arg("root"))
    return await answers.stream(_car(call, root), "application/vnd.ipld.car")


async def _car(call: Call, root: bytes) -> Pieces:
    async with aclosing(call.flow(traverse.blocks(root, inlined=True))) as found:
        first = True
        async for one in found:
            if first:  # only now: an error before it is an answer of its own
                first = False
                yield b"".join(encode_car([root], []))
            yield varint.encode(len(one.cid) + len(one.block)) + one.cid + one.block
        if first:  # a root whose hash is its content
            yield b"".join(encode_car([root], []))


async def import_(call: Call) -> Response:
    """`dag/import`: CARs of version 1 or 2; every block is checked, roots are pinned."""
    query = call.query
    query.unsupported("allow-big-block")
    pin = query.flag("pin-roots", default=True)
    multipart.boundary_of(call.request, "path")
    return await answers.lines(call.held(_import(call, pin, query.flag("stats"))))


async def _import(call: Call, pin: bool, stats: bool) -> Rows:
    roots: dict[bytes, None] = {}
    count = size = 0
    async with aclosing(_blocks_of(call, roots)) as found:
        async for one in found:
            await call.put(one.cid, one.block)
            count += 1
            size += len(one.block)
    if pin:
        for root in roots:
            said = ""
            try:
                await call.context.pins.pin(root)
            except P2PCacheError as exc:
                said = exc.message
            yield {"Root": {"Cid": answers.link(root), "PinErrorMsg": said}}
    if stats:
        yield {"Stats": {"BlockCount": count, "BlockBytesCount": size}}


async def _blocks_of(call: Call, roots: dict[bytes, None]) -> AsyncGenerator[Found, None]:
    """The blocks of every CAR of the body; `roots` gets theirs. Raises Untrusted."""
    reader = CarReader()
    async with aclosing(multipart.events(call.request, "path")) as events:
        async for event in events:
            match event:
                case File():
                    reader = CarReader()
                case Data():
                    for one in await steps.in_thread(_fed, reader, event.data):
                        yield one
                case FileEnd():
                    reader.close()
                    roots |= dict.fromkeys(reader.roots or ())
                    if len(roots) > MAX_ROOTS:
                        raise Untrusted(f"CARs with more than {MAX_ROOTS} roots")
                case _:
                    raise UsageError("`dag/import` takes files alone")


def _fed(reader: CarReader, data: bytes) -> list[Found]:
    return list(reader.feed(data))
