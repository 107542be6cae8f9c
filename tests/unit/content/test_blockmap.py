"""Block maps: only one that makes the root, or whose blob matched, is proven."""

from __future__ import annotations

import hashlib

import pytest

from p2pcache.content import blockmap
from p2pcache.content.blockmap import Attested, BlockMap, Proven, prove_by_digest, prove_by_root
from p2pcache.content.digests import whole_digests
from p2pcache.content.unixfs import LEAF_BYTES, file_root
from p2pcache.content.verify import verify_whole
from p2pcache.errors import Untrusted

CLAIM = Attested(b"\x01" * 32, b"\x02" * 64)
INTERESTING_SIZES = [
    0,  # no block
    1, LEAF_BYTES - 1, LEAF_BYTES,  # one
    LEAF_BYTES + 1,  # a last block of one byte
    3 * LEAF_BYTES,
]  # fmt: skip


def hashes_of(size: int) -> bytes:
    """A different hash for each block."""
    count = -(-size // LEAF_BYTES)
    return b"".join(hashlib.sha256(b"%d" % i).digest() for i in range(count))


@pytest.mark.parametrize("size", INTERESTING_SIZES)
def test_a_map_that_makes_the_root_is_proven_by_it(size: int) -> None:
    hashes = hashes_of(size)
    blocks = [hashes[i : i + 32] for i in range(0, len(hashes), 32)]
    root = file_root(blocks, size)

    made = prove_by_root(size, hashes, root.cid)

    assert made.proof == Proven("unixfs-root")
    assert made.root() == root.cid
    assert [made.block(i) for i in range(made.block_count)] == blocks
    for other in (size + LEAF_BYTES * 1024, -1):
        with pytest.raises(Untrusted):
            prove_by_root(other, hashes, root.cid)


def test_a_map_that_makes_another_root_is_untrusted() -> None:
    size = 3 * LEAF_BYTES
    hashes = hashes_of(size)
    root = prove_by_root(size, hashes, BlockMap(size, hashes, CLAIM).root()).root()
    swapped = hashes[32:64] + hashes[:32] + hashes[64:]
    flipped = bytes([hashes[0] ^ 1]) + hashes[1:]

    for bad_size, bad in ((size, swapped), (size, flipped), (size - 1, hashes)):
        with pytest.raises(Untrusted, match="does not make the root"):
            prove_by_root(bad_size, bad, root)


@pytest.mark.parametrize("size", INTERESTING_SIZES)
def test_a_map_that_does_not_fit_its_blob_is_untrusted(size: int) -> None:
    hashes = hashes_of(size)
    for bad in (hashes + bytes(32), hashes + b"\0", hashes[:-1] if hashes else b"\0"):
        with pytest.raises(Untrusted, match="does not fit"):
            BlockMap(size, bad, CLAIM)


def test_a_map_of_a_blob_that_matched_is_proven_by_its_digest() -> None:
    data = bytes(LEAF_BYTES) + b"tail"
    hashes = hashlib.sha256(data[:LEAF_BYTES]).digest() + hashlib.sha256(b"tail").digest()

    made = prove_by_digest(hashes, verify_whole(None, None, whole_digests(data)))

    assert (made.size, made.proof) == (len(data), Proven("whole-digest"))


def test_blocks_outside_the_blob_are_no_blocks() -> None:
    made = BlockMap(LEAF_BYTES + 1, hashes_of(LEAF_BYTES + 1), CLAIM)
    for index in (-1, 2):
        with pytest.raises(IndexError):
            made.block(index)


def test_a_slice_has_the_hashes_of_its_blocks_and_of_a_short_last_one() -> None:
    size = 2 * LEAF_BYTES + 5
    made = BlockMap(size, hashes_of(size), CLAIM)

    assert made.slice(0, size) == made.hashes
    assert made.slice(LEAF_BYTES, 2 * LEAF_BYTES) == made.block(1)
    assert made.slice(2 * LEAF_BYTES, size) == made.block(2)
    assert made.slice(LEAF_BYTES, LEAF_BYTES) == b""


def test_people_are_told_why_a_map_is_believed() -> None:
    assert blockmap.describe(Proven("whole-digest")) == "proven by whole-digest"
    assert blockmap.describe(CLAIM) == "attested by " + "01" * 32
