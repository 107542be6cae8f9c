"""The blocks of a CAR, depth first, parents before children. https://specs.ipfs.tech/http-gateways/
trustless-gateway/ and what `ipfs dag export` writes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from p2pcache.content.dag.walk import Flow

MAX_DEPTH = 1024  # blocks from the root down; a folder of folders may have some hundred
MAX_BLOCKS = 1 << 24  # of one traversal, repeats counted

Scope = Literal["block", "entity", "all"]


@dataclass(frozen=True, slots=True)
class Found:
    """One block. `cid` as its parent writes it."""

    cid: bytes
    block: bytes


def blocks(
    root: bytes,
    path: Sequence[str] = (),
    scope: Scope = "all",
    entity_bytes: tuple[int, int | None] | None = None,
    *,
    duplicates: bool = False,
    most: int = MAX_BLOCKS,
) -> Flow[Found]:
    """The blocks on the way along `path`, then what `scope` wants of its end.

    "block": that block alone; "entity": all of a file, the node or nodes of a directory without
    what they list, a block of another codec; "all": everything below. `entity_bytes`: first and
    last byte (both belong to it; negative counts from the end; None is the end), of a file in scope
    "entity". `duplicates`: a block comes as often as it is met; else once. Identity blocks, which
    stand in their CIDs, do not come. Raises as `path.resolve`, and Untrusted for what is too deep
    or has more than `most` blocks.
    """
    raise NotImplementedError
