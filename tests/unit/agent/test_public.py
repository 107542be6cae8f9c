"""Whom the public network is asked for, what it is given, and the operations on it."""

from __future__ import annotations

import hashlib

import pytest
import trio

from p2pcache.agent.kubos import KuboBlocks
from p2pcache.agent.public import AgentPublic, _Nothing, _Published
from p2pcache.config.ipfs import IpfsSettings, Public
from p2pcache.content import cid as cids
from p2pcache.content.cid import format_cid, parse_cid
from p2pcache.content.manifest import FileEntry, Manifest
from p2pcache.content.unixfs import Root, tree
from p2pcache.content.verify import verify
from p2pcache.errors import Denied, NotFound, UsageError
from p2pcache.store.store import Store
from p2pcache.transfer.blocks import LocalBlocks
from p2pcache.transfer.publishing import Publisher
from tests.support.gated import OPEN, REF, SECRET, World
from tests.support.hub_repo import build_repo, small_model
from tests.support.hub_stub import hub_stub
from tests.support.inside import agent_inside
from tests.support.ipfs_gateway import keep
from tests.support.stored import MIB, content, root_of, store_whole


def raw(data: bytes) -> bytes:
    return cids.raw_cid(hashlib.sha256(data).digest())


@pytest.fixture(autouse=True)
async def _bounded():
    with trio.fail_after(60):
        yield


@pytest.fixture
def world(tmp_path):
    with Store.open(tmp_path / "store") as store:
        yield World(store)


class Strangers:
    """A `PublicNode` that notes what it is asked for and told, and has nothing."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self.provided: set[bytes] = set()
        self.stirred = 0
        self.addresses: list[str] = []
        self.peers = 0

    def status(self) -> dict:
        table = {"servers": self.peers}
        return {
            "peers": self.peers, "addresses": self.addresses, "dht": table, "lan_dht": table,
        }  # fmt: skip

    async def get(self, cid: bytes, *, timeout_s: float) -> bytes:
        self.asked.append(cid)
        raise NotFound("nobody has it")

    def provide(self, names) -> None:
        self.provided |= set(names)

    def withdraw(self, names) -> None:
        self.provided -= set(names)

    def arrived(self) -> None:
        self.stirred += 1


def among(strangers: Strangers, world: World, tmp_path, mode: Public) -> AgentPublic:
    local = LocalBlocks(world.store)
    public = AgentPublic(tmp_path, IpfsSettings(public=mode), local, Publisher(local, local))
    public._node = strangers
    return public


async def test_strangers_are_not_asked_for_what_is_restricted_here_or_not(world, tmp_path):
    strangers = Strangers()
    public = among(strangers, world, tmp_path, Public.FETCH)
    absent = b"a file of a gated repository that is not here"
    digest = b"\x12\x20" + hashlib.sha256(absent).digest()
    manifest = Manifest.from_entries([FileEntry("f", len(absent), digest)])
    world.store.put_manifest(manifest)
    world.resolve("hf://org/gated@other", manifest.cid(), gated=True)
    large = content(3 * MIB, 5)
    store_whole(world.store, large)
    world.put(large, "hf://org/gated@large", gated=True)
    inside = (root_of(large), raw(large[:MIB]))  # which no list names
    for cid in (raw(SECRET), world.gated, raw(absent), raw(large), *inside):
        assert await public.fetch(cid) is None
    assert strangers.asked == []
    assert await public.fetch(raw(b"anything else")) is None
    assert strangers.asked == [raw(b"anything else")]


async def test_without_a_node_nobody_is_asked(world, tmp_path):
    public = among(Strangers(), world, tmp_path, Public.FETCH)
    public._node = None
    assert await public.fetch(raw(b"x")) is None
    assert public.status() == {"mode": "fetch", "why": None, "published": 0}
    assert not public.check()[1]


async def test_doctor_says_what_is_missing(world, tmp_path):
    strangers = Strangers()
    public = among(strangers, world, tmp_path, Public.SHARE)
    assert "ipfs.public_announce" in public.check()[3]
    strangers.addresses = ["/ip4/192.0.2.7/tcp/4802"]
    assert public.check()[:3] == (
        "public ipfs", False, "0 peers; 0 servers of its DHT, 0 of the local one",
    )  # fmt: skip
    assert "ipfs.public_bootstrap" in public.check()[3]
    strangers.peers = 1
    assert public.check()[1]


@pytest.mark.parametrize("mode", [Public.FETCH, Public.SHARE])
async def test_only_who_shares_announces(world, tmp_path, mode):
    strangers = Strangers()
    public = among(strangers, world, tmp_path, mode)
    public.published([raw(OPEN)])
    shares = mode is Public.SHARE
    assert strangers.provided == ({cids.multihash(raw(OPEN))} if shares else set())
    assert strangers.stirred == int(shares)
    public.unpublished(raw(OPEN))
    assert strangers.provided == set()


async def test_who_only_fetches_gives_nothing():
    nothing = _Nothing()
    assert await nothing.length(raw(OPEN)) is None
    with pytest.raises(NotFound):
        await nothing.get(raw(OPEN), local=True)


async def test_strangers_together_get_no_more_than_the_limit(world):
    local = LocalBlocks(world.store)
    publisher = Publisher(local, local)
    publisher.publish(raw(OPEN))
    slow = _Published(publisher, bytes_per_s=10.0 * len(OPEN))
    started = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(18):  # ten of them in the first second, which may come at once
            nursery.start_soon(slow.get, raw(OPEN))
    assert trio.current_time() - started > 0.7


class Recorder:
    """A fetcher, as strangers are one."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []

    async def fetch(self, cid: bytes) -> bytes | None:
        self.asked.append(cid)
        return None

    def lied(self, cid: bytes) -> None:
        raise AssertionError


