"""An agent's preloads at work, with a store and no network behind them: what waits for what."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
import trio
import trio.testing

from p2pcache.agent.args import Args
from p2pcache.agent.preload import operations as preload
from p2pcache.agent.preload.handover import SETTLE_S, WAIT_S
from p2pcache.agent.preload.job import Job
from p2pcache.agent.preload.preloads import CHECK_S, Preloads
from p2pcache.agent.preload.reports import LEAVING, SILENT_S
from p2pcache.agent.preload.saver import AGAIN_S, Saver
from p2pcache.config.preload import PreloadSettings
from p2pcache.content import refs
from p2pcache.content.digests import sha256_digest, whole_digests
from p2pcache.content.manifest import FileEntry, Manifest
from p2pcache.content.preload import score, sign_intent
from p2pcache.content.verify import verify
from p2pcache.errors import Interrupted, LocalFault, UsageError
from p2pcache.net.sync.preloads import Stage, State, Watch
from p2pcache.store.store import Store
from tests.support.gated import Key

ME, OTHER = Key(), Key()
CID = b"\x01\x71\x12\x20" + bytes(32)


def wish(signer=ME, replicas=0, manifest=CID):
    return sign_intent(
        signer, ref="hf://org/name", revision=None, manifest=manifest, nodes="all",
        replicas=replicas, rate_bytes_per_s=None, issued_at=1, start_at=1, deadline_at=9000,
        expires_at=9000, nonce=bytes(16),
    )  # fmt: skip


class Net:
    """Nobody is here; keeps what is told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def tell_preload(self, message, *, to=None, but=None):
        self.told.append(message)

    def members(self):
        return []

    def hearsay(self):
        return {OTHER.peer_id}


class Slot:
    """The place of a network that is open."""

    def __init__(self) -> None:
        self.current = None

    def open(self, may=None):
        self.current = SimpleNamespace(
            network=Net(), peer_id=ME.peer_id, admin=None, access=SimpleNamespace(may=may)
        )
        return self.current

    async def wait_open(self, _timeout_s):
        return self.current


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "home") as opened:
        yield opened


@pytest.fixture
def slot():
    made = Slot()
    made.open()
    return made


@pytest.fixture
def preloads(store, slot):
    return Preloads(store, slot, PreloadSettings(), lambda: 100.0)


def watch(preloads, slot, intent):
    async def emit(_value):
        await trio.lowlevel.checkpoint()

    parts = SimpleNamespace(network=slot, preloads=preloads, now=lambda: 100.0)
    return preload.preload_show(parts, Args({"id": intent.id.hex(), "watch": True}), emit)


async def test_who_watches_is_told_when_the_agent_stops(preloads, slot, autojump_clock):
    intent = wish()
    preloads.book.issue(intent)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(call_later, 5.0, preloads.stop)
        with trio.fail_after(20), pytest.raises(Interrupted, match="stopping"):
            await watch(preloads, slot, intent)
    with trio.fail_after(1), pytest.raises(Interrupted):
        await watch(preloads, slot, intent)


async def test_who_watches_asks_a_network_that_opened_anew(preloads, slot, autojump_clock):
    intent = wish()
    preloads.book.issue(intent)
    first = slot.current
    with trio.move_on_after(8):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call_later, 4.0, slot.open)
            await watch(preloads, slot, intent)
    assert first.network.told == [Watch((intent.id,))]
    assert slot.current.network.told == [Watch((intent.id,))]


async def test_watching_ends_though_one_that_evicted_its_copy_is_still_selected(
    preloads, slot, autojump_clock
):
    intent = wish()
    preloads.book.issue(intent)
    evicted = State(intent.id, Stage.IDLE, 0, 0, 0, 0.0, "", "")
    preloads._jobs[intent.id] = Job(preloads.book.find(intent.id), evicted)
    began = trio.current_time()
    with trio.fail_after(60):
        answer = await watch(preloads, slot, intent)
    assert trio.current_time() - began < SILENT_S + 2
    assert (answer["totals"]["agents"], answer["totals"]["complete"]) == (1, 0)


