"""Bundles from store to store: what arrives is what left, and nothing that is not right arrives."""

from __future__ import annotations

import hashlib
import os
import struct
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from p2pcache.agent.airgap import blocks as blocks_module
from p2pcache.agent.airgap import read as read_module
from p2pcache.agent.airgap import write as write_module
from p2pcache.agent.airgap.read import New, read_bundle
from p2pcache.agent.airgap.write import index_path, write_bundle
from p2pcache.content import bundle, car, unixfs, varint
from p2pcache.content import cid as cids
from p2pcache.content.dag import fsdata, node
from p2pcache.content.dag.build.layout import file_node
from p2pcache.content.dag.build.profile import V1_2025
from p2pcache.content.dag.fsdata import FsData, Kind
from p2pcache.content.dag.hashes import cid_of
from p2pcache.content.dag.listing import listed
from p2pcache.content.digests import sha256_digest
from p2pcache.content.manifest import FileEntry, Manifest
from p2pcache.content.unixfs import Root
from p2pcache.content.unixfs_read import parse_node
from p2pcache.errors import LocalFault, NotFound, P2PCacheError, Untrusted, UsageError
from p2pcache.store.layout import StoreOptions
from p2pcache.store.store import Store
from p2pcache.transfer.blocks import LocalBlocks
from p2pcache.transfer.progress import Progress
from tests.support.bundles import Frames, Stop, StopAfter, nothing, put, raw, read, write

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20
OPTIONS = StoreOptions(reserve_bytes=0)
FILES = {
    "config.json": b"{}",
    "sub/empty": b"",
    "model.safetensors": hashlib.shake_256(b"m").digest(3 * MIB + 5),
    "sub/zeros": bytes(2 * MIB),  # both blocks are one
    "same": b"{}",
}


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "here", OPTIONS) as opened:
        yield opened


@pytest.fixture
def other(tmp_path):
    with Store.open(tmp_path / "there", OPTIONS) as opened:
        yield opened


@pytest.fixture
def path(tmp_path):
    return tmp_path / "bundle.car"


def drafts(store: Store) -> list[Path]:
    """What was begun and neither published nor removed."""
    return [
        one for one in store.layout.temporary.rglob("*") if len(one.name) == 16 and one.is_file()
    ]


def content(store: Store, manifest: Manifest) -> dict[str, bytes]:
    found = store.find_many([file.digest for file in manifest.files])
    return {file.path: found[file.digest].path.read_bytes() for file in manifest.files}


@pytest.mark.parametrize("git", [False, True])
def test_files_arrive_under_their_names_with_map_and_root(store, other, path, git):
    planned = put(store, FILES, git=git)
    write(store, path, planned)

    (brought,), new = read(other, path)

    assert brought.manifest == planned.manifest
    assert content(other, brought.manifest) == FILES
    assert new.content_bytes == sum(map(len, FILES.values())) - len(FILES["same"])
    for blob in planned.blobs.values():
        arrived = other.find(blob.digest)
        blocks = [blob.path.read_bytes()[at : at + MIB] for at in range(0, blob.size, MIB)]
        hashes = [hashlib.sha256(block).digest() for block in blocks]
        assert arrived.root_cid == unixfs.file_root(hashes, blob.size).cid
        if blob.size > MIB:
            assert other.block_map(blob.sha256) == b"".join(hashes)
            assert other.find(arrived.root_cid) == arrived
    assert other.get_manifest(planned.manifest.cid()) == planned.manifest
    assert drafts(other) == []