async def test_a_pull_from_a_hub_asks_no_stranger_for_anything(inside, tmp_path):
    """They are reached through the fetchers of blocks alone."""
    strangers = Recorder()
    inside.parts.ipfs.fetchers.append(strangers)
    with hub_stub(build_repo(tmp_path / "repo", small_model(30_000))) as hub:
        await inside("get", ref="hf://demo/model", credentials={"hf_endpoint": hub.url})
    assert strangers.asked == []
    with pytest.raises(NotFound):
        await inside.parts.ipfs.blocks.get(raw(b"nowhere"))
    assert strangers.asked == [raw(b"nowhere")]


async def test_strangers_are_asked_last(tmp_path):
    settings = {"ipfs_public": "fetch", "ipfs_bitswap": "on", "ipfs_kubo": "http://127.0.0.1:9"}
    async with agent_inside(tmp_path / "home", **settings) as inside:
        ipfs = inside.parts.ipfs
        assert ipfs.fetchers[1:] == [ipfs.bitswap, ipfs.public]
        assert isinstance(ipfs.fetchers[0], KuboBlocks)


# -- the operations


@pytest.fixture
async def inside(tmp_path):
    async with agent_inside(tmp_path / "home") as inside:
        yield inside


async def test_publish_takes_every_name_of_what_is_here(inside, tmp_path):
    data = content(2 * MIB + 1, 1)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_bytes(data)
    (tmp_path / "in" / "b").write_bytes(b"b")
    folder = await inside("push", path=str(tmp_path / "in"))
    file = await inside("push", path=str(tmp_path / "in" / "a"))
    digest = hashlib.sha256(data).hexdigest()
    roots = {
        str(tmp_path / "in"): folder["root"],
        folder["root"]: folder["root"],
        folder["manifest"]: folder["root"],
        str(tmp_path / "in" / "a"): file["root"],
        file["root"]: format_cid(root_of(data)),
        f"sha256:{digest}": file["root"],
        format_cid(raw(data)): file["root"],  # no block is so large
        format_cid(raw(b"b")): format_cid(raw(b"b")),
    }
    for ref, root in roots.items():
        answer = await inside("publish", ref=ref)
        assert (answer["root"], bool(answer["notes"])) == (root, True), ref
    await inside("published")
    assert {item["root"] for item in inside.items} == set(roots.values())
    listed = {item["root"]: item["refs"] for item in inside.items}
    assert any("in" in ref for ref in listed[folder["root"]])
    for root in {*roots.values()}:
        assert (await inside("unpublish", ref=root))["root"] == root
    with pytest.raises(NotFound, match="not published"):
        await inside("unpublish", ref=folder["root"])


