"""Bundles from store to store: what arrives is what left, and can be stopped and brought again."""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING

import pytest

from p2pcache.agent.airgap.read import New, read_bundle
from p2pcache.agent.airgap.write import index_path
from p2pcache.content import car, unixfs
from p2pcache.content import cid as cids
from p2pcache.content.unixfs_read import parse_node
from tests.support.bundles import (
    FILES,
    MIB,
    Frames,
    Stop,
    StopAfter,
    content,
    drafts,
    nothing,
    put,
    read,
    write,
)

if TYPE_CHECKING:
    from p2pcache.transfer.progress import Progress


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
