"""A folder of another tool, with what no manifest implies: it goes as it came, as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from p2pcache.content import cid as cids
from p2pcache.content import unixfs
from p2pcache.content.dag import fsdata, node
from p2pcache.content.dag.fsdata import FsData, Kind
from p2pcache.content.dag.hashes import cid_of
from p2pcache.content.unixfs import Root, file_dag_size, file_root
from p2pcache.errors import NotFound, UsageError
from tests.support.bundles import Frames, raw
from tests.support.inside import agent_inside
from tests.support.stored import MIB, block_hashes, content

if TYPE_CHECKING:
    from pathlib import Path

LARGE = content(MIB + 7, 1)


@pytest.fixture
async def inside(tmp_path):
    with trio.fail_after(60):
        async with agent_inside(tmp_path / "home") as inside:
            yield inside


def with_a_symlink(path: Path) -> bytes:
    """A CAR of a folder with files of one block and of two, and a symlink; gives its root."""
    parts = (b"small", LARGE[:MIB], LARGE[MIB:])
    blocks = {raw(part): part for part in parts}
    large = file_root(block_hashes(LARGE), len(LARGE), blocks.__setitem__)
    link = node.encode([], fsdata.encode(FsData(Kind.SYMLINK, b"small")))
    blocks[cid_of(cids.DAG_PB, link)] = link
    entries = {
        "small": Root(raw(b"small"), 5, 5),
        "large": Root(large.cid, len(LARGE), file_dag_size(len(LARGE))),
        "link": Root(cid_of(cids.DAG_PB, link), 0, len(link)),
    }
    root = unixfs.directory(entries, blocks.__setitem__)
    Frames([root.cid], blocks).save(path)
    return root.cid


async def test_a_folder_with_a_symlink_is_removed_by_its_root_to_the_last_byte(inside, tmp_path):
    store = inside.parts.store
    root = with_a_symlink(tmp_path / "theirs.car")
    (row,) = (await inside("import", path=str(tmp_path / "theirs.car")))["refs"]
    name = cids.format_cid(root)
    assert (row["root"], row["files"], row["pinned"]) == (name, 2, True)
    for ref in (row["manifest"], name):
        with pytest.raises(UsageError, match="pinned"):
            await inside("rm", ref=ref)
    assert "1 symlinks are left out" in " ".join((await inside("get", ref=name))["notes"])
    await inside("unpin", ref=name)
    freed = (await inside("rm", ref=name, force=True))["freed_bytes"]
    assert freed > len(LARGE) + len(b"small")
    await inside("ls")
    usage = store.usage()
    assert (inside.items, usage.blobs, usage.loose_blocks) == ([], 0, 0)
    assert store.dag_pins.roots() == {}
    with pytest.raises(NotFound):
        await inside("get", ref=name)


async def test_a_folder_with_a_symlink_is_removed_by_its_manifest(inside, tmp_path):
    with_a_symlink(tmp_path / "theirs.car")
    (row,) = (await inside("import", path=str(tmp_path / "theirs.car")))["refs"]
    await inside("unpin", ref=row["manifest"])
    await inside("rm", ref=row["manifest"], force=True)
    await inside("ls")
    usage = inside.parts.store.usage()
    assert (inside.items, usage.blobs, usage.loose_blocks) == ([], 0, 0)
