"""Files of any shape: what is read, what is touched, and trees that lie about their sizes."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pcache.content import cid as cids
from p2pcache.content.dag import files, fsdata, node
from p2pcache.content.dag.build import FileBuilder, Profile, Root, directory, symlink
from p2pcache.content.dag.fsdata import FsData, Kind
from p2pcache.content.dag.hashes import cid_of
from p2pcache.content.dag.node import Link
from p2pcache.content.dag.walk import Need, run, stream
from p2pcache.errors import NotFound, P2PCacheError, Untrusted, UsageError
from tests.support.dags import Blocks

DATA = bytes(range(256)) * 5

profiles = st.builds(
    Profile, chunk_bytes=st.integers(1, 300), max_links=st.integers(2, 5),
    raw_leaves=st.booleans(), cid_version=st.sampled_from([0, 1]), trickle=st.booleans(),
)  # fmt: skip


def built(data: bytes, profile: Profile) -> tuple[bytes, Blocks]:
    blocks = Blocks()
    builder = FileBuilder(profile, blocks.keep)
    builder.write(data)
    return builder.finish().cid, blocks


def got(root: bytes, blocks: Blocks, *span: int) -> bytes:
    return b"".join(stream(files.read(root, *span), blocks.get_block))


@settings(deadline=None)
@given(profiles, st.integers(0, len(DATA)), st.integers(0, 1400), st.integers(0, 1400))
def test_any_range_of_any_shape_is_what_was_written(
    profile: Profile, size: int, start: int, end: int
) -> None:
    root, blocks = built(DATA[:size], profile)

    assert got(root, blocks) == DATA[:size]
    assert run(files.stat(root), blocks.get_block).size == size
    blocks.asked.clear()
    assert got(root, blocks, start, end) == DATA[:size][start:end]
    found = list(stream(files.leaves(root, start, end), blocks.get_block))
    assert all(leaf.start < end and leaf.end > start for leaf in found)


@given(profiles, st.lists(st.integers(0, 400), max_size=8))
def test_the_pieces_in_which_bytes_come_do_not_count(profile: Profile, cuts: list[int]) -> None:
    builder, at = FileBuilder(profile), 0
    for length in cuts:
        builder.write(DATA[at : at + length])
        at += length
    assert builder.finish().cid == built(DATA[:at], profile)[0]


def made(blocks: Blocks, meaning: FsData, *children: bytes, version: int = 1) -> bytes:
    block = node.encode([Link(child, b"", 1) for child in children], fsdata.encode(meaning))
    cid = cid_of(cids.DAG_PB, block)
    blocks.keep(cid, block)
    return cids.as_v0(cid) if version == 0 else cid


def leaf(blocks: Blocks, data: bytes) -> bytes:
    cid = cid_of(cids.RAW, data)
    blocks.keep(cid, data)
    return cid


def file(data: bytes = b"", *sizes: int, size: int | None = None) -> FsData:
    whole = len(data) + sum(sizes) if size is None else size
    return FsData(Kind.FILE, data, whole, sizes)


def test_a_node_may_have_bytes_of_its_own_before_those_of_its_children() -> None:
    blocks = Blocks()
    inner = made(blocks, file(b"cd", 2), leaf(blocks, b"ef"), version=0)
    root = made(blocks, file(b"ab", 4, 1), inner, b"\x01\x55\x00\x01g")
    assert got(root, blocks) == b"abcdefg"
    assert [got(root, blocks, at, at + 3) for at in range(6)] == [
        b"abc", b"bcd", b"cde", b"def", b"efg", b"fg",
    ]  # fmt: skip
    blocks.asked.clear()
    assert got(root, blocks, 3, 3) == got(root, blocks, 5, 3) == b""
    assert blocks.asked == [root, root]
    blocks.asked.clear()
    assert got(root, blocks, 6) == b"g"  # which stands in its CID
    assert blocks.asked == [root]
    found = list(stream(files.leaves(root), blocks.get_block))
    assert [(one.start, one.end, one.data) for one in found] == [
        (0, 2, b"ab"), (2, 4, b"cd"), (4, 6, None), (6, 7, b"g"),
    ]  # fmt: skip


def test_a_file_that_tells_no_size_has_that_of_its_parts() -> None:
    blocks = Blocks()
    root = made(blocks, FsData(Kind.RAW, b"ab", None, (2,)), leaf(blocks, b"cd"))
    assert got(root, blocks) == b"abcd"


LIES = {
    "more links than sizes": lambda b: made(b, file(b"", 2), leaf(b, b"ab"), leaf(b, b"cd")),
    "more sizes than links": lambda b: made(b, file(b"", 2, 2), leaf(b, b"ab")),
    "a size that is not the sum": lambda b: made(b, file(b"", 2, size=3), leaf(b, b"ab")),
    "a leaf that is longer": lambda b: made(b, file(b"", 2), leaf(b, b"abc")),
    "a leaf that is shorter": lambda b: made(b, file(b"", 2), leaf(b, b"a")),
    "a node that is longer": lambda b: made(b, file(b"", 2), made(b, file(b"abc"))),
    "a folder in a file": lambda b: made(b, file(b"", 2), made(b, FsData(Kind.DIRECTORY))),
    "a symlink in a file": lambda b: made(b, file(b"", 2), made(b, FsData(Kind.SYMLINK, b"ab"))),
    "another codec in a file": lambda b: made(b, file(b"", 2), git(b, file(b"ab"))),
}  # fmt: skip


def git(blocks: Blocks, meaning: FsData) -> bytes:
    """A block that would be part of a file, if its codec were dag-pb."""
    block = node.encode([], fsdata.encode(meaning))
    cid = cid_of(cids.GIT_RAW, block)
    blocks.keep(cid, block)
    return cid


def test_more_bytes_than_there_can_be_are_refused_where_they_are_told() -> None:
    blocks = Blocks()
    most = 2**63 - 1
    root = made(blocks, FsData(Kind.FILE, b"", None, (most, most)), *[leaf(blocks, b"")] * 2)
    with pytest.raises(Untrusted, match="more bytes"):
        run(files.stat(root), blocks.get_block)


@pytest.mark.parametrize("name", LIES)
def test_a_tree_that_lies_is_found_out(name: str) -> None:
    blocks = Blocks()
    root = LIES[name](blocks)
    with pytest.raises(Untrusted):
        list(stream(files.read(root), blocks.__getitem__))


def test_a_chain_of_nodes_is_left_at_the_depth_that_a_file_can_have() -> None:
    blocks = Blocks()
    root = leaf(blocks, b"x")
    for _ in range(5000):
        root = made(blocks, file(b"", 1), root)
    blocks.asked.clear()
    with pytest.raises(Untrusted, match="deep"):
        got(root, blocks)
    assert len(blocks.asked) == files.MAX_DEPTH + 1


def test_nodes_without_content_are_not_even_asked_for() -> None:
    blocks = Blocks()
    root = made(blocks, file())
    for _ in range(6):  # 1000^6 nodes, of no byte
        root = made(blocks, file(b"", *[0] * 1000), *[root] * 1000)
    blocks.asked.clear()
    assert got(root, blocks) == b""
    assert blocks.asked == [root]


def test_a_file_of_an_exabyte_in_a_few_blocks_is_read_where_it_is_wanted() -> None:
    blocks = Blocks()
    root, size = leaf(blocks, bytes(1 << 20)), 1 << 20
    for _ in range(4):
        root = made(blocks, file(b"", *[size] * 1024), *[root] * 1024)
        size *= 1024
    blocks.asked.clear()
    assert got(root, blocks, size // 3, size // 3 + 5) == bytes(5)
    assert len(blocks.asked) == 5


def test_nodes_with_too_many_children_beside_each_other_are_left(monkeypatch) -> None:
    monkeypatch.setattr(files, "MAX_PENDING", 5000)
    blocks = Blocks()
    root, size = leaf(blocks, b"x"), 1
    for _ in range(6):
        root = made(blocks, file(b"", *[size] * 1000), *[root] * 1000)
        size *= 1000
    with pytest.raises(Untrusted, match="beside"):
        got(root, blocks)


def test_what_is_no_file_is_no_fault_of_who_sent_it() -> None:
    blocks = Blocks()
    profile = Profile()
    for root in (
        directory(profile, {}, blocks.keep).cid,
        symlink(profile, "away", blocks.keep).cid,
    ):
        with pytest.raises(UsageError, match="where a file is wanted"):
            got(root, blocks)
    cbor = cid_of(cids.DAG_CBOR, b"\xf6")
    blocks.keep(cbor, b"\xf6")
    with pytest.raises(UsageError):
        got(cbor, blocks)
    with pytest.raises(UsageError, match="no symlink"):
        run(files.target(directory(profile, {}, blocks.keep).cid), blocks.get_block)
    assert run(files.target(symlink(profile, "é/x", blocks.keep).cid), blocks.get_block) == "é/x"


def test_what_get_raises_goes_to_the_caller_and_the_walk_is_closed() -> None:
    flow = files.read(Root(cids.raw_cid(bytes(32)), 1, 1).cid)
    with pytest.raises(NotFound):
        list(stream(flow, Blocks().get_block))
    assert flow.gi_frame is None  # closed


def test_what_comes_next_is_told_and_never_too_much() -> None:
    root, blocks = built(DATA, Profile(chunk_bytes=2, max_links=1000))
    flow = files.read(root)
    step, most = next(flow), 0
    with contextlib.suppress(StopIteration):
        while True:
            most = max(most, len(step.ahead) if isinstance(step, Need) else 0)
            step = flow.send(blocks[step.cid] if isinstance(step, Need) else b"")
    assert most == 64


@settings(deadline=None)
@given(profiles, st.data())
def test_only_our_errors_come_out_of_damaged_trees(profile: Profile, data: st.DataObject) -> None:
    root, blocks = built(DATA[: data.draw(st.integers(0, 900))], profile)
    for _ in range(data.draw(st.integers(1, 3))):
        cid = data.draw(st.sampled_from(sorted(blocks)))
        block = bytearray(blocks[cid] or b"\0")
        block[data.draw(st.integers(0, len(block) - 1))] = data.draw(st.integers(0, 255))
        blocks[cid] = bytes(block[: data.draw(st.integers(0, len(block)))])

    def get(cid: bytes) -> bytes:  # as if whoever verifies were deceived
        if cid not in blocks:
            raise NotFound("a link to nowhere")
        return blocks[cid]

    with contextlib.suppress(P2PCacheError):
        list(stream(files.read(root, 5), get))
    with contextlib.suppress(P2PCacheError):
        run(files.stat(root), get)
