"""DAGs that are here as blocks: whether a CID is one, and how it goes away."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from p2pcache.content import cid as cids
from p2pcache.content import refs
from p2pcache.errors import NotFound, UsageError

if TYPE_CHECKING:
    from p2pcache.agent.parts import Parts


def is_dag_alone(parts: Parts, text: str) -> bool:
    """Whether a CID is here as blocks, and no manifest says which files it is. Blocking."""
    ref = refs.parse_ref(text)
    if not isinstance(ref, refs.CidRef) or parts.ipfs.blocks.local.length(ref.cid) is None:
        return False
    try:
        return parts.resolver.held(ref).manifest is None
    except NotFound:
        return True


async def unpin_dag(parts: Parts, text: str) -> bool:
    """Let the blocks of a DAG be evicted again; whether it was pinned by its root."""
    ref = refs.parse_ref(text)
    if not isinstance(ref, refs.CidRef) or ref.path is not None:
        return False
    return await parts.ipfs.pins.unpin(ref.cid)


async def rm_dag(parts: Parts, text: str, force: bool) -> dict[str, Any]:
    """Remove the blocks of a DAG that nothing else keeps. Raises UsageError: it is pinned."""
    ref = refs.parse_ref(text)
    assert isinstance(ref, refs.CidRef), "whoever calls asked `is_dag_alone`"
    if not force and ref.cid in await parts.ipfs.pins.pins():
        raise UsageError(f"`{text}` is pinned", hint="`p2pcache unpin` it first, or use --force")
    freed = await parts.ipfs.pins.forget(ref.cid)
    return {"manifest": None, "root": cids.format_cid(ref.cid), "freed_bytes": freed, "notes": []}


async def is_dag_here(parts: Parts, text: str) -> bool:
    """`is_dag_alone`, of a root: a path below one is nothing to remove or to pin."""
    ref = refs.parse_ref(text)
    if not isinstance(ref, refs.CidRef) or ref.path is not None:
        return False
    return await trio.to_thread.run_sync(is_dag_alone, parts, text)