def test_each_block_is_in_the_file_once_and_the_index_says_where(store, path):
    written = write(store, path, put(store, FILES), put(store, {"again": FILES["same"]}))

    data = path.read_bytes()
    frames = Frames.of(path)
    assert written.blocks == len(frames.blocks)
    assert data.count(FILES["model.safetensors"][:100]) == 1
    index = index_path(path).read_bytes()
    rows = index[-40 * written.blocks :]
    assert len(index) == 2 + 4 + 8 + 4 + 4 + 8 + len(rows)
    for at in range(0, len(rows), 40):
        digest, offset = rows[at : at + 32], struct.unpack("<Q", rows[at + 32 : at + 40])[0]
        section = car.parse_section(data[offset : offset + car.HEAD_BYTES])
        assert section.cid[4:] == digest
        assert (
            hashlib.sha256(data[offset + section.start : offset + section.end]).digest() == digest
        )


def test_all_that_a_root_needs_is_in_the_file(store, path):
    write(store, path, put(store, FILES))
    frames = Frames.of(path)
    (ref,) = frames.refs()
    assert frames.roots == [ref.folder, frames.record]
    todo, seen = [ref.folder], set()
    while todo:
        cid = todo.pop()
        seen.add(cid)
        if cids.codec(cid) == cids.DAG_PB:
            todo += [link.cid for link in parse_node(frames.blocks[cid]).links]
    assert seen | {ref.manifest, frames.record} == set(frames.blocks)


def test_what_is_here_is_not_written_again(store, other, path):
    write(store, path, put(store, FILES))
    read(other, path)
    before = other.find(put(store, FILES).blobs["model.safetensors"].digest).path.stat()
    assert read(other, path)[1] == New(0, 0)
    after = other.find(put(store, FILES).blobs["model.safetensors"].digest).path.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_the_mark_is_set_before_a_blob_is_here(store, other, path):
    planned = put(store, FILES, restricted=True)
    write(store, path, planned)

    def stop_at_content(progress: Progress) -> None:
        if progress.phase == "importing":
            raise Stop

    with pytest.raises(Stop):
        read_bundle(other, path, stop_at_content, nothing)
    assert other.restricted_manifests() == {planned.manifest.cid()}
    read(other, path)
    assert other.hidden_manifests([planned.manifest.cid()]) == {planned.manifest.cid()}
    assert {one.stat().st_mode & 0o777 for one in (path, index_path(path))} == {0o600}


@pytest.mark.parametrize("words", range(12))
def test_what_was_stopped_is_brought_by_the_next_import(store, other, path, words):
    planned = put(store, FILES)
    write(store, path, planned)
    with pytest.raises(Stop):
        read_bundle(other, path, StopAfter(min(words, 4)), nothing)
    assert other.get_manifest(planned.manifest.cid()) is None
    assert drafts(other) == []
    read(other, path)
    assert content(other, planned.manifest) == FILES


# -- what is wrong -------------------------------------------------------------------------------


def refused(other: Store, path: Path, kind: type[P2PCacheError] = Untrusted) -> P2PCacheError:
    """Import it: the error. Nothing of it has a name then, but files that were right."""
    with pytest.raises(kind) as caught:
        read(other, path)
    assert other.ls() == []
    assert drafts(other) == []
    for blob in other.every_blob():
        assert hashlib.sha256(blob.path.read_bytes()).digest() == blob.sha256
    return caught.value


def test_a_flipped_bit_in_a_block_is_found(store, other, path):
    planned = put(store, FILES)
    write(store, path, planned)
    data = bytearray(path.read_bytes())
    data[data.index(FILES["model.safetensors"][MIB : MIB + 50]) + 7] ^= 1
    path.write_bytes(data)
    assert "hashes to" in refused(other, path).message
    assert other.find(planned.blobs["model.safetensors"].digest) is None


@pytest.mark.parametrize("missing", [1, 100, MIB, 3 * MIB])
def test_a_file_that_is_cut_short_is_refused_before_anything_is_brought(
    store, other, path, missing
):
    write(store, path, put(store, FILES))
    os.truncate(path, path.stat().st_size - missing)
    assert "cut short" in refused(other, path).message
    assert other.every_blob() == []


