"""What an agent makes of everybody's word on a preload: who counts, sums, and when it is over."""

from __future__ import annotations

from p2pcache.agent.preload_states import GONE_S, SILENT_S, Roster, States, Told, View
from p2pcache.content.preload import sign_intent
from p2pcache.net.sync.preloads import Stage, State
from tests.support.gated import Key

ME, A, B, C = (Key().peer_id for _ in range(4))
CID = b"\x01\x71\x12\x20" + bytes(32)


def wish(nodes="all"):
    return sign_intent(
        Key(), ref="hf://org/name", revision=None, manifest=CID, nodes=nodes, replicas=0,
        rate_bytes_per_s=None, issued_at=1, start_at=1, deadline_at=9, expires_at=9,
        nonce=bytes(16),
    )  # fmt: skip


def state(stage, done=0, total=100, origin=0, rate=0.0, labels=""):
    return State(bytes(32), stage, done, total, origin, rate, "", labels)


def view(told, *, mine=None, nodes="all", here=None, alive=None, asked_s=1.0):
    here = frozenset(told) if here is None else frozenset(here)
    return View(
        wish(nodes), ME, mine or state(Stage.COMPLETE, 100, origin=50),
        {peer: Told(one, 0.0) for peer, one in told.items()},
        here, here if alive is None else frozenset(alive), 5.0, asked_s,
    )  # fmt: skip


def over(one):
    return one.is_over(one.lines())


def test_sums_are_of_those_who_are_chosen_and_copies_of_all_who_took_something():
    one = view({
        A: state(Stage.PULLING, 50, origin=30, rate=10.0),
        B: state(Stage.IDLE, labels="gpu=no", origin=25),
    })  # fmt: skip
    totals = one.totals(one.lines())
    assert (totals["agents"], totals["complete"]) == (3, 1)
    assert (totals["done_bytes"], totals["total_bytes"], totals["eta_s"]) == (150, 300, 15.0)
    assert totals["origin_copies"] == 1.05


def test_it_is_over_when_all_have_ended_and_not_while_one_may_come_back():
    done = state(Stage.COMPLETE, 100)
    assert over(view({A: done, B: state(Stage.FAILED)}))
    assert not over(view({A: done, B: state(Stage.PULLING)}))
    assert not over(view({A: done, B: state(Stage.PULLING)}, here=[A], alive=[A, B]))
    assert over(view({A: done, B: state(Stage.PULLING)}, here=[A], alive=[A]))


def test_who_says_nothing_is_waited_for_and_then_takes_no_part():
    assert not over(view({A: state(Stage.COMPLETE)}, here=[A, B]))
    assert over(view({A: state(Stage.COMPLETE)}, here=[A, B], asked_s=SILENT_S))


def test_with_nobody_chosen_it_ends_all_the_same():
    nobody = view({A: state(Stage.IDLE)}, mine=state(Stage.IDLE), nodes="gpu=h100")
    assert not over(nobody)
    late = view({A: state(Stage.IDLE)}, mine=state(Stage.IDLE), nodes="gpu=h100", asked_s=SILENT_S)
    assert over(late)
    assert late.totals(late.lines())["agents"] == 0


def test_labels_are_each_agents_own_word_and_nonsense_is_none():
    one = view(
        {A: state(Stage.COMPLETE, labels="gpu=h100"), B: state(Stage.IDLE, labels="=,=\n")},
        mine=state(Stage.IDLE), nodes="gpu=h100",
    )  # fmt: skip
    assert [line["chosen"] for line in one.lines() if not line["self"]].count(True) == 1


def test_a_member_counts_for_a_while_after_it_left():
    roster = Roster()
    roster.see([A, B], 0.0)
    roster.see([A], 10.0)
    assert roster.here == {A}
    assert roster.alive() == {A, B}
    roster.see([A], 10.0 + GONE_S - 1)
    assert roster.alive() == {A, B}
    roster.see([A], 10.0 + GONE_S)
    assert roster.alive() == {A}
    roster.see([A, B], 90.0)
    assert roster.alive() == {A, B}


def test_holders_are_those_that_are_here_and_said_so():
    states = States()
    for peer, stage in ((A, Stage.COMPLETE), (B, Stage.COMPLETE), (C, Stage.PULLING)):
        states.hear(peer, state(stage), 0.0)
    assert states.holders(bytes(32), {A, C}) == [A]
    states.hear(A, state(Stage.IDLE), 1.0)
    assert states.holders(bytes(32), {A, C}) == []
