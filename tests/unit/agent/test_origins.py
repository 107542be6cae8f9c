"""The accounts of origins: when they are kept and told, and what members may cost."""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from types import SimpleNamespace

import pytest
import trio
from trio.testing import MockClock

from p2pcache.agent.origins import OTHERS_S, WORDS_BURST, Origins
from p2pcache.agent.wiring import open_agent
from p2pcache.config.settings import load
from p2pcache.errors import LocalFault, Untrusted
from p2pcache.lanes.orders import FetchLimits, Location
from p2pcache.net.identity import load_or_create_identity
from p2pcache.net.sync.spending import Entry, Spends
from p2pcache.store.spent import SpentRow
from p2pcache.store.store import Store
from p2pcache.transfer.budgets import Figure, Limits, Spent, month_of, origin_key

HUB = Location("https://hub.example/x")
KEY = origin_key("hub.example")
NOW = 1_790_000_000.0
MONTH = month_of(NOW)
ME, OTHER = b"me" * 19, b"ot" * 19


@pytest.fixture
def autojump_clock():
    return MockClock(autojump_threshold=0.005)  # what is kept is kept in a thread


class Rows:
    """Where figures are kept: what was written."""

    def __init__(self) -> None:
        self.writes: list[list[SpentRow]] = []

    def put(self, rows, *, since) -> None:
        self.writes.append(list(rows))


class Network:
    """One that is always open, and that may be slow. `told`: when, and what."""

    def __init__(self) -> None:
        self.peer_id = ME
        self.network = self
        self.on_spends = None
        self.beat_s = 0.2
        self.has_room = True
        self.told: list[tuple[float, Spends]] = []

    def members(self):
        return []

    def tell_spends(self, message: Spends) -> bool:
        self.told.append((trio.current_time(), message))
        return self.has_room

    @asynccontextmanager
    async def watch(self):
        send, receive = trio.open_memory_channel(1)
        with send, receive:
            yield receive


class Slot:
    def __init__(self) -> None:
        self.current = Network()

    async def wait_any(self) -> Network:
        return self.current

    async def wait_closed(self, opened) -> None:
        await trio.sleep_forever()


@asynccontextmanager
async def at_work(limits: Limits, **more):
    rows, slot = Rows(), Slot()
    made = Origins(
        SimpleNamespace(spent=rows), slot, {"hub.example": limits}, lambda: NOW, None, [], **more
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.run)
        await trio.testing.wait_all_tasks_blocked()
        yield made, rows, slot.current
        nursery.cancel_scope.cancel()


async def a_second() -> None:
    """Of virtual time, of which no more passes while something is being kept in a thread."""
    await trio.sleep(1)
    threads = trio.to_thread.current_default_thread_limiter()
    while threads.borrowed_tokens:
        await trio.lowlevel.checkpoint()


def word(bytes_total: int, origin: bytes = KEY) -> Spends:
    return Spends((Entry(origin, MONTH, bytes_total, 1, True, 1),))


async def test_others_figures_that_grow_all_the_time_are_kept_once_a_minute(autojump_clock):
    async with at_work(Limits(month_bytes=10**9)) as (made, rows, network):
        for second in range(int(3 * OTHERS_S)):
            network.on_spends(OTHER, word(second + 1))
            await a_second()
        assert 3 <= len(rows.writes) <= 4
        for _ in range(int(OTHERS_S)):
            await a_second()
        assert rows.writes[-1][0].bytes_total == 3 * OTHERS_S, "the last one too, later"
        written = len(rows.writes)
        async with made.spending.request(HUB, FetchLimits()) as one:
            one.wire_bytes = 5
        await a_second()
        await a_second()
        ((row,),) = rows.writes[written:]
        assert (row.member, row.bytes_total) == (ME, 5), "our own at once"


async def test_a_member_that_tells_too_often_is_not_trusted(autojump_clock):
    async with at_work(Limits(month_bytes=10**9)) as (_, _rows, network):
        for number in range(int(WORDS_BURST)):
            network.on_spends(OTHER, word(number))
        network.on_spends(b"another", word(1))
        with pytest.raises(Untrusted, match="more often"):
            network.on_spends(OTHER, word(1))
        await trio.sleep(1)
        network.on_spends(OTHER, word(1))


