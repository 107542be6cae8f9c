"""DAGs that are here as blocks: whether a CID is one, and folders that are known by their nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from p2pcache.content import refs
from p2pcache.errors import NotFound

if TYPE_CHECKING:
    from p2pcache.agent.parts import Parts
    from p2pcache.transfer.resolve import Resolution


def is_dag_alone(parts: Parts, text: str) -> bool:
    """Whether a CID is here as blocks, and no manifest says which files it is. Blocking."""
    ref = refs.parse_ref(text)
    if not isinstance(ref, refs.CidRef) or parts.ipfs.blocks.local.length(ref.cid) is None:
        return False
    try:
        return parts.resolver.held(ref).manifest is None
    except NotFound:
        return True


async def keep_nodes(parts: Parts, resolution: Resolution) -> None:
    """Keep the nodes of a folder with its files, all of which are here, where nothing implies them.
    Of one without a manifest that is done once it is listed.
    """
    nodes, manifest = resolution.listing.nodes, resolution.manifest
    if nodes and manifest is not None:
        root = next(iter(nodes))
        await trio.to_thread.run_sync(parts.store.ties.keep, manifest.cid(), root, nodes)
        parts.ipfs.blocks.tell(None)