async def test_the_viewer_counts_those_without_a_link_too(preloads, slot):
    preloads.book.issue(wish())
    (row,) = preloads.book.intents()
    assert preloads.view(slot.current, row, 0.0).hearsay == {OTHER.peer_id}


async def call_later(seconds, what):
    await trio.sleep(seconds)
    what()


async def test_the_disk_is_not_waited_for_in_the_trio_thread_and_tried_again(
    preloads, store, monkeypatch, autojump_clock
):
    home, put = threading.get_ident(), store.preloads.put
    tried = []

    def failing(rows):
        assert threading.get_ident() != home
        tried.append(len(rows))
        if len(tried) == 1:
            raise LocalFault("the disk is full")
        put(rows)

    monkeypatch.setattr(store.preloads, "put", failing)
    saver = Saver(preloads.book)
    preloads.book.hear(OTHER.peer_id, [wish(OTHER).record], lambda _: True)
    await saver.tick()
    await saver.tick()
    assert tried == [1], "not twice a second"
    await trio.sleep(AGAIN_S)
    await saver.tick()
    await saver.tick()
    assert tried == [1, 1]
    assert [row.intent for row in store.preloads.all()] == [wish(OTHER)]


async def test_what_cannot_be_read_at_the_start_is_read_later(
    store, preloads, monkeypatch, autojump_clock
):
    preloads.book.issue(wish())
    await Saver(preloads.book).tick()
    later = Preloads(store, preloads._slot, PreloadSettings(), lambda: 100.0)
    saver, read = Saver(later.book), store.preloads.all

    def failing():
        raise LocalFault("an I/O error")

    monkeypatch.setattr(store.preloads, "all", failing)
    later.book.hear(OTHER.peer_id, [wish(OTHER).record], lambda _: True)
    await saver.tick()
    monkeypatch.setattr(store.preloads, "all", read)
    assert len(later.book.intents()) == len(store.preloads.all()) == 1, "nothing is written yet"
    await trio.sleep(AGAIN_S)
    await saver.tick()
    assert len(later.book.intents()) == len(store.preloads.all()) == 2


async def test_copies_that_are_to_stay_are_set_again_when_the_store_failed(
    preloads, store, monkeypatch
):
    keep, tried = store.keep_replicas, []

    def failing(manifests):
        tried.append(manifests)
        if len(tried) == 1:
            raise LocalFault("an I/O error")
        keep(manifests)

    monkeypatch.setattr(store, "keep_replicas", failing)
    preloads.book.issue(wish(replicas=2))
    with pytest.raises(LocalFault):
        await preloads._keep_replicas(None)
    await preloads._keep_replicas(None)
    await preloads._keep_replicas(None)
    assert tried == [{CID}, {CID}], "again, and not for ever"
    assert store.replica_manifests == {CID}


async def test_who_may_read_is_decided_in_a_thread(preloads, store, slot, monkeypatch):
    home, asked = threading.get_ident(), []

    def may(peer, cid):
        assert threading.get_ident() != home
        asked.append((peer, cid))
        return True

    opened = slot.open(may)
    opened.is_banned = lambda _: False
    digest = b"\x12\x20" + bytes(32)
    made = Manifest((FileEntry("a", 7, digest),))
    intent = wish(OTHER, manifest=made.cid())
    store.restrict(made)
    preloads.book.hear(OTHER.peer_id, [intent.record], lambda _: True)
    monkeypatch.setattr(preloads, "_look_at", lambda *_: None)  # there is nobody to pull from
    async with trio.open_nursery() as nursery:
        await preloads._look_at_all(None, opened, nursery)
    (job,) = preloads._jobs.values()
    assert (job.hidden, job.signer_reads) == (True, True)
    assert asked == [(OTHER.peer_id, intent.manifest)]
    view = preloads.view(opened, job.row, 0.0)
    assert view.totals(view.lines())["size_bytes"] == 7, "of the manifest, before any byte came"


