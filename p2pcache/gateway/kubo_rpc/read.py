"""`cat`, `get`, `ls`, `refs`, `resolve`: what is in a DAG."""

from __future__ import annotations

import gzip
import io
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from p2pcache.content import cid as cids
from p2pcache.content.dag import files, folders, node
from p2pcache.content.dag import links as daglinks
from p2pcache.errors import P2PCacheError, UsageError
from p2pcache.gateway.kubo_rpc import answers, paths, steps, tar
from p2pcache.gateway.kubo_rpc.block import block_of

if TYPE_CHECKING:
    from p2pcache.content.dag.files import Stat
    from p2pcache.content.dag.folders import Entry
    from p2pcache.gateway.kubo_rpc.answers import Pieces, Rows
    from p2pcache.gateway.kubo_rpc.call import Call
    from p2pcache.gateway.messages import Response

NO_TIME = "0001-01-01T00:00:00Z"  # Go's zero time: no mtime is kept
KINDS = {"directory": 1, "file": 2, "block": 2, "symlink": 4}  # DataType of unixfs.proto
PACK_BYTES = 1 << 16  # given to gzip at once: small pieces are not worth a thread each
MAX_SEEN = 4_000_000  # blocks that `refs --unique` remembers


async def stat_of(call: Call, cid: bytes) -> Stat:
    """What a block is. Nobody is asked for a raw one that is here: its length is known."""
    return await call.run(files.stat(cid))


async def cat(call: Call) -> Response:
    """`cat`: the bytes of files, one after the other; `offset` and `length` go over all of them."""
    query = call.query
    skip = query.natural("offset", "offset", "o") or 0
    left = query.natural("length", "length", "l")
    spans: list[tuple[bytes, int, int]] = []
    for path in query.args("ipfs-path"):
        cid = await call.cid_of(path)
        size = (await _file(call, cid)).size
        start = min(skip, size)
        end = size if left is None else min(size, start + left)
        skip -= start
        if left is not None:
            left -= end - start
        if start < end:
            spans.append((cid, start, end))
    return await answers.stream(_spans(call, spans), length=sum(end - at for _, at, end in spans))


async def _file(call: Call, cid: bytes) -> Stat:
    stat = await stat_of(call, cid)
    if stat.kind == "directory":
        raise UsageError("this dag node is a directory")
    if stat.kind == "symlink":
        raise UsageError("this dag node is a symlink")
    if stat.kind == "block" and cids.codec(cid) != cids.RAW:
        raise UsageError("unrecognized object type: this block is no UnixFS")
    return stat


async def _spans(call: Call, spans: list[tuple[bytes, int, int]]) -> Pieces:
    for cid, start, end in spans:
        async with aclosing(call.flow(files.read(cid, start, end))) as pieces:
            async for piece in pieces:
                yield piece


async def get(call: Call) -> Response:
    """`get`: a tar of a file or a folder; `compress`: gzip, of a single file without the tar."""
    query = call.query
    path = paths.parse(query.arg("ipfs-path"))
    cid = await call.cid_of(query.arg("ipfs-path"))
    archive = query.flag("archive", "a")
    level = query.integer("compression-level", "l", kind="int")
    stat = await stat_of(call, cid)
    compressed = query.flag("compress", "C")
    if not compressed:
        kind, pieces = "application/x-tar", tar.pieces(call, cid, path.name)
    else:
        kind = "application/gzip"
        plain = stat.kind in ("file", "block") and not archive
        pieces = _spans(call, [(cid, 0, stat.size)]) if plain else tar.pieces(call, cid, path.name)
        pieces = _gzipped(pieces, _level(level))
    length = stat.size if stat.kind in ("file", "block") else stat.dag_bytes
    return await answers.stream(pieces, kind, length)


def _level(level: int | None) -> int:
    if level is None or level == -1:
        return 6
    if not 1 <= level <= 9:
        raise UsageError("compression level must be between 1 and 9")
    return level


async def _gzipped(pieces: Pieces, level: int) -> Pieces:
    out = io.BytesIO()
    try:
        with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=level, mtime=0) as packer:
            held: list[bytes] = []
            held_bytes = 0
            async for piece in pieces:
                held.append(piece)
                held_bytes += len(piece)
                if held_bytes < PACK_BYTES:
                    continue
                await steps.in_thread(packer.write, b"".join(held))
                held, held_bytes = [], 0
                if out.tell():
                    yield out.getvalue()
                    out.seek(0)
                    out.truncate()
            await steps.in_thread(packer.write, b"".join(held))
    finally:
        await pieces.aclose()
    yield out.getvalue()


async def ls(call: Call) -> Response:
    """`ls`: entries of folders, one document, or a line an entry (`stream=true`)."""
    query = call.query
    wanted = query.args("ipfs-path")
    resolve = query.flag("resolve-type", default=True) or query.flag("size", default=True)
    if query.flag("stream", "s"):
        return await answers.lines(_ls_rows(call, wanted, resolve))
    objects = []
    for path in wanted:
        shown = await call.cid_of(path)
        found = await answers.gathered(_links_of(call, shown, resolve))
        await steps.in_thread(_sort_by_name, found)
        objects.append({"Hash": path, "Links": found})
    return await answers.large({"Objects": objects})


