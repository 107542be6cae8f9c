"""The operations on what is here, as a client sees them."""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Any

import pytest

from p2pcache.content.cid import parse_cid
from p2pcache.content.digests import sha256_digest
from p2pcache.content.refs import parse_ref
from p2pcache.errors import NotFound, UsageError
from p2pcache.sources.port import ListedFile, Listing
from tests.support.inside import Inside, agent_inside
from tests.support.stored import MIB, content

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
async def inside(tmp_path):
    async with agent_inside(tmp_path / "home") as inside:
        yield inside


async def test_gc_down_to_nothing(inside, tmp_path):
    listing = Listing("hf", "https://huggingface.co", "a" * 40, True, (
        ListedFile("a", 1000, sha256_digest(hashlib.sha256(b"a" * 1000).digest()), "key"),
    ))  # fmt: skip
    inside.parts.resolver.record(parse_ref("hf://org/name"), listing)
    (tmp_path / "a").write_bytes(b"a" * 1000)
    await inside("push", path=str(tmp_path / "a"))
    assert (await inside("gc", target_bytes=0))["freed_bytes"] == 1000


async def test_what_nobody_else_has_stays_and_gc_ls_and_rm_say_why(inside, tmp_path):
    (tmp_path / "a").write_bytes(b"a" * 1000)
    pushed = await inside("push", path=str(tmp_path / "a"))
    why = "the last known copy: no origin that answers has it"
    for dry_run in (True, False):
        answer = await inside("gc", target_bytes=0, dry_run=dry_run)
        assert (answer["evicted"], answer["kept"]) == (0, {why: 1000})
    await inside("ls")
    assert [item["kept"] for item in inside.items] == [why]
    with pytest.raises(UsageError, match="last known copy") as caught:
        await inside("rm", ref=pushed["manifest"])
    assert "--force" in (caught.value.hint or "")
    assert (await inside("rm", ref=pushed["manifest"], force=True))["freed_bytes"] == 1000


async def test_ls_says_what_a_pin_and_a_preload_keep(inside, tmp_path):
    (tmp_path / "a").write_bytes(b"a" * 1000)
    pushed = await inside("push", path=str(tmp_path / "a"))
    inside.parts.store.keep_replicas([parse_cid(pushed["manifest"])])
    await inside("ls")
    assert [item["kept"] for item in inside.items] == ["one of the copies that a preload keeps"]
    await inside("pin", ref=pushed["manifest"])
    await inside("ls")
    assert [item["kept"] for item in inside.items] == ["pinned"]


@pytest.mark.parametrize("value", [-1, math.nan, math.inf, True, "1"])
async def test_a_target_that_is_no_size_is_wrong_usage(inside, value):
    with pytest.raises(UsageError, match="target_bytes"):
        await inside("gc", target_bytes=value)


@pytest.mark.parametrize("value", [0, math.nan, math.inf])
async def test_a_rate_that_is_none_is_wrong_usage(inside, value, tmp_path):
    with pytest.raises(UsageError, match="limit_rate"):
        await inside("get", ref=str(tmp_path), limit_rate=value)


async def test_a_commit_that_ls_shows_can_be_pinned_and_removed(inside):
    commit, other = "a" * 40, "b" * 40
    listing = Listing("hf", "https://huggingface.co", commit, True, (
        ListedFile("a", 1, sha256_digest(bytes(32)), "key"),
    ))  # fmt: skip
    inside.parts.resolver.record(parse_ref("hf://org/name"), listing)
    pinned = await inside("pin", ref=f"hf://org/name@{commit}")
    assert [p.target for p in inside.parts.store.pins()] == [parse_cid(pinned["manifest"])]
    for wrong in (f"hf://org/name@{other}", f"hf://org/else@{commit}", f"org/name@{commit}/a"):
        with pytest.raises(NotFound):
            await inside("pin", ref=wrong)
    await inside("unpin", ref=f"hf://org/name@{commit}")
    await inside("rm", ref=f"hf://org/name@{commit}")
    assert inside.parts.store.resolutions() == []


async def test_rm_of_one_of_two_names_says_that_the_pin_stays(inside, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "same").write_bytes(b"a" * 1000)
        await inside("push", path=str(tmp_path / name))
    await inside("pin", ref=str(tmp_path / "a"))
    answer = await inside("rm", ref=str(tmp_path / "a"))
    assert f"it stays pinned: `p2pcache unpin file:{tmp_path}/b`" in answer["notes"]
    await inside("unpin", ref=f"file:{tmp_path}/b")


async def pushed_folder(inside: Inside, tmp_path: Path) -> tuple[str, dict[str, Any]]:
    """Of a file of several blocks, and one of one."""
    place = tmp_path / "in"
    place.mkdir()
    (place / "a").write_bytes(content(2 * MIB, 1))
    (place / "b").write_bytes(b"b")
    return str(place), await inside("push", path=str(place))


@pytest.mark.parametrize("name", ["path", "hf", "root", "manifest"])
async def test_what_a_pin_of_its_root_keeps_is_removed_by_no_name(inside, tmp_path, name):
    path, pushed = await pushed_folder(inside, tmp_path)
    store = inside.parts.store
    if name == "hf":
        manifest = store.get_manifest(parse_cid(pushed["manifest"]))
        files = tuple(ListedFile(f.path, f.size, f.digest, f.path) for f in manifest.files)
        listing = Listing("hf", "https://huggingface.co", "a" * 40, True, files)
        store.forget_ref(f"file:{path}")
        inside.parts.resolver.record(parse_ref("hf://org/name"), listing)
    ref = {"path": path, "hf": "hf://org/name", **pushed}[name]
    await inside.parts.ipfs.pins.pin(parse_cid(pushed["root"]))
    with pytest.raises(UsageError, match="pinned"):
        await inside("rm", ref=ref)
    assert store.is_complete(parse_cid(pushed["manifest"]))
    await inside("unpin", ref=ref)
    assert store.dag_pins.roots() == {}
    assert (await inside("rm", ref=ref, force=True))["freed_bytes"] > 2 * MIB


@pytest.mark.parametrize("name", ["path", "root", "manifest"])
async def test_what_is_published_is_removed_by_force_alone_and_taken_back(inside, tmp_path, name):
    path, pushed = await pushed_folder(inside, tmp_path)
    ref = {"path": path, **pushed}[name]
    await inside("publish", ref=pushed["root"])
    with pytest.raises(UsageError, match="published") as refused:
        await inside("rm", ref=ref)
    assert "unpublish" in (refused.value.hint or "")
    publisher, root = inside.parts.ipfs.publisher, parse_cid(pushed["root"])
    assert publisher.read(root) is not None
    assert (await inside("rm", ref=ref, force=True))["freed_bytes"] > 2 * MIB
    assert publisher.roots() == []
    assert publisher.read(root) is None
    await inside("ls")
    assert inside.items == []