async def test_what_cannot_be_published_says_why(inside, tmp_path):
    world = World(inside.parts.store)
    for ref in (REF, format_cid(world.gated), format_cid(raw(SECRET))):
        with pytest.raises(Denied, match="gated or private"):
            await inside("publish", ref=ref)
    with pytest.raises(NotFound):
        await inside("publish", ref="hf://org/never-heard")
    with pytest.raises(NotFound):
        await inside("publish", ref=format_cid(raw(b"nowhere")))
    with pytest.raises(UsageError, match="below a CID"):
        await inside("publish", ref=f"{format_cid(raw(OPEN))}/x")
    await inside("published")
    assert inside.items == []


async def test_a_gated_folder_of_open_files_is_refused_by_all_its_names(inside):
    world = World(inside.parts.store)
    digest = b"\x12\x20" + hashlib.sha256(OPEN).digest()
    manifest = Manifest.from_entries([FileEntry("secret name", len(OPEN), digest)])
    world.store.put_manifest(manifest)
    world.resolve("hf://org/names@main", manifest.cid(), gated=True)
    nodes: dict[bytes, bytes] = {}
    entry = Root(raw(OPEN), len(OPEN), len(OPEN))
    root = tree({"secret name": entry}, keep=lambda cid, block: nodes.update({cid: block})).cid
    keep(world.store, root, nodes[root])  # as somebody pinned it once
    assert inside.parts.resolver.folders.manifest_of(root) == manifest.cid()
    for ref in ("hf://org/names", format_cid(manifest.cid()), format_cid(root)):
        with pytest.raises(Denied, match="gated or private"):
            await inside("publish", ref=ref)


async def test_a_published_ref_that_is_removed_stays_public(inside, tmp_path):
    (tmp_path / "a").write_bytes(content(2 * MIB, 2))
    pushed = await inside("push", path=str(tmp_path / "a"))
    await inside("publish", ref=pushed["root"])
    await inside("rm", ref=str(tmp_path / "a"), force=True)
    root = parse_cid(pushed["root"])
    assert inside.parts.ipfs.publisher.read(root) is not None
    assert (await inside("unpublish", ref=pushed["root"]))["root"] == pushed["root"]


async def test_a_folder_that_becomes_gated_is_given_no_longer_and_can_be_taken_back(inside):
    store, publisher = inside.parts.store, inside.parts.ipfs.publisher
    entries = []
    for name, data in {"its name": content(2 * MIB + 1, 5), "README": OPEN}.items():
        digest = b"\x12\x20" + hashlib.sha256(data).digest()
        if len(data) > MIB:
            store_whole(store, data)
        else:
            store.put_bytes(verify(digest, data))
        entries.append(FileEntry(name, len(data), digest))
    manifest = Manifest.from_entries(entries)
    store.put_manifest(manifest)
    world = World(store)
    world.resolve("hf://org/later@main", manifest.cid(), gated=False)
    answer = await inside("publish", ref="hf://org/later")
    root = parse_cid(answer["root"])
    assert b"its name" in (publisher.read(root) or b"")
    world.resolve("hf://org/later@main", manifest.cid(), gated=True)
    assert publisher.read(root) is None
    assert publisher.length(root) is None
    assert publisher.roots() == [root]
    assert publisher.given() == []
    assert (await inside("unpublish", ref="hf://org/later"))["root"] == answer["root"]
    assert publisher.roots() == []


async def test_what_a_ref_meant_before_is_not_said_to_be_private(inside, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_bytes(b"a")
    before = await inside("push", path=str(tmp_path / "in"))
    await inside("publish", ref=str(tmp_path / "in"))
    (tmp_path / "in" / "b").write_bytes(b"b")
    await inside("push", path=str(tmp_path / "in"))
    with pytest.raises(NotFound) as told:
        await inside("unpublish", ref=str(tmp_path / "in"))
    assert "publish --list" in (told.value.hint or "")
    assert (await inside("unpublish", ref=before["root"]))["root"] == before["root"]


async def test_who_leaves_while_the_limit_holds_it_up_uses_nothing_of_it(autojump_clock):
    class Half:
        """Of half a second at the limit."""

        reads = 0

        def read(self, _cid: bytes) -> bytes:
            self.reads += 1
            return bytes(512)

    publisher = Half()
    served = _Published(publisher, 1024)
    for _ in range(4):
        await served.get(b"")
    for _ in range(20):
        with trio.move_on_after(0.01):
            await served.get(b"")
    before = trio.current_time()
    await served.get(b"")
    assert trio.current_time() - before < 2.0
    assert publisher.reads <= 6
