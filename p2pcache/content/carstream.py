"""CAR files as a stream: a reader that is fed bytes as they come, and the writer of a traversal.

CARv1 and CARv2 are read (of v2 its inner CARv1; the index is skipped), CARv1 is written. Each block
is verified against its CID before it comes out. Only Untrusted comes out; what is kept in memory is
one block. https://ipld.io/specs/transport/car/
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pcache.content.car import MAX_BLOCK_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from p2pcache.content.dag.traverse import Found


class CarReader:
    """Feed it; it gives the blocks that became whole. `roots`: None until the header is read (may
    be empty: some tools write none).
    """

    roots: tuple[bytes, ...] | None

    def __init__(self, max_block_bytes: int = MAX_BLOCK_BYTES) -> None:
        raise NotImplementedError

    def feed(self, data: bytes) -> Iterator[Found]:
        """Blocks in their order, `cid` as written. Raises Untrusted: no CAR, a block that does not
        verify or is over the limit.
        """
        raise NotImplementedError

    def close(self) -> None:
        """No more bytes come. Raises Untrusted when the CAR is cut short."""
        raise NotImplementedError


def encode_car(roots: Sequence[bytes], blocks: Iterable[Found]) -> Iterator[bytes]:
    """A CARv1 in pieces, to be written one after the other. Raises ValueError: too many roots."""
    raise NotImplementedError
