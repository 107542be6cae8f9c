"""CAR files as a stream: a reader that is fed bytes as they come, and the writer of a traversal.

CARv1 and CARv2 are read (of v2 its inner CARv1; padding and index are skipped), CARv1 is written.
Each block is verified against its CID before it comes out. Only Untrusted comes out; what is kept
in memory is one block, and what was fed at once. https://ipld.io/specs/transport/car/
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pcache.content import car, varint
from p2pcache.content import cid as cids
from p2pcache.content.blocks import MAX_BLOCK_BYTES
from p2pcache.content.dag.hashes import verify_cid
from p2pcache.content.dag.walk import Found
from p2pcache.errors import Untrusted

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence

MAX_HEADER_BYTES = 1 << 20  # some 25,000 roots


class CarReader:
    """Feed it; it gives the blocks that became whole. `roots`: None until the header is read (may
    be empty: some tools write none), as written.
    """

    def __init__(self, max_block_bytes: int = MAX_BLOCK_BYTES) -> None:
        self.roots: tuple[bytes, ...] | None = None
        self._most = max_block_bytes
        self._buffer = bytearray()
        self._left: int | None = None  # bytes of the data of a CARv2; None: until the end
        self._whole = False  # between two frames
        self._over = False  # behind the data of a CARv2, or refused
        self._parser = self._parse()
        self._wanted = 0
        self._step(None)

    def feed(self, data: bytes | bytearray | memoryview) -> Iterator[Found]:
        """Blocks in their order, `cid` as written; to be taken before the next feed. Raises
        Untrusted: no CAR, a block that does not verify or is over the limit.
        """
        self._buffer += data
        while not self._over and len(self._buffer) >= self._wanted:
            taken = bytes(self._buffer[: self._wanted])
            del self._buffer[: self._wanted]
            found = self._step(taken)
            if found is not None:
                yield found
        if self._over:
            self._buffer.clear()

    def _step(self, taken: bytes | None) -> Found | None:
        """Give the parser what it wanted; what it wants next is noted."""
        found = None
        try:
            step = next(self._parser) if taken is None else self._parser.send(taken)
            if isinstance(step, Found):
                found = step
                step = next(self._parser)
            assert isinstance(step, int)
            self._wanted = step
        except StopIteration:
            self._over = True
        except Untrusted:
            self._over, self._whole = True, False
            raise
        return found

    def close(self) -> None:
        """No more bytes come. Raises Untrusted when the CAR is cut short."""
        if not self._whole:
            raise Untrusted("a CAR is cut short", hint="copy it again, or export it again")

    def _parse(self) -> Generator[int | Found, bytes, None]:
        """Yields how many bytes it wants next, or a block; ends behind the data of a CARv2."""
        roots = car.parse_header((yield from self._frame(MAX_HEADER_BYTES)))
        if roots is None:
            skipped, self._left = car.parse_v2((yield car.V2_HEADER_BYTES))
            yield skipped
            roots = car.parse_header((yield from self._frame(MAX_HEADER_BYTES)))
        if roots is None:
            raise Untrusted("a CARv2 within a CARv2")
        self.roots = roots
        while self._left != 0:
            self._whole = self._left is None
            frame = yield from self._frame(self._most + car.MAX_CID_BYTES)
            cid, start = cids.read_cid(frame)
            block = frame[start:]
            verify_cid(cid, block, self._most)
            yield Found(cid, block)
        self._whole = True

    def _frame(self, most: int) -> Generator[int | Found, bytes, bytes]:
        """The next frame; its length is checked before anything of it is waited for."""
        head = b""
        while not head or head[-1] > 127:
            head += yield 1
            self._whole = False
            if len(head) > varint.MAX_BYTES:
                break
        length, _ = varint.decode(head)
        if not 0 < length <= most:
            raise Untrusted(f"a frame of {length} bytes in a CAR, where 1 to {most} are allowed")
        if self._left is not None:
            self._left -= len(head) + length
            if self._left < 0:
                raise Untrusted("a frame of a CARv2 ends behind its data")
        return (yield length)


def encode_car(roots: Sequence[bytes], blocks: Iterable[Found]) -> Iterator[bytes]:
    """A CARv1 in pieces, to be written one after the other. Raises ValueError: too many roots."""
    yield car.encode_header(roots)
    for found in blocks:
        yield from car.encode_section(found.cid, found.block)
