"""Every name that `get`, `push` and `ls` print works in `ls`, `pin`, `unpin`, `verify` and `rm`."""

from __future__ import annotations

import hashlib

import base58
import multiformats_cid
import pytest

from p2pcache.agent.ipfs_rpc import rpc_context
from p2pcache.content import cid as cids
from p2pcache.content.cid import format_cid
from p2pcache.content.refs import parse_ref
from p2pcache.content.verify import verify_loose
from p2pcache.errors import NotFound, UsageError
from p2pcache.sources.port import ListedFile, Listing
from tests.support.inside import agent_inside
from tests.support.stored import MIB, content, name_of, root_of, rooted, store_whole

DATA = content(MIB + 5, 1)
SHA256 = name_of(DATA)[2:]
ROOT = root_of(DATA)
SMALL = b"a small file"
NODE = bytes.fromhex("0a020801")  # an empty folder's block, of no manifest


def spellings(cid: bytes) -> list[str]:
    """Of one CIDv1: multibases, version 0 where there is one, URL and path."""
    parsed = multiformats_cid.from_bytes(cid)
    made = [parsed.encode(base).decode() for base in ("base32", "base58btc", "base36", "base16")]
    if cids.codec(cid) == cids.DAG_PB:
        made.append(base58.b58encode(cid[2:]).decode())
    return [*made, f"ipfs://{made[1]}", f"ipfs:{made[0].upper()}", f"/ipfs/{made[-1]}"]


def names(data: bytes) -> list[str]:
    sha256 = name_of(data)[2:]
    roots = spellings(cids.raw_cid(sha256)) + (spellings(root_of(data)) if len(data) > MIB else [])
    return [sha256.hex(), sha256.hex().upper(), f"sha256:{sha256.hex()}", *roots]


@pytest.fixture
async def inside(tmp_path):
    async with agent_inside(tmp_path / "home") as inside:
        yield inside


@pytest.mark.parametrize("data", [DATA, SMALL], ids=["two blocks", "one block"])
async def test_a_blob_of_no_manifest_goes_by_all_its_names(inside, data):
    for name in names(data):
        store_whole(inside.parts.store, data)
        await inside("ls")
        (row,) = inside.items
        assert (row["manifest"], row["pinned"], row["total_bytes"]) == (None, False, len(data))
        assert row["sha256"] == name_of(data)[2:].hex()
        assert row["root"] == format_cid(root_of(data))
        await inside("pin", ref=name)
        await inside("ls")
        assert [item["pinned"] for item in inside.items] == [True]
        assert (await inside("gc", target_bytes=0))["evicted"] == 0
        answer = await inside("verify", ref=name)
        assert (answer["checked"], answer["incomplete"]) == (1, [])
        assert (await inside("resolve", ref=name))["file_count"] == 1
        with pytest.raises(UsageError, match="pinned"):
            await inside("rm", ref=name)
        await inside("unpin", ref=row["ref"])
        with pytest.raises(NotFound, match="not pinned"):
            await inside("unpin", ref=name)
        assert (await inside("rm", ref=name))["freed_bytes"] == len(data)
        with pytest.raises(NotFound, match="not here"):
            await inside("rm", ref=name)


async def test_a_blob_without_a_sha256_is_named_where_it_must_be(inside):
    store = inside.parts.store
    async with inside.parts.pulls.priority.foreground():  # nobody names it by itself
        rooted(store, DATA)
        await inside("ls")
        (row,) = inside.items
        assert (row["ref"], row["sha256"], row["root"]) == (
            f"ipfs://{format_cid(ROOT)}", None, format_cid(ROOT),
        )  # fmt: skip
        assert (await inside("rm", ref=row["ref"]))["freed_bytes"] == len(DATA)
        rooted(store, DATA)
        assert (await inside("verify", ref=row["ref"]))["checked"] == 1
        assert store.find(name_of(DATA)) is not None
        await inside("rm", ref=row["ref"])
        rooted(store, DATA)
        assert (await inside("pin", ref=row["ref"]))["sha256"] == SHA256.hex()
        await inside("unpin", ref=SHA256.hex())


