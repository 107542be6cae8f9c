"""The files below a CID, and the sizes that are told of them."""

from __future__ import annotations

import hashlib

import pytest

from p2pcache.content import cid as cids
from p2pcache.content.blocks import MAX_BLOCK_BYTES
from p2pcache.content.dag.listing import listed
from p2pcache.content.unixfs import Root, tree
from p2pcache.errors import Untrusted

LEAF = cids.raw_cid(hashlib.sha256(b"0123456789").digest())


def one_file(told_bytes: int):
    nodes: dict[bytes, bytes] = {}
    root = tree({"f": Root(LEAF, told_bytes, told_bytes)}, keep=nodes.__setitem__)
    return listed(nodes.__getitem__, root.cid, None)


@pytest.mark.parametrize("size", [0, 1, 10, MAX_BLOCK_BYTES])
def test_the_size_of_a_block_counts_and_not_its_folders_word(size):
    found = one_file(11)
    assert found.believed == {LEAF}
    found.correct({LEAF: size})
    assert [file.size for file in found.files] == [size]


@pytest.mark.parametrize("size", [-1, MAX_BLOCK_BYTES + 1, 1 << 62])
def test_a_block_of_a_size_that_no_block_has_is_refused(size):
    with pytest.raises(Untrusted, match="`f`"):
        one_file(10).correct({LEAF: size})


def test_what_nobody_says_of_a_block_changes_nothing():
    found = one_file(10)
    found.correct({})
    assert [file.size for file in found.files] == [10]
