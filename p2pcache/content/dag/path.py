"""`root/a/b` to the block that it means: through directories, and through maps and lists of
dag-cbor and dag-json.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from p2pcache.content.dag.walk import Walk

MAX_COMPONENTS = 1000


@dataclass(frozen=True, slots=True)
class Resolved:
    """`cid`: of the block at the end, as written. `remainder`: what of the path lies within that
    block (dag-cbor, dag-json), mostly nothing. `roots`: the root, then the CID of each component
    (X-Ipfs-Roots), ending in `cid`. `blocks`: every block above `cid` that the way needed, shards
    too, in order, once each: what a CAR begins with.
    """

    cid: bytes
    remainder: tuple[str, ...]
    roots: tuple[bytes, ...]
    blocks: tuple[bytes, ...]


def resolve(root: bytes, path: Sequence[str]) -> Walk[Resolved]:
    """`path`: its components, which are names and never `.` or `..` (UsageError). Raises NotFound
    for a name that is not there, and below a file or a symlink; Untrusted.
    """
    raise NotImplementedError
