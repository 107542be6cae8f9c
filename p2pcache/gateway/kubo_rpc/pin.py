"""`pin/add`, `rm`, `ls`, `update`: what stays."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

from p2pcache.content import cid as cids
from p2pcache.content.dag import links as daglinks
from p2pcache.errors import NotFound, P2PCacheError, UsageError
from p2pcache.gateway.kubo_rpc import answers, steps
from p2pcache.gateway.kubo_rpc.block import block_of

if TYPE_CHECKING:
    from p2pcache.gateway.kubo_rpc.answers import Rows
    from p2pcache.gateway.kubo_rpc.call import Call
    from p2pcache.gateway.messages import Response

TYPES = ("direct", "indirect", "recursive", "all")


async def _is_recursive(call: Call, cid: bytes) -> bool | None:
    """None: it is not pinned by itself."""
    wanted = cids.as_v1(cid)
    pins = await call.context.pins.pins()
    return next((deep for root, deep in pins.items() if cids.as_v1(root) == wanted), None)


async def add(call: Call) -> Response:
    """`pin/add`."""
    query = call.query
    query.unsupported("name")
    recursive = query.flag("recursive", "r", default=True)
    wanted = [await call.cid_of(path) for path in query.args("ipfs-path")]
    if query.flag("progress"):
        return await answers.lines(_progress(call, wanted, recursive))
    await _add(call, wanted, recursive)
    return answers.answer({"Pins": [cids.format_cid(cid) for cid in wanted]})


async def _add(call: Call, wanted: list[bytes], recursive: bool) -> None:
    for cid in wanted:
        if not recursive and await _is_recursive(call, cid):
            raise UsageError(f"pin: {cids.format_cid(cid)} already pinned recursively")
        try:
            if call.offline:
                await _all_here(call, cid, recursive)
            await call.context.pins.pin(cid, recursive=recursive)
        except NotFound as exc:
            raise NotFound(f"pin: {exc.message}", hint=exc.hint) from exc


async def _all_here(call: Call, cid: bytes, recursive: bool) -> None:
    """Raises NotFound for a block that is not on this machine; `pins.pin` would fetch it."""
    todo, seen = [cid], set()
    while todo:
        one = todo.pop()
        if one in seen:
            continue
        seen.add(one)
        if cids.codec(one) == cids.RAW and await call.context.blocks.has(one):
            continue
        block = await block_of(call, one)
        if recursive:
            todo.extend(await steps.in_thread(daglinks.links, one, block))


async def _progress(call: Call, wanted: list[bytes], recursive: bool) -> Rows:
    await _add(call, wanted, recursive)
    yield {"Progress": len(wanted)}
    yield {"Pins": [cids.format_cid(cid) for cid in wanted]}


async def rm(call: Call) -> Response:
    """`pin/rm`."""
    recursive = call.query.flag("recursive", "r", default=True)
    wanted = [await call.cid_of(path) for path in call.query.args("ipfs-path")]
    for cid in wanted:
        deep = await _is_recursive(call, cid)
        if deep is None:
            raise NotFound("not pinned or pinned indirectly")
        if deep and not recursive:
            raise UsageError(f"{cids.format_cid(cid)} is pinned recursively")
        await call.context.pins.unpin(cid)
    return answers.answer({"Pins": [cids.format_cid(cid) for cid in wanted]})


async def update(call: Call) -> Response:
    """`pin/update`: from one root to another, which is a quick pin where much is shared."""
    paths = call.query.args("from-path", 2)
    old, new = [await call.cid_of(path) for path in paths[:2]]
    if not await _is_recursive(call, old):
        raise UsageError("'from' cid was not recursively pinned already")
    if cids.as_v1(old) != cids.as_v1(new):
        if await _is_recursive(call, new):
            raise UsageError("'to' cid was already recursively pinned")
        await call.context.pins.pin(new)
        if call.query.flag("unpin", default=True):
            await call.context.pins.unpin(old)
    return answers.answer({"Pins": [cids.format_cid(cid) for cid in (old, new)]})


async def ls(call: Call) -> Response:
    """`pin/ls`: one document, or a line a pin (`stream=true`)."""
    query = call.query
    kind = query.text("type", "t") or "all"
    if kind not in TYPES:
        raise UsageError(f"invalid type '{kind[:80]}', must be one of {{{', '.join(TYPES)}}}")
    wanted = query.args("ipfs-path", 0)
    query.unsupported("name")
    rows = _ls_these(call, kind, wanted) if wanted else _ls_all(call, kind)
    if query.flag("stream", "s"):
        return await answers.lines(rows)
    keys = {row["Cid"]: {"Type": row["Type"], "Name": ""} for row in await answers.gathered(rows)}
    return await answers.large({"Keys": dict(sorted(keys.items()))} if keys else {})


async def _ls_these(call: Call, kind: str, wanted: list[str]) -> Rows:
    for path in wanted:
        cid = await call.cid_of(path)
        deep = await _is_recursive(call, cid)
        said = {None: "", True: "recursive", False: "direct"}[deep]
        if (not said or kind == "indirect") and kind in ("all", "indirect"):
            above = await _root_above(call, cid)
            said = f"indirect through {cids.format_cid(above)}" if above is not None else said
        if not said or (kind not in ("all", said) and not said.startswith(kind)):
            raise NotFound(f"path '{path}' is not pinned")
        yield {"Type": said, "Cid": cids.format_cid(cid)}


async def _ls_all(call: Call, kind: str) -> Rows:
    pins = await call.context.pins.pins()
    for want, deep in (("recursive", True), ("direct", False)):
        if kind in ("all", want):
            for root, is_deep in pins.items():
                if is_deep is deep:
                    yield {"Type": want, "Cid": cids.format_cid(root)}
    if kind in ("all", "indirect"):
        told = {cids.as_v1(root) for root in pins}
        visited: set[bytes] = set()
        for root, deep in pins.items():
            if deep:
                async with aclosing(_below(call, root, told, visited)) as below:
                    async for cid in below:
                        yield {"Type": "indirect", "Cid": cids.format_cid(cid)}


async def _below(call: Call, root: bytes, told: set[bytes], visited: set[bytes]) -> Rows:
    """CIDs below a root, each once, that are not in `told`, which gets them. Raw ones are not read,
    nor those in `visited`.

    Blocks that are missing here all the same end that branch: the rest is told.
    """
    todo = [root]
    while todo:
        cid = todo.pop()
        if cid in visited or cids.codec(cid) == cids.RAW:
            continue
        visited.add(cid)
        try:
            block = await call.context.blocks.get(cids.as_v1(cid), local=True)
            found = await steps.in_thread(daglinks.links, cid, block)
        except P2PCacheError:
            continue
        for one in found:
            todo.append(one)
            if cids.as_v1(one) not in told:
                told.add(cids.as_v1(one))
                yield one


async def _root_above(call: Call, cid: bytes) -> bytes | None:
    """A recursive pin that keeps this block."""
    wanted = cids.as_v1(cid)
    for root, deep in (await call.context.pins.pins()).items():
        if deep:
            async with aclosing(_below(call, root, set(), set())) as below:
                async for one in below:
                    if cids.as_v1(one) == wanted:
                        return root
    return None
