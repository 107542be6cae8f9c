"""Which copies nobody else can give: what is asked of origins and members, and how long."""

from __future__ import annotations

import math
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from p2pcache.agent.last_copies import (
    AGAIN_S,
    ASK_S,
    LATELY_S,
    MAX_LOOK_UPS,
    MAX_REFS,
    LastCopies,
)
from p2pcache.content import refs
from p2pcache.content.digests import whole_digests
from p2pcache.content.last_copy import Copy
from p2pcache.content.manifest import FileEntry, Manifest
from p2pcache.content.preload import score
from p2pcache.content.verify import verify
from p2pcache.errors import Denied, NotFound, Unavailable
from p2pcache.sources.port import Listing
from p2pcache.store.policy import Hold
from p2pcache.store.records import Resolution
from p2pcache.store.store import Store
from p2pcache.transfer import resolve
from p2pcache.transfer.names import OTHERS

ME = b"\x00\x24\x08\x01\x12\x20" + bytes(32)
HUB = "https://hub.example"


class Origin:
    """Answers, or does not; counts what it is asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.trouble: Exception | None = None
        self.lost: set[str] = set()  # repositories
        self.takes_s = 0.0
        self.has = "e" * 40  # commit, or ETag

    def endpoint(self, ref, credentials):
        return credentials.hf_endpoint or HUB

    async def gives(self, ref, immutable, credentials):
        self.asked.append((ref, credentials.hf_token))
        await trio.sleep(self.takes_s)
        if self.trouble is not None:
            raise self.trouble
        if isinstance(ref, refs.HfRef) and ref.repo_id in self.lost:
            raise NotFound("no public repository", hidden=True)
        return immutable in (None, self.has)


class Net:
    """Members that said what they have; the DHT that knows of one more."""

    def __init__(self) -> None:
        self.here: dict[bytes, set[bytes]] = {}
        self.in_dht: dict[bytes, bytes] = {}
        self.looked_up: list[bytes] = []

    def possessors(self, manifest):
        return self.here.get(manifest, set()), set()

    @asynccontextmanager
    async def swarm(self, manifest, names, *, quiet):
        assert manifest is None, "nobody is told that we want it"
        yield SimpleNamespace(met=set(), meet=lambda peer: None)

    async def look_up(self, manifest, swarm):
        self.looked_up.append(manifest)
        peer = self.in_dht.get(manifest)
        if peer is None:
            await trio.sleep_forever()  # what is slow is bounded
        swarm.met.add(peer)
        self.here[manifest] = {peer}


class Slot:
    """The place of a network that opened long ago, or just now, or of none."""

    def __init__(self) -> None:
        self.current: Any = None
        self.opened_at = -1000.0

    @property
    def open_for_s(self) -> float:
        return trio.current_time() - self.opened_at

    async def wait_open(self, timeout_s: float) -> Any:
        await trio.lowlevel.checkpoint()
        return self.current


class World:
    def __init__(self, store: Store) -> None:
        self.store, self.origin, self.net, self.now = store, Origin(), Net(), 1e6
        self.slot: Any = Slot()
        self.spared: set[bytes] = set()
        resolver: Any = SimpleNamespace(source_for=lambda ref: self.origin)
        self.last = LastCopies(store, self.slot, resolver, lambda: self.now, lambda: self.spared)

    def join(self) -> None:
        self.slot.current = SimpleNamespace(peer_id=ME, network=self.net, look_up=self.net.look_up)

    def put(self, data: bytes, ref: str | None, source: str = "hf", **more: Any):
        """A blob, its manifest, and what is recorded of it a long time ago."""
        digest = b"\x12\x20" + whole_digests(data).sha256
        blob = self.store.put_bytes(verify(digest, data))
        manifest = self.store.put_manifest(
            Manifest.from_entries([FileEntry("f", len(data), digest)])
        )
        if ref is not None:
            immutable, at = more.pop("immutable", None), more.pop("at", 1000.0)
            row = Resolution(ref, manifest, immutable, source, HUB, at, **more)
            self.store.record_resolution(row)
        return blob.sha256, manifest

    async def keep(self, *sha256s: bytes) -> dict[bytes, Hold]:
        return await trio.to_thread.run_sync(self.last.keep, sha256s)


@pytest.fixture
def world(tmp_path):
    with Store.open(tmp_path / "store") as store:
        yield World(store)


def ranked(manifest: bytes, *, higher: bool) -> bytes:
    """A peer that ranks higher than us for this content, or lower."""
    peers = (b"\x00\x24\x08\x01\x12\x20" + bytes([n]) * 32 for n in range(1, 256))
    return next(p for p in peers if (score(manifest, p) > score(manifest, ME)) == higher)


async def test_what_was_pushed_here_has_no_origin_and_stays(world):
    blob, _ = world.put(b"mine", "file:/home/me/model.bin", "file")
    assert await world.keep(blob) == {blob: Hold.LAST_COPY}
    assert not world.origin.asked, "a path of this machine is nobody's origin"


async def test_what_a_server_still_gives_may_go_and_of_each_ref_it_is_asked_once(world):
    one, _ = world.put(b"one", "hf://org/one@main")
    two, _ = world.put(b"two", "hf://org/two@main")
    assert await world.keep(one, two) == {}
    assert await world.keep(one) == {}
    assert len(world.origin.asked) == 2
    assert world.origin.asked[0][1] is None, "nobody's token is shown for that"


async def test_a_server_that_answered_lately_is_not_asked(world):
    blob, _ = world.put(b"one", "hf://org/one@main", at=world.now - LATELY_S + 1)
    assert await world.keep(blob) == {}
    assert not world.origin.asked


@pytest.mark.parametrize("trouble", [Unavailable("down"), math.inf])
async def test_what_a_server_that_cannot_be_reached_gave_stays(world, trouble, autojump_clock):
    if trouble is math.inf:
        world.origin.takes_s = math.inf
    else:
        world.origin.trouble = trouble
    blob, _ = world.put(b"one", "hf://org/one@main")
    began = trio.current_time()
    assert await world.keep(blob) == {blob: Hold.LAST_COPY}
    assert trio.current_time() - began <= ASK_S


@pytest.mark.parametrize(
    ("trouble", "gated", "stays"),
    [
        (Denied("log in"), True, False),
        (NotFound("no such repository", hidden=True), True, False),
        (NotFound("no such repository"), False, True),
        (NotFound("no public repository", hidden=True), False, True),
    ],
)
async def test_what_its_own_server_lost_stays_and_what_it_hides_is_there(
    world, trouble, gated, stays
):
    world.origin.trouble = trouble
    blob, _ = world.put(b"one", "hf://org/one@main", gated=gated, credential_used=gated)
    assert (blob in await world.keep(blob)) == stays


async def test_what_its_origin_lost_stays_at_every_later_question_until_it_is_there_again(world):
    world.origin.trouble = NotFound("no such revision")
    blob, manifest = world.put(b"one", "hf://org/one@main")
    for _ in range(2):
        assert await world.keep(blob) == {blob: Hold.LAST_COPY}
    rows = world.store.resolutions_of(manifest)
    assert world.last.known(manifest, rows, {}) is Copy.LAST, "`ls` says so too"
    world.now += 1
    again = Resolution("hf://org/one@main", manifest, None, "hf", HUB, world.now)
    world.store.record_resolution(again)
    assert await world.keep(blob) == {}


async def test_of_one_server_what_it_lost_stays_and_what_it_has_may_go(world):
    blobs = [world.put(b"%d" % n, f"hf://org/r{n}@main")[0] for n in range(3)]
    world.origin.lost = {"org/r1"}
    assert await world.keep(*blobs) == {blobs[1]: Hold.LAST_COPY}


async def test_one_server_is_asked_few_questions_and_one_if_it_does_not_answer(world):
    blobs = [world.put(b"%d" % n, f"hf://org/r{n}@main")[0] for n in range(MAX_REFS + 9)]
    world.origin.trouble = Unavailable("down")
    assert len(await world.keep(*blobs)) == len(blobs)
    assert len(world.origin.asked) == 1
    world.now += AGAIN_S
    world.origin.trouble = None
    assert await world.keep(*blobs) == {}
    assert len(world.origin.asked) == 1 + MAX_REFS


async def test_a_dead_server_leaves_members_their_time(world, autojump_clock):
    world.join()
    world.origin.takes_s = math.inf
    blob, manifest = world.put(b"one", "hf://org/one@main")
    world.net.in_dht[manifest] = ranked(manifest, higher=True)
    assert await world.keep(blob) == {}


async def test_who_is_cancelled_learns_nothing_of_a_server(world, autojump_clock):
    blob, manifest = world.put(b"one", "hf://org/one@main")
    world.origin.takes_s = 1.0
    with trio.move_on_after(0.5):
        await world.last._ask({manifest}, {manifest: world.store.resolutions_of(manifest)}, {})
    assert await world.keep(blob) == {}, "it is asked again at once"


@pytest.mark.parametrize(
    ("ref", "source"),
    [
        ("hf://org/one@main", "hf"),
        ("https://hub.example/latest.bin", "http"),
        ("s3://bucket/latest.bin", "s3"),
    ],
)
async def test_what_its_origin_calls_so_no_more_stays(world, ref, source):
    """A branch that was squashed; a web address or a key that gives another file."""
    blob, _ = world.put(b"one", ref, source, immutable="d" * 40)
    assert await world.keep(blob) == {blob: Hold.LAST_COPY}
    world.origin.has = "d" * 40
    world.now += LATELY_S
    assert await world.keep(blob) == {}


async def test_what_a_branch_meant_before_may_go_while_its_hub_has_that_commit(world):
    old, _ = world.put(b"v1", "hf://org/two@main", immutable="e" * 40)
    new, _ = world.put(b"v2", "hf://org/two@main", immutable="f" * 40, at=world.now)
    assert await world.keep(old) == {}
    (asked,) = world.origin.asked
    assert refs.canonical(asked[0]) == f"hf://org/two@{'e' * 40}"
    assert await world.keep(new) == {}, "it was resolved just now"


async def test_no_address_is_called_that_others_alone_told(world):
    blob, _ = world.put(b"one", "https://inner.example/x", OTHERS)
    world.put(b"one", "s3://bucket/x", OTHERS)
    assert await world.keep(blob) == {blob: Hold.LAST_COPY}
    assert not world.origin.asked


@pytest.mark.parametrize("asked", [HUB, "https://mirror.example", ""])
async def test_a_hubs_name_that_others_told_counts_only_if_our_hub_was_asked(world, asked):
    listing = Listing(OTHERS, "a peer", "c" * 40, True, (), asked=asked)
    packed = resolve._pack(listing)
    blob, _ = world.put(b"one", "hf://org/one@main", OTHERS, extras=packed)
    assert await world.keep(blob) == ({} if asked == HUB else {blob: Hold.LAST_COPY})
    assert len(world.origin.asked) == (asked == HUB)


@pytest.mark.parametrize("higher", [True, False])
async def test_a_member_that_has_it_and_ranks_higher_lets_ours_go(world, higher, autojump_clock):
    world.join()
    blob, manifest = world.put(b"mine", None)
    world.net.here[manifest] = {ranked(manifest, higher=higher)}
    assert await world.keep(blob) == ({} if higher else {blob: Hold.LAST_OF_ALL})


async def test_the_dht_is_asked_where_no_member_told(world):
    world.join()
    blob, manifest = world.put(b"mine", None)
    world.net.in_dht[manifest] = ranked(manifest, higher=True)
    assert await world.keep(blob) == {}
    assert world.net.looked_up == [manifest]


async def test_questions_are_few_and_bounded_in_time(world, autojump_clock):
    world.join()
    blobs = [world.put(b"%d" % n, None)[0] for n in range(2 * MAX_LOOK_UPS)]
    began = trio.current_time()
    assert len(await world.keep(*blobs)) == len(blobs), "what is not known stays"
    assert trio.current_time() - began <= ASK_S
    assert len(world.net.looked_up) == MAX_LOOK_UPS


async def test_a_blob_that_an_origin_gives_by_another_name_may_go(world):
    blob, _ = world.put(b"same", "file:/home/me/x", "file")
    manifest = Manifest.from_entries(
        [FileEntry("y", 4, b"\x12\x20" + blob), FileEntry("z", 4, b"\x12\x20" + blob)]
    )
    row = Resolution(
        "hf://org/y@main", world.store.put_manifest(manifest), None, "hf", HUB, world.now
    )
    world.store.record_resolution(row)
    assert await world.keep(blob) == {}


async def test_what_no_manifest_names_is_not_kept_for_others(world):
    digest = b"\x12\x20" + whole_digests(b"bare").sha256
    blob = world.store.put_bytes(verify(digest, b"bare"))
    assert await world.keep(blob.sha256) == {}


async def test_the_list_believes_in_an_origin_until_it_was_asked_in_vain(world):
    blob, manifest = world.put(b"one", "hf://org/one@main")
    rows = world.store.resolutions_of(manifest)
    assert world.last.known(manifest, rows, {}) is Copy.SPARE
    world.origin.trouble = Unavailable("down")
    await world.keep(blob)
    assert world.last.known(manifest, rows, {}) is Copy.LAST


async def test_what_preloads_keep_elsewhere_often_enough_may_go(world):
    blob, manifest = world.put(b"mine", None)
    assert await world.keep(blob) == {blob: Hold.LAST_COPY}
    world.spared.add(manifest)
    assert await world.keep(blob) == {}


async def test_a_network_that_has_just_opened_is_given_time_to_meet_its_members(
    world, autojump_clock
):
    """As that of an agent which lives for one command."""
    world.join()
    world.slot.opened_at = trio.current_time()
    _, manifest = world.put(b"mine", None)

    async def come():
        await trio.sleep(2)
        world.net.here[manifest] = {ranked(manifest, higher=True)}

    async with trio.open_nursery() as nursery:
        nursery.start_soon(come)
        copies = await world.last._ask({manifest}, {}, {})
    assert copies == {manifest: Copy.SPARE}
    assert not world.net.looked_up


@pytest.mark.parametrize("where", ["origin", "ref"])
async def test_if_it_cannot_be_found_out_all_stay(world, where, caplog):
    blob, _ = world.put(b"one", "hf://org/one@main" if where == "origin" else "hf://")
    world.origin.trouble = ValueError("a bug")
    assert await world.keep(blob) == {blob: Hold.LAST_COPY}
    assert "nothing is evicted" in caplog.text


async def test_without_time_nobody_is_asked_and_what_is_not_known_stays(world):
    world.join()
    blob, _ = world.put(b"one", "hf://org/one@main")
    known, _ = world.put(b"two", "hf://org/two@main", at=world.now)
    other, _ = world.put(b"three", None)
    await world.keep(known)

    def keep():
        return world.last.keep([blob, known, other], 0.0)

    world.last._answers.clear()
    assert set(await trio.to_thread.run_sync(keep)) == {other}, "its server answers"
    assert not world.origin.asked