def test_another_file_behind_a_digest_is_refused_though_all_its_blocks_are_right(
    store, other, path
):
    planned = put(store, {"model": FILES["model.safetensors"]})
    write(store, path, planned)
    lie = Manifest.from_entries(
        [FileEntry("model", planned.blobs["model"].size, sha256_digest(bytes(32)))]
    )
    Frames.of(path).with_manifest(lie).save(path)
    assert "hash to" in refused(other, path).message
    assert other.every_blob() == []


@pytest.mark.parametrize("by", [1, -1, MIB, -MIB])
def test_a_manifest_with_another_size_is_refused(store, other, path, by):
    planned = put(store, {"model": FILES["model.safetensors"]})
    write(store, path, planned)
    blob = planned.blobs["model"]
    lie = Manifest.from_entries([FileEntry("model", blob.size + by, blob.digest)])
    Frames.of(path).with_manifest(lie).save(path)
    refused(other, path)
    read_back = put(other, {"model": FILES["model.safetensors"]})  # and when the blob is here
    assert read_back.blobs["model"].size == blob.size
    with pytest.raises(Untrusted):
        read(other, path)


def test_one_digest_with_two_sizes_is_refused(store, other, path):
    planned = put(store, {"a": b"12", "b": b"12"})
    write(store, path, planned)
    lie = Manifest.from_entries(
        [FileEntry(p, n, planned.blobs["a"].digest) for p, n in (("a", 2), ("b", 3))]
    )
    Frames.of(path).with_manifest(lie).save(path)
    assert "two sizes" in refused(other, path).message


def test_a_folder_with_more_or_fewer_files_than_its_manifest_is_refused(store, other, path):
    planned = put(store, FILES)
    write(store, path, planned)
    fewer = Manifest.from_entries(planned.manifest.files[1:])
    more = Manifest.from_entries(
        [*planned.manifest.files, FileEntry("x", 2, b"\x12\x20" + bytes(32))]
    )
    first = planned.manifest.files[0]
    renamed = Manifest.from_entries(
        [FileEntry("other", first.size, first.digest), *planned.manifest.files[1:]]
    )
    for lie in (fewer, more, renamed):
        Frames.of(path).with_manifest(lie).save(path)
        refused(other, path)


def test_a_block_that_is_not_there_is_named(store, other, path):
    write(store, path, put(store, FILES))
    frames = Frames.of(path)
    leaf = raw(FILES["model.safetensors"][MIB : 2 * MIB])
    del frames.blocks[leaf]
    frames.save(path)
    assert cids.format_cid(leaf) in refused(other, path).message


def test_a_few_bytes_cannot_ask_for_the_whole_disk(store, other, path, monkeypatch):
    asked: list[int] = []
    monkeypatch.setattr(other, "ensure_room", asked.append)
    planned = put(store, {"model": FILES["model.safetensors"]})
    write(store, path, planned)
    huge = Manifest.from_entries([FileEntry("model", 1 << 50, planned.blobs["model"].digest)])
    Frames.of(path).with_manifest(huge).save(path)
    assert "says it holds" in refused(other, path).message
    assert asked == []


def test_more_blocks_than_memory_is_meant_for_are_refused(store, other, path, monkeypatch):
    write(store, path, put(store, FILES))
    monkeypatch.setattr(blocks_module, "MAX_BLOCKS", 5)
    assert "more than 5 blocks" in refused(other, path).message


def test_more_files_than_memory_is_meant_for_are_refused(store, other, path, monkeypatch):
    write(store, path, put(store, FILES))
    monkeypatch.setattr(read_module, "MAX_FILES", len(FILES) - 1)
    assert "more than" in refused(other, path).message


def test_two_lists_are_refused(store, other, path):
    write(store, path, put(store, FILES))
    frames = Frames.of(path)
    cid, data = bundle.encode([])
    Frames([*frames.roots, cid], {**frames.blocks, cid: data}).save(path)
    refused(other, path)