@pytest.mark.parametrize(
    "url",
    [
        "https://s3/model?X-Amz-Algorithm=x&X-Amz-Signature=abc",
        "https://azure/model?sv=1&sig=abc",
        "https://host/model?download=1&access_token=abc",
        "https://host/model?api-key=",
    ],
)
def test_an_address_with_a_secret_is_told_to_nobody(url):
    ref = refs.parse_ref(url)
    with pytest.raises(UsageError, match="secret") as caught:
        preload._is_told(ref, is_admin=True)
    assert "word" not in caught.value.message.replace("password", "")
    assert "abc" not in caught.value.message
    assert not preload._is_told(ref, is_admin=False), "others never hear a member's address"


def test_a_plain_address_of_the_admin_is_told():
    ref = refs.parse_ref("https://host/model?download=true&design=1")
    assert preload._is_told(ref, is_admin=True)
    assert not preload._is_told(ref, is_admin=False)
    assert preload._is_told(refs.parse_ref("hf://org/name"), is_admin=False)
    assert not preload._is_told(refs.parse_ref("/home/me/model"), is_admin=True)


def test_a_bucket_is_told_like_a_web_address():
    """Who is told asks it with its own login, which costs: the admin's word is needed for that."""
    ref = refs.parse_ref("s3://models/llama/")
    assert preload._is_told(ref, is_admin=True)
    assert not preload._is_told(ref, is_admin=False)


# -- copies that are in the way -------------------------------------------------------------------


class Handing:
    """An agent with one copy that a preload keeps, and a member that has it, or may have it."""

    def __init__(self, preloads, store, slot) -> None:
        self.preloads, self.store = preloads, store
        self.opened = slot.open(may=lambda *_: True)
        self.opened.is_banned = lambda _: False
        data = b"a copy"
        self.blob = store.put_bytes(verify(sha256_digest(whole_digests(data).sha256), data))
        body = Manifest((FileEntry("a", len(data), self.blob.digest),))
        store.put_manifest(body)
        self.intent = wish(replicas=1, manifest=body.cid())
        preloads.book.issue(self.intent)
        peers = (Key().peer_id for _ in iter(int, 1))
        mine = score(self.intent.id, ME.peer_id)  # whose copy lets ours not go by itself
        self.other = next(peer for peer in peers if score(self.intent.id, peer) < mine)
        self.opened.network.members = lambda: [SimpleNamespace(peer=self.other, version=(1, 2))]

    async def look(self) -> None:
        """As the agent's task does."""
        async with trio.open_nursery() as nursery:
            while True:
                await self.preloads._look_at_all(None, self.opened, nursery)
                await trio.sleep(0.2)

    def hear(self, stage, code="") -> None:
        told = State(self.intent.id, stage, 0, 0, 0, 0.0, code, "")
        self.preloads.reports.hear(self.other, told, trio.current_time())

    async def hand_over(self):
        await self.preloads._hand_over({self.intent.manifest})

    @property
    def says(self):
        state = self.preloads._jobs[self.intent.id].state
        return state.stage, state.code


@pytest.fixture
def handing(preloads, store, slot, monkeypatch):
    async def at_once(work, *args):  # virtual time would run on while a thread works
        await trio.lowlevel.checkpoint()
        return work(*args)

    monkeypatch.setattr(trio.to_thread, "run_sync", at_once)
    return Handing(preloads, store, slot)


async def test_who_wants_to_evict_says_so_and_waits_for_words_that_count(
    handing, store, autojump_clock
):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(handing.look)
        await trio.sleep(1)
        handing.hear(Stage.IDLE)
        assert handing.says == (Stage.COMPLETE, "")
        assert handing.intent.manifest in store.replica_manifests

        async def other():
            await trio.sleep(2)
            assert handing.says == (Stage.IDLE, LEAVING)
            handing.hear(Stage.COMPLETE)  # too early: it may rely on ours
            await trio.sleep(SETTLE_S + 2)
            assert handing.intent.manifest in store.replica_manifests
            assert Watch((handing.intent.id,)) in handing.opened.network.told
            handing.hear(Stage.COMPLETE)

        nursery.start_soon(other)
        began = trio.current_time()
        await handing.hand_over()
        assert handing.intent.manifest not in store.replica_manifests
        assert handing.preloads.spared == {handing.intent.manifest}
        assert SETTLE_S < trio.current_time() - began < WAIT_S
        nursery.cancel_scope.cancel()


