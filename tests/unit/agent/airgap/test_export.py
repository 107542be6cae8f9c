"""What an export writes, over what, and what it does not."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from p2pcache.agent.airgap import read as read_module
from p2pcache.agent.airgap import write as write_module
from p2pcache.agent.airgap.read import read_bundle
from p2pcache.agent.airgap.write import write_bundle
from p2pcache.content import cid as cids
from p2pcache.content import unixfs
from p2pcache.content.dag import fsdata, node
from p2pcache.content.dag.fsdata import FsData, Kind
from p2pcache.content.dag.hashes import cid_of
from p2pcache.content.dag.listing import listed
from p2pcache.content.manifest import FileEntry, Manifest
from p2pcache.content.unixfs import Root
from p2pcache.errors import LocalFault, Untrusted, UsageError
from p2pcache.transfer.blocks import LocalBlocks
from tests.support.bundles import (
    FILES,
    MIB,
    Frames,
    Stop,
    StopAfter,
    content,
    nothing,
    put,
    raw,
    read,
    refused,
    write,
)

if TYPE_CHECKING:
    from pathlib import Path

    from p2pcache.store.store import Store


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
