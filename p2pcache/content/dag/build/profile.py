"""Profiles: how content is cut and named (IPIP-499), and the nodes that all of them are made of."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from p2pcache.content import cid as cids
from p2pcache.content.dag.node import DATA, field, link_field

if TYPE_CHECKING:
    from collections.abc import Iterable

Keep = Callable[[bytes, bytes], None]
"""Gets the CID and the bytes of each block as it is made: children before parents."""


def forget(cid: bytes, block: bytes) -> None:
    """The `Keep` of who wants the root alone."""


@dataclass(frozen=True, slots=True)
class Profile:
    """`chunk_bytes` of a leaf, `max_links` of a file's node. A directory is sharded when it has
    more than `shard_bytes`: of its block, or of its names and CIDs alone ("links", as before 2025).
    """

    chunk_bytes: int = 1 << 20
    max_links: int = 1024
    raw_leaves: bool = True
    cid_version: Literal[0, 1] = 1
    trickle: bool = False
    shard_bytes: int = 262144  # HAMTShardingSize 256 KiB, `>`: exact at the edge
    shard_by: Literal["block", "links"] = "block"
    fanout: int = 256


V1_2025 = Profile()
PROFILES: Mapping[str, Profile] = MappingProxyType(
    {
        "unixfs-v1-2025": V1_2025,
        "unixfs-v0-2015": Profile(
            chunk_bytes=262144, max_links=174, raw_leaves=False, cid_version=0, shard_by="links"
        ),
    }
)


@dataclass(frozen=True, slots=True)
class Root:
    """A node of the tree. `size`: content bytes; `dag_size`: bytes of all blocks below and its own
    (the link's Tsize).
    """

    cid: bytes
    size: int
    dag_size: int


def make_node(
    profile: Profile,
    links: Iterable[tuple[bytes, Root]],
    data: bytes,
    size: int,
    keep: Keep = forget,
) -> tuple[Root, bytes]:
    """A dag-pb node of named children. Gives its block too."""
    below = 0
    parts = []
    for name, child in links:
        parts.append(link_field(child.cid, name, child.dag_size))
        below += child.dag_size
    parts.append(field(DATA, data))
    block = b"".join(parts)
    cid = cids.dagpb_cid(hashlib.sha256(block).digest())
    root = Root(cids.as_v0(cid) if profile.cid_version == 0 else cid, size, len(block) + below)
    keep(root.cid, block)
    return root, block
