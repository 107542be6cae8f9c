"""Directories: sharded ones that are none, names that are none, and paths."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pcache.content import cid as cids
from p2pcache.content.dag import build, folders, fsdata, node, path
from p2pcache.content.dag.build import Profile, Root
from p2pcache.content.dag.fsdata import MURMUR3, FsData, Kind
from p2pcache.content.dag.hashes import cid_of
from p2pcache.content.dag.node import Link
from p2pcache.content.dag.walk import run, stream
from p2pcache.errors import NotFound, P2PCacheError, Untrusted, UsageError
from tests.support.dags import Blocks

if TYPE_CHECKING:
    from collections.abc import Callable

LEAF = Root(cids.raw_cid(bytes(32)), 1, 1)
names = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=5)
names = names.filter(lambda name: name not in (".", ".."))
profiles = st.builds(
    Profile, shard_bytes=st.integers(0, 2000), fanout=st.sampled_from([8, 16, 256, 1024]),
    shard_by=st.sampled_from(["block", "links"]), cid_version=st.sampled_from([0, 1]),
)  # fmt: skip


def listed(root: bytes, blocks: Blocks, most: int = 10_000) -> dict[str, bytes]:
    found = list(stream(folders.entries(root, most), blocks.get_block))
    assert len({entry.name for entry in found}) == len(found)
    return {entry.name: entry.cid for entry in found}


@settings(deadline=None)
@given(profiles, st.sets(names, max_size=60))
def test_every_folder_is_listed_and_each_of_its_names_found(
    profile: Profile, wanted: set[str]
) -> None:
    blocks = Blocks()
    root = build.directory(profile, dict.fromkeys(wanted, LEAF), blocks.keep)

    assert set(listed(root.cid, blocks)) == wanted
    for name in sorted(wanted)[:5]:
        found = run(folders.find(root.cid, name), blocks.get_block)
        assert found is not None
        assert (found.name, found.cid) == (name, LEAF.cid)
    assert run(folders.find(root.cid, "longer than any"), blocks.get_block) is None


def test_the_hash_is_murmur3_as_boxo_has_it() -> None:  # spaolacci/murmur3, New64
    assert f"{folders.name_hash(b''):016x}" == "0" * 16
    assert f"{folders.name_hash(b'hello'):016x}" == "cbd8a7b341bd9b02"


def keep(blocks: Blocks, meaning: FsData, *links: Link) -> bytes:
    block = node.encode(links, fsdata.encode(meaning))
    cid = cid_of(cids.DAG_PB, block)
    blocks.keep(cid, block)
    return cid


def shard(
    blocks: Blocks, slots: dict[int, tuple[bytes, bytes]], fanout: int = 256, **other: object
) -> bytes:
    """`slots`: what follows the number in the name, and the child."""
    bits = sum(1 << slot for slot in slots)
    field = bits.to_bytes(128, "big").lstrip(b"\0")
    meaning = FsData(Kind.SHARD, field, hash_type=MURMUR3, fanout=fanout)
    for name, value in other.items():
        meaning = FsData(**{**_fields(meaning), name: value})
    links = [Link(cid, b"%02X" % slot + name, 1) for slot, (name, cid) in sorted(slots.items())]
    return keep(blocks, meaning, *links)


def _fields(meaning: FsData) -> dict:
    return {name: getattr(meaning, name) for name in FsData.__slots__}


def slot_of(name: bytes, depth: int = 0) -> int:
    return folders.name_hash(name) >> 56 - 8 * depth & 255


def right(name: bytes) -> dict[int, tuple[bytes, bytes]]:
    return {slot_of(name): (name, LEAF.cid)}


BROKEN = {
    "a name in the wrong slot": lambda b: shard(b, {(slot_of(b"x") + 1) % 256: (b"x", LEAF.cid)}),
    "an empty shard": lambda b: shard(b, {1: (b"", shard(b, {}))}),
    "bits that do not fit": lambda b: shard(b, right(b"x"), data=b"\x03"),
    "no bits": lambda b: shard(b, right(b"x"), data=b""),
    "more bits than the fanout": lambda b: shard(b, right(b"x"), data=b"\x01" + bytes(40)),
    "a fanout of 3": lambda b: shard(b, right(b"x"), fanout=3),
    "a fanout of 2^20": lambda b: shard(b, right(b"x"), fanout=1 << 20),
    "no fanout": lambda b: shard(b, right(b"x"), fanout=None),
    "another hash": lambda b: shard(b, right(b"x"), hash_type=0x12),
    "another fanout below": lambda b: shard(b, {1: (b"", shard(b, right(b"x"), fanout=16))}),
    "a folder below a shard": lambda b: shard(b, {1: (b"", keep(b, FsData(Kind.DIRECTORY)))}),
    "a leaf below a shard": lambda b: shard(b, {1: (b"", LEAF.cid)}),
    "a name twice": lambda b: keep(
        b, FsData(Kind.DIRECTORY), Link(LEAF.cid, b"a", 1), Link(LEAF.cid, b"a", 1)
    ),
    **{
        f"the name {name!r}": lambda b, name=name: keep(
            b, FsData(Kind.DIRECTORY), Link(LEAF.cid, name, 1)
        )
        for name in (b"", b".", b"..", b"a/b", b"a\0b", b"\xff")
    },
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_folder_that_is_none_is_refused(name: str) -> None:
    blocks = Blocks()
    blocks.update({LEAF.cid: b""})
    root = BROKEN[name](blocks)
    with pytest.raises(Untrusted):
        list(stream(folders.entries(root), blocks.__getitem__))


def named(wanted: Callable[[int], bool]) -> bytes:
    """A name with such a hash."""
    return next(b"%d" % n for n in range(10**6) if wanted(folders.name_hash(b"%d" % n)))


def test_a_shard_of_another_fanout_is_refused_where_its_slots_would_fit() -> None:
    blocks = Blocks()
    name = named(lambda hashed: hashed >> 48 & 255 < 16)
    for fanout in (256, 16):
        inner = shard(blocks, {slot_of(name, 1): (name, LEAF.cid)}, fanout=fanout)
        root = shard(blocks, {slot_of(name): (b"", inner)})
        if fanout == 256:
            assert set(listed(root, blocks)) == {name.decode()}
            continue
        with pytest.raises(Untrusted, match="different fanouts"):
            listed(root, blocks)


@pytest.mark.parametrize("fanout", [0, 2, 3, 4, 6])
def test_a_fanout_that_is_none_is_refused_where_its_slots_would_fit(fanout: int) -> None:
    blocks = Blocks()
    name = named(lambda hashed: not hashed >> 60)  # the first slot of any
    field = FsData(Kind.SHARD, b"\x01", hash_type=MURMUR3, fanout=fanout)
    root = keep(blocks, field, Link(LEAF.cid, b"0" + name, 1))
    with pytest.raises(Untrusted, match="fanout"):
        listed(root, blocks)


def bomb(blocks: Blocks, bottom: bytes) -> bytes:
    """Eight levels of 256 equal shards: 2^64 entries in nine blocks."""
    for _ in range(7):
        bottom = shard(blocks, dict.fromkeys(range(256), (b"", bottom)))
    return bottom


def test_a_bomb_of_shards_is_refused_when_it_repeats_itself() -> None:
    blocks = Blocks()
    name = named(lambda hashed: not hashed >> 56)
    for bottom in (shard(blocks, right(name)), shard(blocks, right(b"x"))):
        root = bomb(blocks, bottom)
        blocks.asked.clear()
        with pytest.raises(Untrusted, match="hash does not put"):
            listed(root, blocks)
        assert len(blocks.asked) <= 10


def test_a_chain_of_shards_ends_where_the_hash_does() -> None:
    blocks = Blocks()
    root = shard(blocks, {0: (b"", LEAF.cid)})
    for _ in range(5000):
        root = shard(blocks, {0: (b"", root)})
    blocks.asked.clear()
    with pytest.raises(Untrusted, match="deeper"):
        listed(root, blocks)
    assert len(blocks.asked) <= 9


def test_a_folder_of_more_entries_than_it_may_have_is_left() -> None:
    blocks = Blocks()
    root = build.directory(Profile(), {str(n): LEAF for n in range(100)}, blocks.keep)
    assert len(listed(root.cid, blocks, 100)) == 100
    with pytest.raises(Untrusted, match="more than the 99"):
        listed(root.cid, blocks, 99)


def test_what_is_no_folder_is_no_fault_of_who_sent_it() -> None:
    blocks = Blocks()
    file = keep(blocks, FsData(Kind.FILE, b"x", 1))
    for cid in (file, cids.raw_cid(bytes(32))):
        with pytest.raises(UsageError, match="no folder"):
            list(stream(folders.entries(cid), lambda cid: blocks.get(cid, b"")))


def test_two_names_of_one_hash_are_refused_and_not_looked_at_for_ever(monkeypatch) -> None:
    monkeypatch.setattr("p2pcache.content.dag.build.folders.name_hash", lambda name: 7)
    with pytest.raises(UsageError, match="hash"):
        build.directory(Profile(shard_bytes=0), {"a": LEAF, "b": LEAF})


def test_a_path_that_is_a_file_and_a_folder_makes_no_tree() -> None:
    for paths in (["a", "a/b"], ["x/a", "x/a/b/c"]):
        with pytest.raises(UsageError, match="is a file and a folder"):
            build.tree(Profile(), dict.fromkeys(paths, LEAF))
    with pytest.raises(UsageError, match="is a file and a folder"):
        build.tree(Profile(), {"a": LEAF}, ["a"])


def test_very_many_names_are_in_the_order_of_their_bytes(monkeypatch) -> None:
    monkeypatch.setattr(build.folders, "SORTED_AT_ONCE", 7)
    wanted = {f"{number * 7919 % 100}é"[number % 3 :] for number in range(100)} | {"￿", "𐀀"}
    assert build.by_bytes(wanted) == sorted(wanted, key=str.encode)
    assert build.by_bytes([]) == []


def test_a_path_leads_through_folders_and_says_what_it_touched() -> None:
    blocks = Blocks()
    profile = Profile(shard_bytes=500)
    files = {f"a/b/{n}": LEAF for n in range(100)} | {"x": LEAF}
    root = build.tree(profile, files, keep=blocks.keep)
    found = run(path.resolve(root.cid, ["a", "b", "42"]), blocks.get_block)
    assert found.cid == LEAF.cid
    assert len(found.roots) == 4
    assert found.roots[0] == root.cid
    assert len(found.blocks) in (3, 4)  # two plain folders and the shards of one
    assert list(found.blocks) == blocks.asked
    assert run(path.resolve(root.cid, []), blocks.get_block).roots == (root.cid,)


@pytest.mark.parametrize(
    "way", [["y"], ["x", "y"], ["a", "b", "no"], ["X"], ["a" * 300], ["\ud800"]]
)
def test_a_path_that_leads_nowhere_is_not_found(way: list[str]) -> None:
    blocks = Blocks()
    root = build.tree(Profile(), {"a/b/c": LEAF, "x": LEAF}, keep=blocks.keep)
    with pytest.raises(NotFound, match="there is nothing"):
        run(path.resolve(root.cid, way), blocks.get_block)


@pytest.mark.parametrize("way", [["."], ["a", ".."], [""], ["a"] * 1001])
def test_a_path_that_is_none_is_refused(way: list[str]) -> None:
    with pytest.raises(UsageError, match="path"):
        run(path.resolve(LEAF.cid, way), Blocks().get_block)


def test_deep_folders_are_made_without_depth_of_our_own() -> None:
    blocks = Blocks()
    deep = "/".join(["a"] * 1500)
    root = build.tree(Profile(), {deep: LEAF}, keep=blocks.keep)
    with pytest.raises(UsageError, match="components"):
        run(path.resolve(root.cid, deep.split("/")), blocks.get_block)
    assert run(path.resolve(root.cid, ["a"] * 1000), blocks.get_block).remainder == ()


@settings(deadline=None)
@given(profiles, st.sets(names, max_size=30), st.data())
def test_only_our_errors_come_out_of_damaged_folders(
    profile: Profile, wanted: set[str], data: st.DataObject
) -> None:
    blocks = Blocks()
    root = build.directory(profile, dict.fromkeys(wanted, LEAF), blocks.keep)
    cid = data.draw(st.sampled_from(sorted(blocks)))
    block = bytearray(blocks[cid])
    block[data.draw(st.integers(0, len(block) - 1))] = data.draw(st.integers(0, 255))
    blocks[cid] = bytes(block[: data.draw(st.integers(1, len(block)))])

    def get(cid: bytes) -> bytes:
        if cid not in blocks:
            raise NotFound("a link to nowhere")
        return blocks[cid]

    with contextlib.suppress(P2PCacheError):
        list(stream(folders.entries(root.cid), get))
    for name in sorted(wanted)[:3]:
        with contextlib.suppress(P2PCacheError):
            run(path.resolve(root.cid, [name, "x"]), get)
