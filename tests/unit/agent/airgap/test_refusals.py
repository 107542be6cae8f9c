"""Bundles from store to store: nothing that is not right arrives."""

from __future__ import annotations

import hashlib
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from p2pcache.agent.airgap import blocks as blocks_module
from p2pcache.agent.airgap import read as read_module
from p2pcache.content import bundle, unixfs, varint
from p2pcache.content import cid as cids
from p2pcache.content.digests import sha256_digest
from p2pcache.content.manifest import FileEntry, Manifest
from p2pcache.content.unixfs import Root
from p2pcache.errors import NotFound, Untrusted, UsageError
from p2pcache.store.store import Store
from tests.support.bundles import (
    FILES,
    MIB,
    OPTIONS,
    Frames,
    as_blocks_alone,
    content,
    put,
    raw,
    read,
    refused,
    write,
)


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
