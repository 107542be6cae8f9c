"""CARs of other tools: what is a folder of files becomes one, the rest stays blocks."""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING

import pytest

from p2pcache.agent.airgap import blocks as blocks_module
from p2pcache.agent.airgap import read as read_module
from p2pcache.agent.airgap.read import New, read_bundle
from p2pcache.content import cid as cids
from p2pcache.content import unixfs
from p2pcache.content.dag import fsdata, node
from p2pcache.content.dag.build.layout import file_node
from p2pcache.content.dag.build.profile import V1_2025
from p2pcache.content.dag.fsdata import FsData, Kind
from p2pcache.content.dag.hashes import cid_of
from p2pcache.content.unixfs import Root
from p2pcache.errors import P2PCacheError, Untrusted
from p2pcache.transfer.blocks import LocalBlocks
from p2pcache.transfer.progress import Progress
from tests.support.bundles import (
    FILES,
    MIB,
    Frames,
    Stop,
    StopAfter,
    as_blocks_alone,
    content,
    drafts,
    nothing,
    raw,
    read,
    refused,
)

if TYPE_CHECKING:
    from pathlib import Path

    from p2pcache.store.store import Store


def foreign(path: Path, files: dict[str, bytes]) -> tuple[Root, dict[str, Root]]:
    """A CAR as `ipfs dag export` makes it: the root of a folder, and no list."""
    blocks: dict[bytes, bytes] = {}
    roots = {}
    for name, data in files.items():
        leaves = [data[at : at + MIB] for at in range(0, len(data), MIB)] or [b""]
        blocks |= {raw(leaf): leaf for leaf in leaves}
        hashes = [hashlib.sha256(leaf).digest() for leaf in leaves] if data else []
        roots[name] = unixfs.file_root(hashes, len(data), blocks.__setitem__)
    top = unixfs.tree(roots, keep=blocks.__setitem__)
    Frames([top.cid], blocks).save(path)
    return top, roots


def test_a_folder_of_another_tool_becomes_a_manifest(other, path):
    foreign(path, FILES)
    (brought,), _ = read(other, path)
    assert content(other, brought.manifest) == FILES
    assert brought.names == ()


@pytest.mark.parametrize("size", [0, 5, MIB, 2 * MIB + 1])
def test_a_file_of_another_tool_is_found_by_its_root(other, path, size):
    data = hashlib.shake_256(b"f").digest(size)
    _, roots = foreign(path, {"f": data})
    Frames([roots["f"].cid], Frames.of(path).blocks).save(path)
    (brought,), new = read(other, path)
    assert other.find(roots["f"].cid).path.read_bytes() == data
    assert (brought.blob.sha256, new.content_bytes) == (hashlib.sha256(data).digest(), size)


def linked_often(path: Path, names: int, folders: int) -> None:
    """A few blocks: so many folders of so many names, all of one leaf or of one larger file."""
    data, blocks = hashlib.shake_256(b"f").digest(MIB + 1), {}
    leaves = [data[:MIB], data[MIB:]]
    blocks |= {raw(leaf): leaf for leaf in leaves}
    hashes = [hashlib.sha256(leaf).digest() for leaf in leaves]
    large = unixfs.file_root(hashes, len(data), blocks.__setitem__)
    small = unixfs.file_root(hashes[:1], MIB, blocks.__setitem__)
    entries = {f"{n:03}": (small, large)[n % 2] for n in range(names)}
    folder = unixfs.directory(entries, blocks.__setitem__)
    top = unixfs.directory({f"{n:03}": folder for n in range(folders)}, blocks.__setitem__)
    Frames([top.cid], blocks).save(path)


def test_what_many_names_lead_to_is_read_once(other, path, monkeypatch):
    linked_often(path, names=100, folders=20)
    bytes_read, get = 0, blocks_module.Blocks.get

    def counting(self: blocks_module.Blocks, cid: bytes) -> bytes:
        nonlocal bytes_read
        block = get(self, cid)
        bytes_read += len(block)
        return block

    monkeypatch.setattr(blocks_module.Blocks, "get", counting)
    (brought,), new = read(other, path)
    assert (len(brought.manifest.files), new.content_bytes) == (2000, 2 * MIB + 1)
    assert bytes_read < 3 * MIB, "both files, and some folders"


@pytest.mark.parametrize("words", [2, 15])
def test_an_import_can_be_stopped_while_it_finds_out_what_there_is(other, path, words):
    linked_often(path, names=100, folders=20)
    stop = StopAfter(words)
    with pytest.raises(Stop):
        read_bundle(other, path, stop, nothing)
    assert stop.last == Progress("reading")
    assert drafts(other) == []