async def _links_of(call: Call, cid: bytes, resolve: bool) -> Rows:
    async with aclosing(_children(call, cid)) as children:
        async for entry in children:
            yield await _ls_link(call, entry, resolve)


def _sort_by_name(rows: list[dict[str, Any]]) -> None:
    rows.sort(key=lambda row: str(row["Name"]).encode())


async def _ls_rows(call: Call, wanted: list[str], resolve: bool) -> Rows:
    for path in wanted:
        cid = await call.cid_of(path)
        async with aclosing(_links_of(call, cid, resolve)) as rows:
            async for row in rows:
                yield {"Objects": [{"Hash": path, "Links": [row]}]}


async def _children(call: Call, cid: bytes) -> Rows:
    """Entries of a folder; of a file its links, without names, as Kubo does."""
    stat = await stat_of(call, cid)
    if stat.kind == "directory":
        async with aclosing(call.flow(folders.entries(cid))) as entries:
            async for entry in entries:
                yield entry
    else:
        block = await block_of(call, cid)
        for child in await steps.in_thread(daglinks.links, cid, block):
            yield folders.Entry("", child, None)


async def _ls_link(call: Call, entry: Entry, resolve: bool) -> dict[str, Any]:
    kind, size, target = 0, 0, ""
    if cids.codec(entry.cid) == cids.RAW and entry.size is not None:
        kind, size = KINDS["file"], entry.size
    elif resolve or cids.codec(entry.cid) == cids.RAW:
        stat = await stat_of(call, entry.cid)
        kind = KINDS[stat.kind]
        size = stat.size  # of a symlink its target's; none of a folder
        target = stat.target or ""
    return {
        "Name": entry.name, "Hash": cids.format_cid(entry.cid), "Size": size, "Type": kind,
        "Target": target, "Mode": 0, "ModTime": NO_TIME,
    }  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Refs:
    """How `refs` writes. `depth` None: as deep as it goes."""

    template: str
    unique: bool
    depth: int | None


async def refs(call: Call) -> Response:
    """`refs`: the links of a DAG, depth first, a line each."""
    query = call.query
    template = query.text("format") or "<dst>"
    if query.flag("edges", "e"):
        if template != "<dst>":
            raise UsageError("using format argument with edges is not allowed")
        template = "<src> -> <dst>"
    most = query.integer("max-depth", kind="int")
    depth = None if most is None or most < 0 else most
    if not query.flag("recursive", "r"):
        depth = 1
    style = _Refs(template, query.flag("unique", "u"), depth)
    roots = [await call.cid_of(path) for path in query.args("ipfs-path")]
    return await answers.lines(_refs(call, roots, style))


async def _refs(call: Call, roots: list[bytes], style: _Refs) -> Rows:
    seen: set[bytes] = set()
    for root in roots:
        todo = [(iter(await _named_links(call, root)), root)] if style.depth != 0 else []
        while todo:
            children, above = todo[-1]
            child = next(children, None)
            if child is None:
                todo.pop()
                continue
            name, cid = child
            if style.unique:
                if cid in seen:
                    continue
                if len(seen) == MAX_SEEN:
                    raise UsageError(f"more than {MAX_SEEN} blocks: ask for parts of it")
                seen.add(cid)
            yield {"Ref": _shown(style.template, above, cid, name), "Err": ""}
            if style.depth is None or len(todo) < style.depth:
                try:
                    todo.append((iter(await _named_links(call, cid)), cid))
                except P2PCacheError as exc:
                    yield {"Ref": "", "Err": exc.message}
                    return


def _shown(template: str, above: bytes, cid: bytes, name: str) -> str:
    text = template.replace("<src>", cids.format_cid(above)).replace("<dst>", cids.format_cid(cid))
    return text.replace("<linkname>", name)


async def _named_links(call: Call, cid: bytes) -> list[tuple[str, bytes]]:
    if cids.codec(cid) == cids.RAW:
        return []
    return await steps.in_thread(_names_and_cids, cid, await block_of(call, cid))


def _names_and_cids(cid: bytes, block: bytes) -> list[tuple[str, bytes]]:
    if cids.codec(cid) == cids.DAG_PB:
        return [(one.name.decode("utf-8", "replace"), one.cid) for one in node.parse(block).links]
    return [("", one) for one in daglinks.links(cid, block)]


async def resolve(call: Call) -> Response:
    """`resolve`: a path to the path of what it means."""
    found = await paths.resolve(paths.parse(call.query.arg("name")), call.run)
    text = "/".join((cids.format_cid(found.cid), *found.remainder))
    return answers.answer({"Path": f"/ipfs/{text}"})
