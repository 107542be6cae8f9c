"""A CID opens nothing: what is made of gated files stays hidden, whatever it is called."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trio

from p2pcache.agent.access import open_to_all
from p2pcache.content import cid as cids
from p2pcache.content.cid import format_cid
from p2pcache.content.manifest import FileEntry, Manifest
from p2pcache.content.unixfs import Root, file_dag_size, tree
from p2pcache.errors import LocalFault
from p2pcache.store.records import Resolution
from tests.support.inside import agent_inside
from tests.support.stored import MIB, content, name_of, root_of, store_whole

if TYPE_CHECKING:
    from collections.abc import Mapping

    from p2pcache.store.store import Store
    from p2pcache.transfer.resolve import Resolver

SECRET = content(3 * MIB, 1)
FILES = {"top": b"top secret", "sub/a": SECRET, "sub/b": content(2 * MIB + 1, 2)}
LEAF = SECRET[:MIB]


@pytest.fixture
async def inside(tmp_path):
    with trio.fail_after(60):
        async with agent_inside(tmp_path / "home") as inside:
            yield inside


def resolved(store: Store, files: Mapping[str, bytes], *, gated: bool) -> bytes:
    for data in files.values():
        store_whole(store, data)
    entries = [FileEntry(path, len(data), name_of(data)) for path, data in files.items()]
    manifest = store.put_manifest(Manifest.from_entries(entries))
    ref = "hf://org/gated@main" if gated else "hf://org/open@main"
    hub = "https://hub.example"
    store.record_resolution(Resolution(ref, manifest, None, "hf", hub, 1.0, gated, extras=b""))
    return manifest


def root(files: Mapping[str, bytes]) -> str:
    roots = {p: Root(root_of(d), len(d), file_dag_size(len(d))) for p, d in files.items()}
    return format_cid(tree(roots).cid)


SUB = {path[4:]: data for path, data in FILES.items() if path != "top"}
LEAF_CID = cids.raw_cid(hashlib.sha256(LEAF).digest())
REFS = {
    "folder": f"ipfs://{root(SUB)}",
    "path": f"ipfs://{root(FILES)}/sub",
    "file": f"ipfs://{format_cid(root_of(SECRET))}",
    "leaf": f"ipfs://{format_cid(LEAF_CID)}",
}


@pytest.mark.parametrize("ref", REFS.values(), ids=REFS)
async def test_a_cid_below_a_gated_repository_opens_nothing(inside, ref):
    store = inside.parts.store
    resolved(store, FILES, gated=True)
    for op in ("resolve", "get"):
        await inside(op, ref=ref)
        shows = open_to_all(store, inside.parts.now)
        for data in (*FILES.values(), LEAF):
            blob = store.find(name_of(data))
            assert blob is None or not shows(blob)
            assert inside.parts.ipfs.open_blocks.local.length(root_of(data)) is None


async def test_a_leaf_of_a_gated_file_is_restricted_when_it_is_a_blob(inside):
    store = inside.parts.store
    resolved(store, FILES, gated=True)
    answer = await inside("get", ref=REFS["leaf"])
    assert store.find(name_of(LEAF)) is not None
    assert cids.parse_cid(answer["manifest"]) in store.restricted_manifests()
    assert store.resolution(REFS["leaf"]).gated
    await inside("get", ref=REFS["leaf"], offline=True)


class Full:
    """A resolver that can record nothing any more."""

    def __init__(self, inner: Resolver) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def named_by_arrival(self, *_) -> None:
        raise LocalFault("the disk is full")


async def test_a_leaf_of_a_gated_file_is_restricted_before_it_is_a_blob(inside):
    store = inside.parts.store
    resolved(store, FILES, gated=True)
    inside.parts = replace(inside.parts, resolver=Full(inside.parts.resolver))
    with pytest.raises(LocalFault, match="full"):
        await inside("get", ref=REFS["leaf"])
    assert not open_to_all(store, inside.parts.now)(store.find(name_of(LEAF)))


async def test_what_is_open_stays_so_by_its_cids(inside):
    store = inside.parts.store
    resolved(store, {"else": content(2 * MIB, 9)}, gated=True)
    resolved(store, FILES, gated=False)
    for ref in REFS.values():
        await inside("get", ref=ref)
    shows = open_to_all(store, inside.parts.now)
    for data in (*FILES.values(), LEAF):
        assert shows(store.find(name_of(data)))
