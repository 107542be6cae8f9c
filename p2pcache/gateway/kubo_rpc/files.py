"""`files/...`: the tree that clients change by paths."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from p2pcache.content import cid as cids
from p2pcache.content.dag import build
from p2pcache.content.dag import files as dagfiles
from p2pcache.content.dag import links as daglinks
from p2pcache.errors import NotFound, P2PCacheError, UsageError
from p2pcache.gateway.kubo_rpc import answers, multipart, steps
from p2pcache.gateway.kubo_rpc.add import Written, chunk_bytes, cid_version
from p2pcache.gateway.kubo_rpc.mfs import NOT_THERE, At, Tree, names_of
from p2pcache.gateway.kubo_rpc.multipart import Data, File, FileEnd

if TYPE_CHECKING:
    from collections.abc import Mapping

    from p2pcache.content.dag.build import FileBuilder, Profile
    from p2pcache.content.unixfs import Root
    from p2pcache.gateway.kubo_rpc.answers import Pieces, Rows
    from p2pcache.gateway.kubo_rpc.call import Call
    from p2pcache.gateway.messages import Response

ZEROS = bytes(1 << 16)


def _tree(call: Call) -> Tree:
    return Tree(call, call.context.profile)


def _profile(call: Call) -> Profile:
    query = call.query
    profile = call.context.profile
    if (name := query.text("hash")) not in (None, "", "sha2-256"):
        raise UsageError(f"p2pcache writes sha2-256 alone, not `{name}`")
    return replace(
        profile,
        cid_version=cid_version(query.integer("cid-version", "cid-ver", kind="int"), profile),
        raw_leaves=query.flag("raw-leaves", default=profile.raw_leaves),
        chunk_bytes=chunk_bytes(query.text("chunker"), profile.chunk_bytes),
    )


async def _find(call: Call, path: str) -> At | None:
    """Of the tree; None when it is not there."""
    return await _tree(call).find(names_of(path))


async def _find_any(call: Call, path: str) -> At | None:
    """Of the tree, or below `/ipfs/`; None when it is not there."""
    if path.startswith("/ipfs/"):
        try:
            return await _tree(call).at(await call.cid_of(path))
        except NotFound as exc:
            if exc.message.startswith("no link named"):
                return None
            raise
    return await _find(call, path)


async def ls(call: Call) -> Response:
    """`files/ls`."""
    query = call.query
    path = next(iter(query.args("path", 0)), "/")
    found = await _find(call, path)
    if found is None:
        raise UsageError(NOT_THERE)
    long = query.flag("long", "l")
    if found.stat.kind == "directory":
        entries = await _tree(call).entries(found.cid)
        rows = await answers.gathered(_ls_rows(call, entries, long))
        if not query.flag("U"):
            rows.sort(key=lambda row: str(row["Name"]).encode())
    else:
        rows = [await _ls_row(call, path.rstrip("/").rpartition("/")[2], found.cid, long)]
    if query.flag("stream", "s"):
        return await answers.lines(_each({"Entries": [row]} for row in rows))
    return await answers.large({"Entries": rows or None})


async def _ls_rows(call: Call, entries: Mapping[str, Root], long: bool) -> Rows:
    for name, entry in entries.items():
        yield await _ls_row(call, name, entry.cid, long)


async def _each(rows: Any) -> Rows:  # noqa: ANN401 - any iterable of rows
    for row in rows:
        yield row


async def _ls_row(call: Call, name: str, cid: bytes, long: bool) -> dict[str, Any]:
    if not long:
        return {"Name": name, "Type": 0, "Size": 0, "Hash": ""}
    stat = (await _tree(call).at(cid)).stat
    kind = 1 if stat.kind == "directory" else 0
    size = 0 if kind else stat.size
    return {"Name": name, "Type": kind, "Size": size, "Hash": cids.format_cid(cid)}


async def stat(call: Call) -> Response:
    """`files/stat`; `with-local`: also how much of it is on this machine."""
    found = await _find_any(call, call.query.arg("path"))
    if found is None:
        raise UsageError(NOT_THERE)
    about = found.stat
    row: dict[str, Any] = {
        "Hash": cids.format_cid(found.cid),
        "Size": 0 if about.kind == "directory" else about.size,
        "CumulativeSize": about.dag_bytes,
        "Blocks": about.links,
        "Type": "directory" if about.kind == "directory" else "file",
    }
    if call.query.flag("with-local"):
        whole, size = await _local(call, found.cid)
        row |= {"WithLocality": True, **({"Local": True} if whole else {}), "SizeLocal": size}
    return answers.answer(row)


async def _local(call: Call, root: bytes) -> tuple[bool, int]:
    """Whether all of it is here, and how many bytes are, repeats counted."""
    blocks = call.context.blocks
    whole, size = True, 0
    todo = [root]
    while todo:
        cid = todo.pop()
        length = await blocks.length(cid)
        if length is None:
            whole = False
            continue
        size += length
        if cids.codec(cid) != cids.RAW:
            try:
                block = await blocks.get(cids.as_v1(cid), local=True)
            except NotFound:
                whole = False
                continue
            todo.extend(await steps.in_thread(daglinks.links, cid, block))
    return whole, size


async def read(call: Call) -> Response:
    """`files/read`."""
    query = call.query
    path = query.arg("path")
    skip = query.natural("offset", "offset", "o") or 0
    count = query.natural("'count'", "count", "n")
    found = await _find(call, path)
    if found is None:
        raise UsageError(f"{path}: {NOT_THERE}")
    if found.stat.kind in ("directory", "symlink"):
        raise UsageError(f"{path} was not a file")
    if skip > found.stat.size:
        raise UsageError(f"offset was past end of file ({skip} > {found.stat.size})")
    end = found.stat.size if count is None else min(found.stat.size, skip + count)
    return await answers.stream(_content(call, found.cid, skip, end))


async def _content(call: Call, cid: bytes, start: int, end: int) -> Pieces:
    async with aclosing(call.flow(dagfiles.read(cid, start, end))) as pieces:
        async for piece in pieces:
            yield piece


async def mkdir(call: Call) -> Response:
    """`files/mkdir`."""
    names = names_of(call.query.arg("path"))
    parents = call.query.flag("parents", "p")
    async with call.changing_files():
        tree = _tree(call)
        found = await tree.find(names)
        if found is not None and not (parents and found.stat.kind == "directory"):
            raise UsageError(
                "cannot create directory '/': Already exists"
                if not names
                else "file already exists"
            )
        if found is None:
            await tree.put(names, await tree.folder(), parents=parents)
    return await answers.lines(_each(()))


async def cp(call: Call) -> Response:
    """`files/cp`: from `/ipfs/...` or the tree into the tree."""
    source, target = call.query.args("source", 2)[:2]
    async with call.changing_files():
        found = await _find_any(call, source)
        if found is None:
            raise UsageError(f"cp: cannot get node from path {source}: {NOT_THERE}")
        if found.stat.kind == "block" and cids.codec(found.cid) != cids.RAW:
            raise UsageError("cp: source must be a valid UnixFS (dag-pb or raw codec)")
        await _place(call, source, target, found.root, "cp")
    return await answers.lines(_each(()))


async def mv(call: Call) -> Response:
    """`files/mv`: within the tree."""
    source, target = call.query.args("source", 2)[:2]
    names = names_of(source)
    async with call.changing_files():
        tree = _tree(call)
        found = await tree.find(names)
        if found is None or not names:
            raise UsageError(NOT_THERE)
        into = names_of(target)
        if into[: len(names)] == names:
            raise UsageError(f"cannot move {source} into itself")
        await _place(call, source, target, found.root, "mv")
        await tree.put(names, None)
    return await answers.lines(_each(()))


async def _place(call: Call, source: str, target: str, root: Root, what: str) -> None:
    """`target` ends in a slash: into that folder, under the source's own name."""
    tree = _tree(call)
    names = names_of(target)
    if target.endswith("/"):
        names.append(source.rstrip("/").rpartition("/")[2])
    there = await tree.find(names)
    if there is not None and what == "mv" and there.stat.kind == "directory":
        names.append(source.rstrip("/").rpartition("/")[2])
        there = await tree.find(names)
    replaces = what == "cp" and call.query.flag("force")
    replaces = replaces or (what == "mv" and there is not None and there.stat.kind != "directory")
    if there is not None and not replaces:
        shown = "/" + "/".join(names)
        raise UsageError(
            f"{what}: cannot put node in path {shown}: directory already has entry by that name"
        )
    await tree.put(names, root, parents=call.query.flag("parents", "p"))