async def test_what_push_prints_names_what_was_pushed(inside, tmp_path):
    (tmp_path / "a.bin").write_bytes(DATA)
    for name in names(DATA):
        pushed = await inside("push", path=str(tmp_path / "a.bin"))
        assert (pushed["sha256"], pushed["root"]) == (SHA256.hex(), format_cid(ROOT))
        await inside("pin", ref=str(tmp_path / "a.bin"))
        await inside("unpin", ref=name)
        assert (await inside("verify", ref=name))["checked"] == 1
        assert (await inside("rm", ref=name, force=True))["freed_bytes"] == len(DATA)
        await inside("ls")
        assert inside.items == []


async def test_a_blob_is_exported_by_all_its_names(inside, tmp_path):
    store_whole(inside.parts.store, DATA)
    for number, name in enumerate(names(DATA)):
        answer = await inside("export", refs=[name], path=str(tmp_path / f"{number}.car"))
        assert answer["total_bytes"] == len(DATA)


async def test_an_error_has_the_spelling_that_was_typed(inside):
    typed = base58.b58encode(ROOT[2:]).decode()
    for op in ("get", "resolve", "pin", "rm", "verify"):
        for ref in (typed, f"ipfs://{typed}/a%20b", f"/ipfs/{typed}/a b"):
            with pytest.raises((NotFound, UsageError), match=typed):
                await inside(op, ref=ref)


async def test_a_path_in_a_dag_is_not_said_to_be_missing(inside):
    for op in ("pin", "unpin", "rm"):
        with pytest.raises(UsageError, match="a path in a DAG") as told:
            await inside(op, ref=f"{format_cid(ROOT)}/a")
        assert "by its own CID" in (told.value.hint or "")


