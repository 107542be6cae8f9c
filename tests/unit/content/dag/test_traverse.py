"""Traversals for CARs: bounded whatever the DAG is. Scopes against Kubo's DAGs: tests/real."""

from __future__ import annotations

import pytest

from p2pcache.content import cid as cids
from p2pcache.content.dag import cbor, node, traverse
from p2pcache.content.dag.cbor import CidLink
from p2pcache.content.dag.hashes import cid_of
from p2pcache.content.dag.node import Link
from p2pcache.content.dag.walk import stream
from p2pcache.errors import Untrusted
from tests.support.dags import Blocks


def linked(blocks: Blocks, *children: bytes) -> bytes:
    """A block that links to these, as dag-cbor."""
    block = cbor.encode([CidLink(child) for child in children])
    cid = cid_of(cids.DAG_CBOR, block)
    blocks.keep(cid, block)
    return cid


def cids_of(root: bytes, blocks: Blocks, **wanted: object) -> list[bytes]:
    return [found.cid for found in stream(traverse.blocks(root, **wanted), blocks.get_block)]


def test_blocks_come_depth_first_parents_before_children_and_once() -> None:
    blocks = Blocks()
    leaf = linked(blocks)
    left, right = linked(blocks, leaf), linked(blocks, leaf, leaf)
    root = linked(blocks, left, right, leaf)

    assert cids_of(root, blocks) == [root, left, leaf, right]
    assert cids_of(root, blocks, duplicates=True) == [root, left, leaf, right, leaf, leaf, leaf]
    assert len(blocks.asked) == 4 + 7


def laughs(blocks: Blocks, levels: int) -> bytes:
    """1000^levels paths in `levels` blocks."""
    root = linked(blocks)
    for _ in range(levels):
        root = linked(blocks, *[root] * 1000)
    return root


def test_a_billion_laughs_are_a_few_blocks() -> None:
    blocks = Blocks()
    root = laughs(blocks, 6)
    assert len(cids_of(root, blocks)) == 7
    assert len(blocks.asked) == 7


def test_a_billion_laughs_with_repeats_are_left_after_as_many_as_may_be() -> None:
    blocks = Blocks()
    root = laughs(blocks, 6)
    with pytest.raises(Untrusted, match="more than 5000 blocks"):
        cids_of(root, blocks, duplicates=True, most=5000)
    assert len(blocks.asked) == 5001


def test_a_dag_that_is_too_deep_is_left() -> None:
    blocks = Blocks()
    root = linked(blocks)
    for _ in range(100_000):
        root = linked(blocks, root)
    with pytest.raises(Untrusted, match="deep"):
        cids_of(root, blocks)
    assert len(blocks.asked) == traverse.MAX_DEPTH + 1


def test_a_dag_with_too_many_links_beside_each_other_is_left(monkeypatch) -> None:
    monkeypatch.setattr(traverse, "MAX_PENDING", 2500)
    blocks = Blocks()
    with pytest.raises(Untrusted, match="beside"):
        cids_of(laughs(blocks, 6), blocks)


def test_a_codec_that_we_do_not_know_is_refused_below_and_given_by_itself() -> None:
    blocks = Blocks()
    git = cid_of(cids.GIT_RAW, b"blob 0\0")
    blocks.keep(git, b"blob 0\0")
    assert cids_of(git, blocks, scope="block") == cids_of(git, blocks, scope="entity") == [git]
    with pytest.raises(Untrusted, match="codec"):
        cids_of(linked(blocks, git), blocks)


def test_blocks_that_stand_in_their_cids_do_not_come_and_their_links_do() -> None:
    blocks = Blocks()
    leaf = linked(blocks)
    inner = node.encode([Link(leaf)], None)
    hi = b"\x01\x55\x00\x02hi"
    above = b"\x01\x70\x00" + bytes([len(inner)]) + inner
    root = linked(blocks, above, hi, hi)
    assert cids_of(root, blocks) == [root, leaf]
    assert cids_of(root, blocks, inlined=True) == [root, above, leaf, hi]


def test_dag_pb_that_is_no_unixfs_is_an_entity_of_one_block() -> None:
    blocks = Blocks()
    block = node.encode([Link(linked(blocks))], None)
    cid = cid_of(cids.DAG_PB, block)
    blocks.keep(cid, block)
    assert cids_of(cid, blocks, scope="entity") == [cid]
    assert len(cids_of(cid, blocks)) == 2