def test_a_manifest_that_is_none_is_refused(store, other, path):
    write(store, path, put(store, FILES))
    frames = Frames.of(path)
    (ref,) = frames.refs()
    for body in (b"\xa0", b"", b"\x80" * 1000):
        cid = cids.dagcbor_cid(hashlib.sha256(body).digest())
        lie = frames.with_refs([bundle.BundledRef(cid, ref.folder, (), False)])
        lie.blocks[cid] = body
        lie.save(path)
        refused(other, path)


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a\\b"])
def test_a_path_that_leads_out_of_a_foreign_folder_names_no_file(other, path, name):
    blocks: dict[bytes, bytes] = {raw(b"x"): b"x"}
    leaf = Root(raw(b"x"), 1, 1)
    root = unixfs.directory({name: leaf}, blocks.__setitem__)
    Frames([root.cid], blocks).save(path)
    as_blocks_alone(other, path)


@pytest.mark.parametrize("kind", ["folder", "pipe", "nothing"])
def test_what_is_no_file_is_refused_and_not_waited_for(other, path, kind):
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    refused(other, path, NotFound if kind == "nothing" else UsageError)


def test_noise_and_an_empty_carv2_are_refused(other, path):
    for data in (b"", b"\0", b"noise" * 100, b"\x0a\xa1\x67version\x02" + bytes(100)):
        path.write_bytes(data)
        refused(other, path)


def test_a_section_over_the_limit_is_refused_without_reading_it(store, other, path):
    write(store, path, put(store, FILES))
    with path.open("ab") as file:
        file.write(varint.encode(3 * MIB) + raw(b"x"))
        file.truncate(file.tell() + 3 * MIB)
    assert "over the limit" in refused(other, path).message


@given(st.data())
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_only_our_errors_come_out_of_a_damaged_bundle_and_nothing_wrong_gets_in(
    tmp_path_factory, data
):
    folder = tmp_path_factory.getbasetemp() / "fuzz"
    small = {"a/b": b"b" * 300, "c": b"", "d": hashlib.shake_256(b"d").digest(MIB + 9)}
    path = folder / "bundle.car"
    if not folder.exists():
        folder.mkdir()
        with Store.open(folder / "here", OPTIONS) as store:
            write(store, folder / "good.car", put(store, small))
    body = bytearray((folder / "good.car").read_bytes())
    head = len(body) - MIB  # what is not one large leaf: the frames and the nodes
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, head))] = data.draw(st.integers(0, 255))
    path.write_bytes(body[: data.draw(st.integers(0, len(body)) | st.just(len(body)))])
    with Store.open(folder / "there", OPTIONS) as other:
        try:
            brought, _ = read(other, path)
        except Untrusted:
            brought = []
        for one in brought:
            if one.manifest is not None:
                assert set(content(other, one.manifest).values()) <= set(small.values())
        for blob in other.every_blob():
            assert blob.path.read_bytes() in small.values()


# -- CARs of others ------------------------------------------------------------------------------


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


def as_blocks_alone(store: Store, path: Path) -> None:
    """Import it: no file is known of it, and every block of it is here, and no more."""
    (brought,), new = read(store, path)
    assert (brought.manifest, brought.blob, store.ls(), store.every_blob()) == (None, None, [], [])
    blocks = Frames.of(path).blocks
    assert {cid: store.loose.read(cid) for cid in blocks} == blocks
    assert new == New(0, sum(map(len, blocks.values())))
    assert read(store, path)[1] == New(0, 0)


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