async def test_a_file_of_several_is_not_removed_under_them(inside, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a").write_bytes(DATA)
    (folder / "b").write_bytes(SMALL)
    await inside("push", path=str(folder))
    with pytest.raises(UsageError, match=f"is a file of `file:{folder}`") as caught:
        await inside("rm", ref=SHA256.hex(), force=True)
    assert f"p2pcache rm file:{folder}" in (caught.value.hint or "")
    await inside("pin", ref=SHA256.hex())
    await inside("rm", ref=str(folder), force=True)
    await inside("ls")
    assert [(item["sha256"], item["pinned"]) for item in inside.items] == [(SHA256.hex(), True)]


async def test_resolve_maps_the_two_names_of_a_blob_to_each_other(inside):
    store_whole(inside.parts.store, DATA)
    for here in (True, False):
        for name in names(DATA):
            answer = await inside("resolve", ref=name)
            (file,) = inside.items
            assert (file["sha256"], file["root"]) == (SHA256.hex(), format_cid(ROOT))
            assert (file["present"], answer["total_bytes"]) == (here, len(DATA))
            assert any("proven here" in note for note in answer["notes"]) != here
        await inside("gc", target_bytes=0)
    with pytest.raises(NotFound):
        await inside("get", ref=SHA256.hex())


async def test_resolve_shows_the_roots_of_files_that_left(inside):
    store_whole(inside.parts.store, DATA)
    files = (
        ListedFile("a", len(DATA), name_of(DATA), "k"), ListedFile("b", 5, name_of(b"x"), "k"),
    )  # fmt: skip
    listing = Listing("hf", "https://hub.invalid", "a" * 40, False, files)
    inside.parts.resolver.record(parse_ref("hf://org/name"), listing)
    for here in (True, False):
        await inside("resolve", ref="hf://org/name", offline=True)
        assert [(f["root"], f["present"]) for f in inside.items] == [
            (format_cid(ROOT), here), (None, False),
        ]  # fmt: skip
        if here:
            inside.parts.store.remove_blob(inside.parts.store.find(ROOT))


# -- one world of pins ---------------------------------------------------------------------------


async def told(inside) -> dict[bytes, bool]:
    """What `pin/ls` of the RPC has."""
    return await rpc_context(inside.parts).pins.pins()


async def test_what_pin_keeps_shows_in_the_rpc_which_takes_it_back(inside, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a").write_bytes(DATA)
    (folder / "b").write_bytes(SMALL)
    root = cids.parse_cid((await inside("push", path=str(folder)))["root"])
    (tmp_path / "one").write_bytes(content(10, 3))
    one = cids.parse_cid((await inside("push", path=str(tmp_path / "one")))["root"])
    pins = rpc_context(inside.parts).pins
    for ref, cid in (
        (str(folder), root), (format_cid(root), root), (str(tmp_path / "one"), one),
        (SHA256.hex(), ROOT), (format_cid(one), one),
    ):  # fmt: skip
        await inside("pin", ref=ref)
        assert await pins.pins() == {cid: True}
        assert await pins.unpin(cid)
        assert await pins.pins() == {}
        with pytest.raises(NotFound, match="not pinned"):
            await inside("unpin", ref=ref)


async def test_what_the_rpc_pins_shows_in_ls_and_unpin_takes_it_back(inside, tmp_path):
    store, pins = inside.parts.store, rpc_context(inside.parts).pins
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a").write_bytes(DATA)
    (folder / "b").write_bytes(SMALL)
    root = cids.parse_cid((await inside("push", path=str(folder)))["root"])
    foreign = cids.dagpb_cid(hashlib.sha256(NODE).digest())
    store.loose.put(verify_loose(foreign, NODE))
    for cid, refs in (
        (root, [format_cid(root), str(folder)]), (ROOT, [SHA256.hex()]),
        (foreign, spellings(foreign)),
    ):  # fmt: skip
        for ref in refs:
            await pins.pin(cid)
            await inside("ls")
            pinned = [item for item in inside.items if item["pinned"]]
            assert len(pinned) == 1
            assert pinned[0]["ref"] in (f"ipfs://{format_cid(cid)}", f"file:{folder}")
            assert (await inside("verify", ref=ref))["incomplete"] == []
            await inside("unpin", ref=ref)
            assert await pins.pins() == {}
            await inside("ls")
            assert not any(item["pinned"] for item in inside.items)


async def test_a_dag_of_no_manifest_is_pinned_verified_and_removed_by_its_root(inside):
    store = inside.parts.store
    foreign = cids.dagpb_cid(hashlib.sha256(NODE).digest())
    text = format_cid(foreign)
    with pytest.raises(NotFound):
        await inside("pin", ref=text)
    store.loose.put(verify_loose(foreign, NODE))
    assert (await inside("pin", ref=text))["root"] == text
    assert await told(inside) == {foreign: True}
    store.layout.loose_block(cids.multihash(foreign)).chmod(0o644)
    store.layout.loose_block(cids.multihash(foreign)).write_bytes(b"rot")
    assert (await inside("verify", ref=text))["incomplete"] == [text]
    store.loose.put(verify_loose(foreign, NODE))
    with pytest.raises(UsageError, match="pinned"):
        await inside("rm", ref=text)
    assert (await inside("rm", ref=text, force=True))["freed_bytes"] == len(NODE)
    with pytest.raises(NotFound):
        await inside("rm", ref=text)


async def test_a_part_of_a_pinned_dag_stays_and_rm_says_so(inside):
    store = inside.parts.store
    store_whole(store, DATA)
    store.dag_pins.add(cids.raw_cid(bytes(32)), True, [], [SHA256])
    answer = await inside("rm", ref=SHA256.hex())
    assert answer["freed_bytes"] == 0
    assert any("pinned DAG" in note for note in answer["notes"])
    assert store.find(ROOT) is not None


async def test_pins_of_what_is_restricted_are_not_told_to_every_program(inside):
    store_whole(inside.parts.store, DATA)
    listing = Listing(
        "hf", "https://hub.invalid", "a" * 40, False,
        (ListedFile("a", len(DATA), name_of(DATA), "k"),), gated=True,
    )  # fmt: skip
    inside.parts.resolver.record(parse_ref("hf://org/name"), listing)
    for ref in ("hf://org/name", SHA256.hex()):
        await inside("pin", ref=ref)
        assert await told(inside) == {}
        assert not await rpc_context(inside.parts).pins.unpin(ROOT)
        await inside("unpin", ref=ref)