async def rm(call: Call) -> Response:
    """`files/rm`."""
    query = call.query
    wanted = query.args("path")
    force = query.flag("force")
    recursive = query.flag("recursive", "r") or force
    return await answers.lines(_rm(call, wanted, recursive, force))


async def _rm(call: Call, wanted: list[str], recursive: bool, force: bool) -> Rows:
    failed = False
    for path in wanted:
        async with call.changing_files():
            said = await _removed(call, path, recursive, force)
        if said:
            failed = True
            yield f"{path}: {said}"
    if failed:
        raise P2PCacheError("can't remove some files")


async def _removed(call: Call, path: str, recursive: bool, force: bool) -> str:
    """Why it was not; empty: it was."""
    try:
        names = names_of(path)
        if not names:
            return "cannot delete root"
        found = await _tree(call).find(names)
        if found is None:
            return "" if force else NOT_THERE
        if found.stat.kind == "directory" and not recursive:
            return "path is a directory, use -r to remove directories"
        await _tree(call).put(names, None)
    except UsageError as exc:
        return exc.message
    return ""


async def write(call: Call) -> Response:
    """`files/write`: bytes into a file; what stood before and behind them stays."""
    query = call.query
    path = query.arg("path")
    names = names_of(path)
    start = query.natural("write offset", "offset", "o") or 0
    count = query.natural("byte count", "count", "n")
    profile = _profile(call)
    multipart.boundary_of(call.request, "data")
    async with call.changing_files():
        tree = _tree(call)
        found = await tree.find(names)
        if found is None and not query.flag("create", "e"):
            raise UsageError(NOT_THERE)
        if found is not None and found.stat.kind != "file":
            raise UsageError(f"{path} was not a file")
        old = None if found is None or query.flag("truncate", "t") else found
        root = await _spliced(call, profile, old, start, count)
        await tree.put(names, root, parents=query.flag("parents", "p"))
    return await answers.lines(_each(()))