# -- export --------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_map", [False, True])
def test_a_damaged_blob_is_not_exported(store, path, has_map):
    planned = put(store, FILES)
    if has_map:  # as a pull leaves it
        data = FILES["model.safetensors"]
        hashes = [hashlib.sha256(data[at : at + MIB]).digest() for at in range(0, len(data), MIB)]
        sha256 = planned.blobs["model.safetensors"].sha256
        store.layout.map(sha256).write_bytes(b"".join(hashes))
    blob = planned.blobs["model.safetensors"].path
    blob.chmod(0o644)
    with blob.open("r+b") as file:
        file.seek(2 * MIB)
        file.write(b"damage")
    with pytest.raises(LocalFault, match="damaged") as caught:
        write(store, path, planned)
    assert "verify --repair" in caught.value.hint
    assert list(path.parent.glob("bundle*")) == []


def test_an_export_that_is_stopped_leaves_the_old_bundle(store, path):
    write(store, path, put(store, {"a": b"1"}))
    before = path.read_bytes()
    with pytest.raises(Stop):
        write_bundle(store, [put(store, FILES)], path, StopAfter(3))
    assert path.read_bytes() == before
    assert not path.with_name("bundle.car.part").exists()


def test_progress_counts_content_alone_and_never_goes_back(store, other, path):
    told = []
    write_bundle(store, [put(store, FILES)], path, told.append)
    exported = [one.done_bytes for one in told]
    told.clear()
    read_bundle(other, path, told.append, nothing)
    imported = [one.done_bytes for one in told]
    for counts in (exported, imported):
        assert counts == sorted(counts)
        assert 3 * MIB < counts[-1] <= sum(map(len, FILES.values()))


def test_what_a_crash_left_is_written_over(store, other, path):
    path.with_name("bundle.car.part").write_bytes(b"x" * 10 * MIB)
    write(store, path, put(store, FILES))
    read(other, path)


def test_two_exports_to_one_name_do_not_mix(store, path):
    class Second:
        def __call__(self, _: object) -> None:
            if path.with_name("bundle.car.part").exists():
                with pytest.raises(LocalFault, match="another export"):
                    write(store, path, put(store, {"b": b"2"}))
                raise Stop

    with pytest.raises(Stop):
        write_bundle(store, [put(store, FILES)], path, Second())


