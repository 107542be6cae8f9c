"""What an agent makes of everybody's word on a preload: who counts, sums, and when it is over."""

from __future__ import annotations

from p2pcache.agent.preload.reports import GONE_S, SILENT_S, Attendance, Reports, Told, View
from p2pcache.content.peerid import format_peer_id
from p2pcache.content.preload import Intent, score, sign_intent
from p2pcache.net.sync.preloads import Stage, State
from tests.support.gated import Key

ME, A, B, C = (Key().peer_id for _ in range(4))
CID = b"\x01\x71\x12\x20" + bytes(32)


def wish(nodes="all", number=0):
    return sign_intent(
        Key(), ref="hf://org/name", revision=None, manifest=CID, nodes=nodes, replicas=0,
        rate_bytes_per_s=None, issued_at=1, start_at=1, deadline_at=9, expires_at=9,
        nonce=number.to_bytes(16, "big"),
    )  # fmt: skip


def state(stage, done=0, total=100, origin=0, rate=0.0, labels=""):
    return State(bytes(32), stage, done, total, origin, rate, "", labels)


def view(
    told, *, mine=None, nodes="all", here=None, alive=None, hearsay=(), asked_s=1.0, size=None
):
    here = frozenset(told) if here is None else frozenset(here)
    return View(
        nodes if isinstance(nodes, Intent) else wish(nodes), ME,
        mine or state(Stage.COMPLETE, 100, origin=50),
        {peer: Told(one, 0.0) for peer, one in told.items()},
        here, here if alive is None else frozenset(alive), frozenset(hearsay), 5.0, asked_s, size,
    )  # fmt: skip


def over(one, idle_s=0.0):
    return one.is_over(one.lines(), idle_s)


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


def test_one_that_evicted_its_copy_is_not_waited_for_for_days():
    done, evicted = state(Stage.COMPLETE, 100), state(Stage.IDLE)
    one = view({A: done, B: evicted}, asked_s=SILENT_S)
    assert one.unfinished(one.lines()) == {"idle"}
    assert not over(one), "it may have been selected a moment ago, for another that went"
    assert over(one, idle_s=SILENT_S)
    assert one.totals(one.lines())["complete"] == 2
    assert not over(view({A: state(Stage.WAITING), B: evicted}, asked_s=SILENT_S), SILENT_S)
    assert over(view({A: done}, mine=evicted), SILENT_S), "nor are we"


def test_with_a_number_those_without_a_link_count_as_agents_count_them():
    for number in range(1000):
        intent = wish("2", number)
        lowest, low, middle, high = sorted((ME, A, B, C), key=lambda p: score(intent.id, p))
        if lowest == ME:
            break
    told = {low: state(Stage.IDLE), middle: state(Stage.COMPLETE, 100)}
    one = view(told, nodes=intent, hearsay=[high])
    chosen = {line["peer"] for line in one.lines() if line["chosen"]}
    assert format_peer_id(low) not in chosen, "two rank higher, one of them without a link"


def test_one_that_is_known_by_hearsay_alone_is_not_waited_for():
    told = {A: state(Stage.COMPLETE, 100), B: state(Stage.PULLING, 50)}
    one = view(told, here=[A], hearsay=[B])
    assert over(one)
    assert one.totals(one.lines())["agents"] == 3
    assert one.totals(one.lines())["complete"] == 2, "and nobody says that it has it"


def test_the_size_is_the_manifests_and_no_strangers_word_where_it_is_here():
    liar = state(Stage.COMPLETE, 10**15, total=10**15)
    totals = (one := view({A: liar}, size=100)).totals(one.lines())
    assert (totals["size_bytes"], totals["done_bytes"], totals["total_bytes"]) == (100, 200, 200)
    assert totals["origin_copies"] == 0.5


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
    attendance = Attendance()
    attendance.see([A, B], 0.0)
    attendance.see([A], 10.0)
    assert attendance.here == {A}
    assert attendance.alive() == {A, B}
    attendance.see([A], 10.0 + GONE_S - 1)
    assert attendance.alive() == {A, B}
    attendance.see([A], 10.0 + GONE_S)
    assert attendance.alive() == {A}
    attendance.see([A, B], 90.0)
    assert attendance.alive() == {A, B}


def test_holders_are_those_that_are_here_and_said_so():
    reports = Reports()
    for peer, stage in ((A, Stage.COMPLETE), (B, Stage.COMPLETE), (C, Stage.PULLING)):
        reports.hear(peer, state(stage), 0.0)
    assert reports.holders(bytes(32), {A, C}) == [A]
    reports.hear(A, state(Stage.IDLE), 1.0)
    assert reports.holders(bytes(32), {A, C}) == []


def test_who_had_it_when_it_was_cancelled_has_it():
    had, not_all = state(Stage.CANCELLED, 100), state(Stage.CANCELLED, 60)
    one = view({A: had, B: not_all}, mine=had, size=100)
    assert one.totals(one.lines())["complete"] == 2
