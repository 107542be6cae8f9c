"""dag-pb: the node of UnixFS, links and data. https://ipld.io/specs/codecs/dag-pb/spec/

Reads what every writer of it ever wrote: links before data (canonical) or after, fields of a link
in the canonical order, name and size left out. Refuses unknown fields, fields twice, links on both
sides of the data, and numbers that are longer than they need be. Only Untrusted comes out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_NODE_BYTES = 2 << 20  # of a block that is parsed: no block may have more


@dataclass(frozen=True, slots=True)
class Link:
    """A child. `cid` as it is written, of either version; `size`: the Tsize that the parent claims,
    None if it claims none.
    """

    cid: bytes
    name: bytes = b""
    size: int | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """`data`: None where the node has no such field."""

    links: tuple[Link, ...]
    data: bytes | None


def parse(block: bytes) -> Node:
    """A block to its links and data. Raises Untrusted."""
    raise NotImplementedError


def encode(links: Iterable[Link], data: bytes | None) -> bytes:
    """The canonical block: links in the order given (a folder's have to be sorted), then data."""
    raise NotImplementedError