def test_an_export_does_not_write_through_a_link(store, path, tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    path.with_name("bundle.car.part").symlink_to(victim)
    with pytest.raises(LocalFault):
        write(store, path, put(store, FILES))
    assert victim.read_bytes() == b"mine"


def test_a_folder_is_no_name_for_a_bundle(store, tmp_path):
    with pytest.raises(UsageError, match="folder"):
        write(store, tmp_path, put(store, FILES))


def test_a_folder_that_has_to_be_sharded_is_written_and_read(store, other, path):
    planned = put(store, {"f": b""})
    (file,) = planned.manifest.files
    names = ["a/" + f"{n:05}" + "x" * 30 for n in range(5000)]
    many = Manifest.from_entries([FileEntry(name, 0, file.digest) for name in names])
    blobs = dict.fromkeys(names, planned.blobs["f"])
    written = write(store, path, type(planned)("ref", many, blobs, False, ()))
    assert written.blocks > 256  # shards
    ((brought,), _) = read(other, path)
    assert brought.manifest == many


def test_a_sharded_folder_of_a_foreign_car_is_read(other, path):
    blocks = {raw(b""): b""}
    names = {f"{n:05}" + "x" * 40: Root(raw(b""), 0, 0) for n in range(3000)}
    root = unixfs.directory(names, blocks.__setitem__)
    Frames([root.cid], blocks).save(path)
    ((brought,), _) = read(other, path)
    assert [entry.path for entry in brought.manifest.files] == sorted(names)


def test_more_than_one_bundle_holds_is_refused(store, path, monkeypatch):
    monkeypatch.setattr(write_module, "MAX_BLOCKS", 6)
    with pytest.raises(UsageError, match="too much"):
        write(store, path, put(store, FILES))
    assert not path.exists()


def test_small_files_are_published_in_batches(store, other, path, monkeypatch):
    monkeypatch.setattr(read_module, "SMALL_BATCH", 3)
    files = {f"f{n}": b"%d" % n for n in range(10)} | {"e": bytes(MIB + 1)}
    planned = put(store, files)
    write(store, path, planned)
    read(other, path)
    assert content(other, planned.manifest) == files


@pytest.mark.parametrize("name", ["bundle.car", "bundle.car.idx"])
def test_what_is_no_regular_file_is_never_replaced(store, path, name):
    there = path.with_name(name)
    os.mkfifo(there)
    with pytest.raises(UsageError, match="no regular file") as refused_:
        write(store, path, put(store, FILES))
    assert str(there) in refused_.value.message
    assert there.is_fifo()
    assert list(path.parent.glob("*.part")) == []


def test_a_folder_that_is_not_there_is_named(store, tmp_path):
    with pytest.raises(UsageError, match=f"the folder `{tmp_path}/no` does not exist"):
        write(store, tmp_path / "no" / "bundle.car", put(store, FILES))


def test_damage_names_the_bundle_the_place_and_the_file(store, other, path):
    write(store, path, put(store, FILES))
    data = path.read_bytes()
    at = data.index(FILES["model.safetensors"][:100])
    path.write_bytes(data[: at + 7] + b"?" + data[at + 8 :])
    with pytest.raises(Untrusted) as refused_:
        read(other, path)
    error = refused_.value
    assert error.message.startswith("`model.safetensors` of the bundle:")
    assert f"`{path}` is damaged at byte {at}:" in error.message
    assert "copy the file again" in error.hint


@pytest.mark.parametrize("junk", [b"", b"\xc8" * 3000])
def test_what_is_no_bundle_is_named_with_a_hint(other, path, junk):
    path.write_bytes(junk)
    with pytest.raises(Untrusted, match=f"`{path}` is no CAR: ") as refused_:
        read(other, path)
    assert "p2pcache export" in refused_.value.hint


def with_another_root(
    store: Store, path: Path, *, restricted: bool = False
) -> tuple[bytes, Manifest]:
    """A bundle whose files another folder has, too, which has a symlink beside them."""
    planned = put(store, {"file": b"x"}, restricted=restricted)
    link = node.encode([], fsdata.encode(FsData(Kind.SYMLINK, b"file")))
    nodes = {cid_of(cids.DAG_PB, link): link}
    entries = {"file": Root(raw(b"x"), 1, 1), "link": Root(next(iter(nodes)), 0, len(link))}
    root = unixfs.directory(entries, nodes.__setitem__)
    found = listed({**nodes, raw(b"x"): b"x"}.__getitem__, root.cid, None)
    write(store, path, replace(planned, roots=(found,)))
    return root.cid, planned.manifest


def test_another_root_of_the_same_files_comes_along_with_its_nodes(store, other, path):
    root, manifest = with_another_root(store, path)
    (brought,), _ = read(other, path)
    assert (brought.manifest, brought.also) == (manifest, (root,))
    assert other.ties.roots_of(manifest.cid()) == [root]
    assert LocalBlocks(other).read(root) is not None
    assert other.dag_pins.roots() == {}
    other.rm(manifest.cid())
    assert LocalBlocks(other).read(root) is None


def test_the_nodes_of_a_restricted_folder_are_not_kept_for_everybody(store, other, path):
    root, manifest = with_another_root(store, path, restricted=True)
    read(other, path)
    assert other.restricted_manifests() == {manifest.cid()}
    assert other.ties.roots_of(manifest.cid()) == []
    assert LocalBlocks(other).read(root) is None


def test_another_root_that_is_other_files_is_refused(store, other, path):
    with_another_root(store, path)
    frames = Frames.of(path)
    blocks = dict(frames.blocks)
    lie = unixfs.directory({"other name": Root(raw(b"x"), 1, 1)}, blocks.__setitem__)
    folder, _, record = frames.roots
    Frames([folder, lie.cid, record], blocks).save(path)
    assert "none of its folders" in refused(other, path).message