async def _spliced(
    call: Call, profile: Profile, old: At | None, start: int, count: int | None
) -> Root:
    """The old content with at most `count` bytes of the body over it from `start` on."""
    written = Written(call)
    builder = build.FileBuilder(profile, written.keep)
    size = 0 if old is None else old.stat.size
    if old is not None:
        await _copy(call, builder, written, old.cid, 0, min(start, size))
    for at in range(size, start, len(ZEROS)):
        await written.add(builder, ZEROS[: start - at])
    end = start
    async with aclosing(multipart.events(call.request, "data")) as events:
        async for event in events:
            match event:
                case Data():
                    left = len(event.data) if count is None else max(0, start + count - end)
                    await written.add(builder, event.data[:left])
                    end += min(left, len(event.data))
                case File() | FileEnd():
                    pass
                case _:
                    raise UsageError("`files/write` takes a file alone")
    if old is not None and end < size:
        await _copy(call, builder, written, old.cid, end, size)
    return await written.made_by(builder.finish)


async def _copy(
    call: Call, builder: FileBuilder, written: Written, cid: bytes, start: int, end: int
) -> None:
    async with aclosing(call.flow(dagfiles.read(cid, start, end))) as pieces:
        async for piece in pieces:
            await written.add(builder, piece)


async def flush(call: Call) -> Response:
    """`files/flush`: everything is on disk always; tells the CID of a path."""
    path = next(iter(call.query.args("path", 0)), "/")
    found = await _find(call, path)
    if found is None:
        raise UsageError(NOT_THERE)
    return answers.answer({"Cid": cids.format_cid(found.cid)})
