"""UnixFS of others: what our importer makes is read again, everything else is refused in time."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from p2pcache.content import cid as cids
from p2pcache.content import unixfs, unixfs_read
from p2pcache.content.dag.build.folders import DIRECTORY
from p2pcache.content.dag.build.layout import file_node
from p2pcache.content.dag.build.profile import V1_2025, make_node
from p2pcache.content.unixfs import LEAF_BYTES, MAX_LINKS, Root
from p2pcache.errors import Untrusted

MIB = LEAF_BYTES
INTERESTING_SIZES = [
    0,  # a leaf without bytes
    1,
    MIB,  # the root is the leaf
    MIB + 1,  # the first node
    1024 * MIB,  # one full node
    1025 * MIB + 5,  # a second level
]


class Nodes(dict[bytes, bytes]):
    """The dag-pb blocks by CID; asks for leaves are a mistake."""

    def get_block(self, cid: bytes) -> bytes:
        if cid not in self:
            raise Untrusted("not here")
        return self[cid]


def hashes_of(size: int) -> list[bytes]:
    return [hashlib.sha256(b"%d" % n).digest() for n in range(-(-size // MIB))]


def made(size: int) -> tuple[Nodes, Root, list[bytes]]:
    nodes, hashes = Nodes(), hashes_of(size)
    return nodes, unixfs.file_root(hashes, size, nodes.__setitem__), hashes


@pytest.mark.parametrize("size", INTERESTING_SIZES)
def test_the_leaves_of_what_the_importer_made_come_back(size: int) -> None:
    nodes, root, hashes = made(size)
    assert unixfs_read.leaf_hashes(root.cid, size, nodes.get_block) == b"".join(hashes)


@pytest.mark.parametrize("size", INTERESTING_SIZES)
@pytest.mark.parametrize("by", [-1, 1, MIB, -MIB, 2000 * MIB])
def test_a_size_that_is_not_the_files_is_refused(size: int, by: int) -> None:
    nodes, root, _ = made(size)
    if (size, by) == (0, 1) or size + by < 0 or (size <= MIB and 0 < size + by <= MIB):
        return  # of one block: its own bytes tell
    with pytest.raises(Untrusted):
        unixfs_read.leaf_hashes(root.cid, size + by, nodes.get_block)


def test_a_tree_that_repeats_itself_is_left_after_as_many_leaves_as_the_size_has() -> None:
    nodes = Nodes()
    leaf = Root(cids.raw_cid(bytes(32)), MIB, MIB)
    node = file_node(V1_2025, [leaf] * MAX_LINKS, nodes.__setitem__)
    for _ in range(3):  # 1024^4 leaves in four blocks
        node = file_node(V1_2025, [node] * MAX_LINKS, nodes.__setitem__)
    asked = 0

    def get(cid: bytes) -> bytes:
        nonlocal asked
        asked += 1
        return nodes.get_block(cid)

    with pytest.raises(Untrusted, match="more blocks"):
        unixfs_read.leaf_hashes(node.cid, 3000 * MIB, get)
    assert asked < 10


def test_a_chain_of_nodes_ends_at_the_depth_that_a_file_can_have() -> None:
    nodes = Nodes()
    node = Root(cids.raw_cid(bytes(32)), MIB, MIB)
    for _ in range(100):
        node = file_node(V1_2025, [node], nodes.__setitem__)
    with pytest.raises(Untrusted, match="shape"):
        unixfs_read.leaf_hashes(node.cid, 2 * MIB, nodes.get_block)


FILES = {"a/b/c.txt": 1, "a/b.txt": 2, "top": 3, "é": 4, "a.x": 5, "big": 3 * MIB}


def folder() -> tuple[Nodes, Root, dict[str, Root]]:
    nodes = Nodes()
    roots = {}
    for path, size in FILES.items():
        hashes = [hashlib.sha256(b"%s%d" % (path.encode(), n)).digest() for n in range(3)]
        roots[path] = unixfs.file_root(hashes[: -(-size // MIB)], size, nodes.__setitem__)
    return nodes, unixfs.tree(roots, ["hollow/in"], nodes.__setitem__), roots


def test_the_files_of_a_folder_come_back() -> None:
    nodes, root, roots = folder()
    found = dict(unixfs_read.files_below(root.cid, nodes.get_block, 100))
    assert found == {path: root.cid for path, root in roots.items()}


def test_a_file_is_the_file_without_a_path() -> None:
    nodes, root, _ = made(3 * MIB)
    assert list(unixfs_read.files_below(root.cid, nodes.get_block, 100)) == [("", root.cid)]


def test_a_folder_is_left_when_it_has_more_entries_than_it_may() -> None:
    nodes, root, _ = folder()
    with pytest.raises(Untrusted, match="more than"):
        list(unixfs_read.files_below(root.cid, nodes.get_block, 8))


def test_a_folder_is_left_when_its_paths_are_longer_than_memory_is_meant_for(monkeypatch) -> None:
    nodes, root, roots = folder()
    chars = sum(len(path) for path in [*roots, "a", "a/b", "hollow", "hollow/in"])
    monkeypatch.setattr(unixfs_read, "MAX_PATHS_CHARS", chars)
    assert len(list(unixfs_read.files_below(root.cid, nodes.get_block, 100))) == len(FILES)
    monkeypatch.setattr(unixfs_read, "MAX_PATHS_CHARS", chars - 1)
    with pytest.raises(Untrusted, match="characters"):
        list(unixfs_read.files_below(root.cid, nodes.get_block, 100))


def test_folders_that_hold_one_another_a_thousandfold_are_left() -> None:
    nodes = Nodes()
    inner = unixfs.directory({}, nodes.__setitem__)
    for _ in range(10):  # 100^10 folders
        inner = unixfs.directory({f"{n:02}": inner for n in range(100)}, nodes.__setitem__)
    with pytest.raises(Untrusted, match="more than"):
        list(unixfs_read.files_below(inner.cid, nodes.get_block, 10_000))


def test_a_file_that_many_names_lead_to_is_read_once() -> None:
    nodes, file, _ = made(3 * MIB)
    root = unixfs.directory({f"{n:02}": file for n in range(50)}, nodes.__setitem__)
    asked: list[bytes] = []

    def get(cid: bytes) -> bytes:
        asked.append(cid)
        return nodes.get_block(cid)

    assert len(list(unixfs_read.files_below(root.cid, get, 100))) == 50
    assert sorted(asked) == sorted([root.cid, file.cid])


@pytest.mark.parametrize(
    "name", ["..", ".", "", "a/../b", "/etc", "a/b", "c:x", "back\\slash", "\x00", "n" * 256]
)
def test_a_name_that_leaves_its_folder_or_cannot_be_written_is_refused(name: str) -> None:
    nodes = Nodes()
    leaf = Root(cids.raw_cid(bytes(32)), 1, 1)
    root = unixfs.directory({"fine": leaf, name: leaf}, nodes.__setitem__)
    with pytest.raises(Untrusted):
        list(unixfs_read.files_below(root.cid, nodes.get_block, 100))


def node_of(links: list[tuple[bytes, Root]], data: bytes) -> tuple[Nodes, bytes]:
    nodes = Nodes()
    return nodes, make_node(V1_2025, links, data, 0, nodes.__setitem__)[0].cid


LEAF = Root(cids.raw_cid(bytes(32)), 1, 1)
SHAPES = {
    "HAMT": node_of([(b"00a", LEAF)], b"\x08\x05\x12\x01\x01\x28\x22\x30\x80\x02"),
    "link": node_of([], b"\x08\x04\x12\x04/etc"),
    "inline data": node_of([], b"\x08\x02\x12\x01x\x18\x01"),
    "a mode": node_of([(b"a", LEAF)], b"\x08\x01\x38\xa4\x03"),
    "a name twice": node_of([(b"a", LEAF), (b"a", LEAF)], DIRECTORY),
    "unsorted": node_of([(b"b", LEAF), (b"a", LEAF)], DIRECTORY),
    "no UTF-8": node_of([(b"\xff", LEAF)], DIRECTORY),
    "a link to a manifest": node_of([(b"a", Root(cids.dagcbor_cid(bytes(32)), 1, 1))], DIRECTORY),
    "CIDv0": node_of([(b"a", Root(b"\x12\x20" + bytes(32), 1, 1))], DIRECTORY),
}


@pytest.mark.parametrize("name", SHAPES)
def test_what_has_another_shape_is_refused(name: str) -> None:
    nodes, root = SHAPES[name]
    with pytest.raises(Untrusted):
        list(unixfs_read.files_below(root, nodes.get_block, 100))
    with pytest.raises(Untrusted):
        unixfs_read.leaf_hashes(root, 2 * MIB, nodes.get_block)


@given(st.data())
def test_only_untrusted_comes_out_of_a_damaged_node(data: st.DataObject) -> None:
    nodes, root, _ = folder()
    block = bytearray(nodes[root.cid])
    for _ in range(data.draw(st.integers(1, 4))):
        block[data.draw(st.integers(0, len(block) - 1))] = data.draw(st.integers(0, 255))
    block = block[: data.draw(st.integers(0, len(block)))]
    nodes[root.cid] = bytes(block)
    try:
        list(unixfs_read.files_below(root.cid, nodes.get_block, 100))
    except Untrusted:
        return


@given(st.binary(max_size=100))
@example(b"\x12\xff\xff\xff\xff\xff\xff\xff\x7f")
def test_only_untrusted_comes_out_of_noise(block: bytes) -> None:
    try:
        unixfs_read.parse_node(block)
    except Untrusted:
        return