def test_folders_that_are_linked_again_and_again_are_blocks_alone(other, path, monkeypatch):
    monkeypatch.setattr(read_module, "MAX_AGAIN_BYTES", 0)
    linked_often(path, names=1000, folders=100)
    bytes_read, get = 0, blocks_module.Blocks.get

    def counting(self: blocks_module.Blocks, cid: bytes) -> bytes:
        nonlocal bytes_read
        block = get(self, cid)
        bytes_read += len(block)
        return block

    monkeypatch.setattr(blocks_module.Blocks, "get", counting)
    read(other, path)
    assert bytes_read < 5 * path.stat().st_size
    assert other.ls() == []


def test_more_files_of_others_than_memory_is_meant_for_are_blocks_alone(other, path, monkeypatch):
    monkeypatch.setattr(read_module, "MAX_FOREIGN_FILES", len(FILES) - 1)
    foreign(path, FILES)
    as_blocks_alone(other, path)


def test_chunks_of_another_size_are_kept_as_they_are(other, path):
    blocks = {raw(part): part for part in (b"a" * 1000, b"b" * 1000)}
    children = [Root(cid, 1000, 1000) for cid in blocks]
    root = file_node(V1_2025, children, blocks.__setitem__)
    Frames([root.cid], blocks).save(path)
    as_blocks_alone(other, path)


def test_a_symlink_and_an_empty_folder_beside_files_are_blocks(other, path):
    blocks = {raw(b"x"): b"x"}
    link = node.encode([], fsdata.encode(FsData(Kind.SYMLINK, b"x")))
    empty = node.encode([], fsdata.encode(FsData(Kind.DIRECTORY)))
    more = {cid_of(cids.DAG_PB, block): block for block in (link, empty)}
    blocks |= more
    entries = {"file": Root(raw(b"x"), 1, 1)}
    entries |= {f"{n}": Root(cid, 0, len(block)) for n, (cid, block) in enumerate(more.items())}
    root = unixfs.directory(entries, blocks.__setitem__)
    Frames([root.cid], blocks).save(path)
    (brought,), new = read(other, path)
    assert content(other, brought.manifest) == {"file": b"x"}
    assert new == New(1, sum(map(len, blocks.values())) - 1)
    assert {cid: LocalBlocks(other).read(cid) for cid in blocks} == blocks


def test_a_part_of_a_dag_is_kept_as_blocks(other, path):
    foreign(path, FILES)
    frames = Frames.of(path)
    del frames.blocks[raw(FILES["model.safetensors"][MIB : 2 * MIB])]
    frames.save(path)
    as_blocks_alone(other, path)


def test_a_carv2_is_read_and_one_that_is_cut_short_is_not(other, path):
    foreign(path, FILES)
    inner = path.read_bytes()
    pragma = b"\x0a\xa1\x67version\x02"
    head = pragma + bytes(16) + struct.pack("<QQQ", 51 + 9, len(inner), 0)
    path.write_bytes(head + bytes(9) + inner + b"an index")
    (brought,), _ = read(other, path)
    assert content(other, brought.manifest) == FILES
    path.write_bytes(head + bytes(9) + inner[:-1])
    assert "cut short" in refused_again(other, path).message


def refused_again(other: Store, path: Path) -> P2PCacheError:
    with pytest.raises(Untrusted) as caught:
        read(other, path)
    return caught.value


@pytest.mark.parametrize("words", [5, 8, 11])
def test_a_dag_whose_import_was_stopped_is_brought_by_the_next_one(other, path, words):
    blocks = {raw(part): part for part in (b"%d" % n * 1000 for n in range(9))}
    file_node(V1_2025, [Root(cid, 1000, 1000) for cid in blocks], blocks.__setitem__)
    *_, root = blocks
    Frames([root], blocks).save(path)
    with pytest.raises(Stop):
        read_bundle(other, path, StopAfter(words), nothing)
    here = other.loose.usage()[1]
    assert 0 < here < len(blocks)
    read(other, path)
    assert {cid: other.loose.read(cid) for cid in blocks} == blocks


@pytest.mark.parametrize("at", [0, 4, 8])
def test_a_damaged_block_of_a_dag_is_found(other, path, at):
    blocks = {raw(part): part for part in (b"%d" % n * 1000 for n in range(9))}
    damaged = list(blocks)[at]
    file_node(V1_2025, [Root(cid, 1000, 1000) for cid in blocks], blocks.__setitem__)
    *_, root = blocks
    Frames([root], blocks | {damaged: b"other" * 200}).save(path)
    assert "damaged at byte" in refused(other, path).message
    assert other.loose.length(cids.multihash(damaged)) is None
