"""Blobs that a pull brought by their root get their sha2-256 when no pull runs."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import trio

from p2pcache.agent.naming import Damaged, Naming
from p2pcache.agent.priority import Priority
from p2pcache.content.cid import format_cid
from p2pcache.errors import LocalFault, NotFound
from p2pcache.lanes.orders import Fault, FaultKind, FollowReport
from p2pcache.store.layout import StoreOptions
from p2pcache.store.store import Store
from p2pcache.transfer.workers import WorkerOptions, open_workers
from tests.support.inside import agent_inside
from tests.support.stored import MIB, content, fill, name, name_of, root_of, rooted, verified

OPTIONS = StoreOptions(reserve_bytes=0)
DATA = content(3 * MIB + 5, 1)
ROOT = root_of(DATA)
REF = f"ipfs://{format_cid(ROOT)}"
DEADLINE_S = 20.0


async def wait_named(store: Store, data: bytes = DATA) -> None:
    with trio.fail_after(DEADLINE_S):
        while store.find(root_of(data)) is None:  # noqa: ASYNC110 - a store tells nobody
            await trio.sleep(0.02)


@pytest.fixture
async def inside(tmp_path):
    async with agent_inside(tmp_path / "home") as inside:
        yield inside


@pytest.fixture
async def held(inside):
    """The same agent with a blob that stays without a sha2-256: somebody waits for a pull."""
    async with inside.parts.pulls.priority.foreground():
        rooted(inside.parts.store, DATA)
        yield inside


async def test_what_an_earlier_agent_left_is_hashed_by_the_next(tmp_path):
    other = content(2 * MIB, 2)
    async with agent_inside(tmp_path / "home") as inside:
        path = inside.parts.store.layout.root
    with Store.open(path, OPTIONS) as store:
        for data in (DATA, other):
            rooted(store, data)
    async with agent_inside(tmp_path / "home") as inside:
        for data in (DATA, other):
            await wait_named(inside.parts.store, data)
            assert inside.parts.store.find(name_of(data)).path.read_bytes() == data


@pytest.fixture
async def quiet(tmp_path):
    """A store, workers and a naming that nobody runs."""
    with Store.open(tmp_path / "store", OPTIONS) as store:
        async with open_workers(WorkerOptions()) as workers:
            counting, priority = Counting(workers), Priority()
            yield store, counting, priority, Naming(store, counting, priority)


async def test_it_waits_while_somebody_waits_for_a_pull(quiet):
    store, workers, priority, naming = quiet
    async with trio.open_nursery() as nursery:
        async with priority.foreground():
            nursery.start_soon(naming.run)
            rooted(store, DATA)
            naming.wake()
            await trio.sleep(0.3)
            assert workers.most == 0
        await wait_named(store)
        nursery.cancel_scope.cancel()
    assert workers.most == 1


async def test_they_are_hashed_one_at_a_time(quiet):
    store, workers, _, naming = quiet
    many = [content(2 * MIB + n, n) for n in range(3)]
    for data in many:
        rooted(store, data)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(naming.run)
        for data in many:  # as exports would while it runs
            nursery.start_soon(naming.name, root_of(data))
        for data in many:
            await wait_named(store, data)
        nursery.cancel_scope.cancel()
    assert workers.most == 1


class Counting:
    def __init__(self, inner) -> None:
        self.inner, self.now, self.most, self.calls = inner, 0, 0, 0

    async def follow_aside(self, order):
        self.now += 1
        self.calls += 1
        self.most = max(self.most, self.now)
        try:
            return await self.inner.follow_aside(order)
        finally:
            self.now -= 1


class Unreadable:
    async def follow_aside(self, order):
        return FollowReport(b"", None, None, 0.0, Fault(FaultKind.LOCAL, "Too many open files"))


async def test_one_that_cannot_be_read_now_stays_as_it_is(held):
    store = held.parts.store
    naming = Naming(store, Unreadable(), Priority())
    with pytest.raises(LocalFault, match="Too many"):
        await naming.name(ROOT)
    assert store.find_any(ROOT) is not None
    held.parts = replace(held.parts, naming=naming)
    answer = await held("verify")
    (unread,) = answer["unread"]
    assert (unread["sha256"], unread["root"]) == (None, format_cid(ROOT))


async def test_one_that_is_damaged_is_taken_out_and_its_good_blocks_stay(held):
    store = held.parts.store
    blob = store.find_any(ROOT)
    before = blob.path.stat()
    blob.path.chmod(0o644)
    with blob.path.open("r+b") as file:
        file.write(b"!")
    os.utime(blob.path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert await held.parts.naming.name(ROOT) == Damaged(1)
    assert store.find_any(ROOT) is None
    assert store.others_progress(ROOT) == 3
    assert await held.parts.naming.name(ROOT) is None


class Touching:
    """Workers beside whom somebody touches the file while it is hashed, so many times."""

    def __init__(self, inner, path, times: int) -> None:
        self.inner, self.path, self.times = inner, path, times

    async def follow_aside(self, order):
        report = await self.inner.follow_aside(order)
        if self.times:
            self.times -= 1
            os.utime(self.path)
        return report


@pytest.mark.parametrize("times", [1, 99])
async def test_a_touch_while_it_is_hashed_takes_nothing_out(quiet, times):
    store, workers, priority, _ = quiet
    path = rooted(store, DATA).path
    naming = Naming(store, Touching(workers, path, times), priority)
    if times == 1:
        assert await naming.name(ROOT) == store.find(name_of(DATA)) is not None
    else:
        with pytest.raises(LocalFault, match="written to"):
            await naming.name(ROOT)
        assert store.others_progress(ROOT) == 0
    assert path.read_bytes() == DATA


async def test_verify_reports_a_damaged_one_by_its_root(held):
    blob = held.parts.store.find_any(ROOT)
    blob.path.chmod(0o644)
    with blob.path.open("r+b") as file:
        file.write(b"!")
    answer = await held("verify")
    (bad,) = answer["bad"]
    assert (bad["sha256"], bad["root"], bad["bad_blocks"]) == (None, format_cid(ROOT), 1)


async def test_verify_names_and_counts_a_good_one(held):
    answer = await held("verify")
    assert (answer["checked"], answer["checked_bytes"], answer["bad"]) == (1, len(DATA), [])
    assert held.parts.store.find(ROOT) is not None


async def test_a_get_by_the_root_needs_nobody_and_names_its_file_by_it(held, tmp_path):
    answer = await held("get", ref=REF, to=str(tmp_path / "out"), links=False)
    assert answer["fetched_bytes"] == 0
    assert answer["reused_bytes"] == len(DATA)
    assert answer["manifest"] is None
    assert (tmp_path / "out" / format_cid(ROOT)).read_bytes() == DATA
    with pytest.raises(NotFound):
        await held("get", ref=f"{REF}/below", offline=True)


async def test_the_path_that_a_get_printed_stays_good(held):
    answer = await held("get", ref=REF)
    await held.parts.naming.name(ROOT)
    assert (await trio.Path(answer["path"]).read_bytes()) == DATA
    again = await held("get", ref=REF)
    assert again["manifest"] is not None
    assert (await trio.Path(again["path"]).read_bytes()) == DATA


class NamesAfterwards:
    """A resolver; a hash that runs beside it ends as soon as it has answered."""

    def __init__(self, inner, store) -> None:
        self._inner, self._store = inner, store

    def __getattr__(self, attribute):
        return getattr(self._inner, attribute)

    async def resolve(self, *args, **options):
        resolution = await self._inner.resolve(*args, **options)
        for blob in self._store.rooted.every():
            name(self._store, blob)
        return resolution


@pytest.mark.parametrize("op", ["get", "dry", "resolve"])
async def test_one_that_gets_its_name_behind_the_resolving_is_still_here(held, op):
    slow = NamesAfterwards(held.parts.resolver, held.parts.store)
    held.parts = replace(held.parts, resolver=slow)
    answer = await held(op if op != "dry" else "get", ref=REF, dry_run=op == "dry")
    assert held.parts.store.find(ROOT) is not None
    if op == "get":
        assert (await trio.Path(answer["path"]).read_bytes()) == DATA
    elif op == "dry":
        assert answer["dry_run"]["missing_bytes"] == 0
    else:
        assert held.items[0]["present"]


async def test_a_dry_run_says_that_it_is_here(held):
    answer = await held("get", ref=REF, dry_run=True)
    assert (answer["dry_run"]["missing_bytes"], answer["reused_bytes"]) == (0, len(DATA))
    assert held.items == []


async def test_resolve_shows_that_it_is_here(held):
    await held("resolve", ref=REF)
    (item,) = held.items
    assert item["present"]
    assert (item["sha256"], item["root"], item["size"]) == (None, format_cid(ROOT), len(DATA))


async def test_an_export_of_it_waits_for_its_digest(held, tmp_path):
    answer = await held("export", refs=[REF], path=str(tmp_path / "bundle.car"))
    assert answer["total_bytes"] == len(DATA)
    assert held.parts.store.find(name_of(DATA)) is not None


def rootless(store, data: bytes = DATA):
    """As a pull leaves a large file that was hashed as a whole alone."""
    partial = store.partial(name_of(data), len(data))
    fill(partial, data)
    return store.publish(partial, verified(data))


async def test_what_needs_a_root_makes_it_and_does_not_wait_for_a_quiet_moment(held, tmp_path):
    data = content(2 * MIB + 9, 3)
    ref = f"sha256:{rootless(held.parts.store, data).sha256.hex()}"
    exported = await held("export", refs=[ref], path=str(tmp_path / "x.car"), plain=True)
    assert exported["refs"][0]["root"] == format_cid(root_of(data))
    other = content(2 * MIB + 9, 4)
    ref = f"sha256:{rootless(held.parts.store, other).sha256.hex()}"
    published = await held("publish", ref=ref)
    assert published["root"] == format_cid(root_of(other))


async def test_a_damaged_blob_without_a_root_is_read_once_and_not_at_every_round(quiet):
    store, workers, _, naming = quiet
    blob = rootless(store)
    before = blob.path.stat()
    blob.path.chmod(0o644)
    with blob.path.open("r+b") as file:
        file.write(b"!")
    os.utime(blob.path, ns=(before.st_atime_ns, before.st_mtime_ns))
    rounds = []

    async def after() -> None:
        rounds.append(workers.calls)

    naming.after = after
    async with trio.open_nursery() as nursery:
        nursery.start_soon(naming.run)
        with trio.fail_after(DEADLINE_S):
            while len(rounds) < 3:
                naming.wake()
                await trio.sleep(0.02)
        nursery.cancel_scope.cancel()
    assert rounds[:3] == [1, 1, 1]
    with pytest.raises(LocalFault, match="damaged"):
        await naming.give_root(blob.digest)
