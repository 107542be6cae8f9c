"""What is said to whom: restricted content to the signer alone, and questions cost little."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import trio

from p2pcache.agent.preload.book import Book
from p2pcache.agent.preload.job import Job
from p2pcache.agent.preload.reports import Attendance, Reports
from p2pcache.agent.preload.talk import ASK_AGAIN_S, QUESTIONS_BURST, Talk
from p2pcache.config.preload import From, PreloadSettings
from p2pcache.content.preload import sign_intent
from p2pcache.net.sync.preloads import Records, Stage, State, States, Watch
from p2pcache.store.store import Store
from tests.support.gated import Key

ME, SIGNER, ADMIN, READER, OTHER = (Key() for _ in range(5))
CID = b"\x01\x71\x12\x20" + bytes(32)
WISH = sign_intent(
    SIGNER, ref="hf://org/name", revision=None, manifest=CID, nodes="all", replicas=0,
    rate_bytes_per_s=None, issued_at=1, start_at=1, deadline_at=9000, expires_at=9000,
    nonce=bytes(16),
)  # fmt: skip


class Net:
    """Keeps what is told."""

    def __init__(self) -> None:
        self.told: list[tuple[object, object]] = []

    def tell_preload(self, message, *, to=None, but=None):
        self.told.append((to, message))

    def states_to(self, peer):
        return [s for to, m in self.told if to == peer and isinstance(m, States) for s in m.entries]


@pytest.fixture
def world(tmp_path):
    with Store.open(tmp_path / "home") as store:
        yield lambda **options: make(store, **options)


def make(store, *, who=From.MEMBERS, hidden=False, reads=False):
    net = Net()
    opened = SimpleNamespace(
        network=net, peer_id=ME.peer_id, admin=ADMIN.peer_id, is_banned=lambda _: False,
    )  # fmt: skip
    book = Book(store.preloads, PreloadSettings(who), lambda: 100.0)
    book.hear(OTHER.peer_id, [WISH.record], lambda _: True)
    state = State(WISH.id, Stage.COMPLETE, 70, 70, 7, 0.0, "", "")
    jobs = {WISH.id: Job(book.find(WISH.id), state, hidden=hidden, signer_reads=reads)}
    attendance = Attendance()
    attendance.see([one.peer_id for one in (SIGNER, ADMIN, READER, OTHER)], 0.0)
    return Talk(opened, book, Reports(), attendance, jobs, lambda: None), net, jobs[WISH.id]


async def test_open_content_is_told_to_all_once_for_each_turn(world, autojump_clock):
    talk, net, _ = world()
    talk.tell()
    assert {to for to, _ in net.told} == {one.peer_id for one in (SIGNER, ADMIN, READER, OTHER)}
    net.told.clear()
    talk.tell()
    assert net.told == []


async def test_restricted_content_is_the_signers_business_alone_and_without_sizes(
    world, autojump_clock
):
    talk, net, job = world(hidden=True)
    talk.tell()
    for one in (SIGNER, ADMIN, READER, OTHER):
        talk.greet(one.peer_id)
        talk.heard(one.peer_id, Watch((WISH.id,)))
    for one in (ADMIN, READER, OTHER):
        assert net.states_to(one.peer_id) == []
    told = net.states_to(SIGNER.peer_id)
    assert {(s.stage, s.done_bytes, s.total_bytes, s.origin_bytes) for s in told} == {
        (Stage.COMPLETE, 0, 0, 0)
    }
    assert not job.watchers.keys() - {SIGNER.peer_id}


async def test_a_signer_that_may_read_restricted_content_is_told_sizes(world, autojump_clock):
    talk, net, _ = world(hidden=True, reads=True)
    talk.tell()
    assert {to for to, _ in net.told} == {SIGNER.peer_id}
    assert [s.total_bytes for s in net.states_to(SIGNER.peer_id)] == [70]


async def test_who_told_more_than_could_be_verified_is_asked_again(world, autojump_clock):
    talk, net, _ = world()
    talk.tell()
    talk._book.missed.add(OTHER.peer_id)
    net.told.clear()
    for _ in range(3):
        await trio.sleep(ASK_AGAIN_S)
        talk.tell()
    assert [to for to, said in net.told if said == Watch(())] == [OTHER.peer_id]


async def test_one_that_asks_and_asks_is_answered_a_few_times(world, autojump_clock):
    talk, net, _ = world()
    for _ in range(500):
        talk.heard(OTHER.peer_id, Watch(()))
        talk.heard(OTHER.peer_id, Watch((WISH.id,)))
    assert len(net.told) <= QUESTIONS_BURST
    talk.heard(READER.peer_id, Watch(()))
    assert net.told[-1] == (READER.peer_id, Records((WISH.record,)))


async def test_who_watches_hears_of_bytes_and_the_rest_do_not(world, autojump_clock):
    talk, net, job = world()
    talk.heard(READER.peer_id, Watch((WISH.id,)))
    talk.tell()
    net.told.clear()
    talk._told_at = float("-inf")
    job.has(60)
    talk.tell()
    assert {to for to, _ in net.told} == {SIGNER.peer_id, READER.peer_id}


async def test_an_agent_that_takes_no_part_says_so_when_it_is_asked(world, autojump_clock):
    talk, net, _ = world(who=From.NOBODY)
    talk.heard(OTHER.peer_id, Watch((bytes(32),)))
    (state,) = net.states_to(OTHER.peer_id)
    assert (state.stage, state.code) == (Stage.REFUSED, "denied")