async def test_what_is_told_keeps_to_the_networks_beat(autojump_clock):
    async with at_work(Limits(concurrent=100)) as (made, _rows, network):
        began = trio.current_time()
        while trio.current_time() < began + 10:
            async with made.spending.request(HUB, FetchLimits()):
                await trio.sleep(0.05)
        assert network.told[0][0] - began < 0.05, "the first word at once"
        assert 30 < len(network.told) < 10 / network.beat_s


async def test_where_only_the_months_bytes_matter_they_are_told_once_a_second(autojump_clock):
    async with at_work(Limits(month_bytes=10**9)) as (made, _rows, network):
        for _ in range(200):
            async with made.spending.request(HUB, FetchLimits()) as one:
                await trio.sleep(0.05)
                one.wire_bytes = 7
        await trio.sleep(5)
        assert 10 <= len(network.told) <= 14
        (last,) = network.told[-1][1].entries
        assert (last.bytes_total, last.asks) == (1400, False)


async def test_a_last_word_that_found_no_room_is_said_again(autojump_clock):
    async with at_work(Limits(concurrent=1)) as (made, _rows, network):
        network.has_room = False
        async with made.spending.request(HUB, FetchLimits()) as one:
            one.wire_bytes = 7
        await trio.sleep(10)
        network.has_room = True
        told = len(network.told)
        await trio.sleep(1)
        assert len(network.told) == told + 1
        assert network.told[-1][1].entries == (Entry(KEY, MONTH, 7, 1, False, 0),)


@contextmanager
def shown(made: Origins):
    (origin,) = made.shown()
    yield origin, {member["peer"]: member for member in origin["members"]}


async def test_what_is_shown_says_who_runs_how_much_and_leaves_the_unheard_out_of_sums(
    autojump_clock,
):
    async with at_work(Limits(concurrent=9, unheard=frozenset({OTHER, ME}))) as (made, _, network):
        network.on_spends(OTHER, word(50))
        made.spending.hear(b"third", Figure(KEY, MONTH, b"", Spent(10, 3)), asks=True, running=4)
        async with made.spending.request(HUB, FetchLimits()):
            with shown(made) as (origin, members):
                assert (origin["bytes"], origin["requests"]) == (10, 3 + 1)
                assert sorted(m["running"] for m in members.values()) == [0, 1, 4]
                (ours,) = (m for m in members.values() if m["ours"])
                assert (ours["running"], ours["heard"]) == (1, True)


async def test_what_was_fetched_before_there_was_an_identity_is_shown_as_ours(autojump_clock):
    rows = [SpentRow(KEY, MONTH, who, "hub.example", 5, 1) for who in (b"", ME)]
    made = Origins(SimpleNamespace(spent=Rows()), Slot(), {}, lambda: NOW, None, rows, ME)
    with shown(made) as (origin, members):
        assert origin["bytes"] == 10
        assert [member["ours"] for member in members.values()] == [True, True]
        assert None in members


async def test_a_jump_of_the_clock_ends_neither_the_accounts_nor_their_closing(autojump_clock):
    """By more than what is kept, while a request runs."""
    wall, rows = [NOW], Rows()
    made = Origins(
        SimpleNamespace(spent=rows), Slot(), {"hub.example": Limits(month_bytes=9)},
        lambda: wall[0], None, [],
    )  # fmt: skip
    async with made.spending.request(HUB, FetchLimits()):
        wall[0] += 500 * 86400
        made.spending.look()
    made.close()
    assert rows.writes == [], "its only figure is of a month that is long over"


async def test_the_store_is_closed_whatever_becomes_of_the_accounts(tmp_path):
    parts = None
    try:
        async with open_agent(load(tmp_path, {"P2PCACHE_STORE_RESERVE": "0"})) as parts:
            parts.origins._store = None
            await ask(parts.origins)
    except AttributeError:
        with pytest.raises(LocalFault, match="closed"):
            parts.store.spent.all()
        assert not (tmp_path / "run" / "odometer").exists()
    else:
        pytest.fail("the accounts were closed")


async def test_an_agent_that_had_an_identity_counts_under_it_without_a_network(tmp_path):
    identity = load_or_create_identity(tmp_path / "identity.key")
    settings = {"P2PCACHE_STORE_RESERVE": "0", "P2PCACHE_NETWORK_ENABLED": "off"}
    async with open_agent(load(tmp_path, settings)) as parts:
        await ask(parts.origins)
    with Store.open(tmp_path) as store:
        assert [row.member for row in store.spent.all()] == [identity.peer_id]


async def ask(made: Origins) -> None:
    async with made.spending.request(HUB, FetchLimits()):
        pass