async def test_who_hears_nothing_in_time_keeps_it(handing, store, autojump_clock):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(handing.look)
        await trio.sleep(1)
        handing.hear(Stage.IDLE)
        began = trio.current_time()
        await handing.hand_over()
        assert trio.current_time() - began <= WAIT_S + 1
        assert handing.intent.manifest in store.replica_manifests
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("stage", [None, Stage.REFUSED, Stage.FAILED])
async def test_nobody_is_waited_for_where_nobody_could(handing, stage, autojump_clock):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(handing.look)
        await trio.sleep(1)
        if stage is not None:
            handing.hear(stage)
        began = trio.current_time()
        await handing.hand_over()
        assert trio.current_time() - began < 1
        assert handing.says == (Stage.COMPLETE, ""), "nor told"
        nursery.cancel_scope.cancel()


async def test_who_is_asked_to_take_over_fetches_at_once_and_once_for_each(handing, autojump_clock):
    preloads, (row,) = handing.preloads, handing.preloads.book.intents()
    job = Job(row, State(row.id, Stage.IDLE, 0, 0, 0, 0.0, "", ""), at=trio.current_time() + 300)
    preloads._see_members(handing.opened)
    assert not preloads._is_time(job)
    handing.hear(Stage.IDLE, LEAVING)
    assert preloads._is_time(job)
    job.answered = preloads.reports.leaving(row.id, preloads.attendance.here)
    assert not preloads._is_time(job), "one whose room is too small would fetch it for ever"
    job.answered = frozenset()
    job.failed(LocalFault("no"), trio.current_time())
    assert not preloads._is_time(job)


async def test_after_the_last_preload_its_copies_may_go_and_nobody_waits(
    handing, store, autojump_clock
):
    preloads, rows = handing.preloads, handing.preloads.book.intents
    async with trio.open_nursery() as nursery:
        await preloads._look_at_all(None, handing.opened, nursery)
        assert store.replica_manifests == {handing.intent.manifest}
        preloads._now = lambda: 10000.0
        preloads.book._now = preloads._now
        preloads.book.drop(lambda _: False)
        began = trio.current_time()
        await handing.hand_over()
        assert trio.current_time() == began
        await trio.sleep(CHECK_S)
        await preloads._look_at_all(None, handing.opened, nursery)
        assert not rows()
        assert not store.replica_manifests
        assert not preloads.spared


async def test_without_a_network_everything_stays_that_others_were_to_keep(
    handing, store, slot, monkeypatch, autojump_clock
):
    preloads, opened, closing = handing.preloads, trio.Event(), trio.Event()

    async def idle(*_):
        await trio.sleep_forever()

    async def wait_any():
        if opened.is_set():
            await trio.sleep_forever()
        opened.set()
        return handing.opened

    async def wait_closed(_):
        await closing.wait()

    monkeypatch.setattr(preloads, "_work", idle)
    monkeypatch.setattr(preloads, "_follow_members", idle)
    slot.wait_any, slot.wait_closed = wait_any, wait_closed
    async with trio.open_nursery() as nursery:
        nursery.start_soon(preloads.run, None)
        await opened.wait()
        store.keep_replicas([])  # members had said that they have it
        preloads._holdings._kept = (set(), set())
        preloads._holdings.spared = frozenset({handing.intent.manifest})
        closing.set()
        await trio.testing.wait_all_tasks_blocked()
        assert store.replica_manifests == {handing.intent.manifest}
        assert not preloads.spared
        nursery.cancel_scope.cancel()
