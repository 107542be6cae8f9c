"""Copies that are in the way: when others have taken them over."""

from __future__ import annotations

from p2pcache.agent.preload.handover import (
    HURRY_S,
    LEAVING_S,
    SETTLE_S,
    Handovers,
    is_possible,
)
from p2pcache.agent.preload.reports import LEAVING, Reports, Told
from p2pcache.net.sync.preloads import Stage, State

ID = bytes(32)
A, B, C = (bytes([n]) * 38 for n in range(3))


def state(stage: Stage, code: str = "") -> State:
    return State(ID, stage, 0, 0, 0, 0.0, code, "")


def told(at: float, **stages: Stage) -> dict[bytes, Told]:
    names = {"a": A, "b": B, "c": C}
    return {names[name]: Told(state(stage), at) for name, stage in stages.items()}


def begun() -> Handovers:
    made = Handovers()
    made.begin([ID], 100.0)
    return made


LATE = 100.0 + SETTLE_S
HERE = {A, B, C}


def test_it_may_go_once_enough_others_said_late_enough_that_they_have_it():
    both = told(LATE, a=Stage.COMPLETE, b=Stage.COMPLETE)
    assert begun().is_taken_over(ID, 2, both, HERE, LATE)
    assert not begun().is_taken_over(ID, 3, both, HERE, LATE)
    assert not begun().is_taken_over(ID, 2, both, {A}, LATE), "one of them has gone"


def test_a_word_from_before_all_could_look_again_does_not_count():
    """Its agent may have evicted its copy since, because of ours."""
    assert SETTLE_S > HURRY_S
    early = told(LATE - 0.1, a=Stage.COMPLETE, b=Stage.COMPLETE)
    assert not begun().is_taken_over(ID, 2, early, HERE, LATE + 100)
    assert not begun().is_taken_over(ID, 1, early, HERE, LATE - 0.05)


def test_who_leaves_too_is_no_holder():
    one = told(LATE, a=Stage.COMPLETE, b=Stage.IDLE)
    assert not begun().is_taken_over(ID, 2, one, HERE, LATE)


def test_nothing_goes_that_nobody_asked_for_or_that_went():
    both = told(LATE, a=Stage.COMPLETE, b=Stage.COMPLETE)
    assert not Handovers().is_taken_over(ID, 2, both, HERE, LATE)
    made = begun()
    made.end(ID)
    assert not made.is_taken_over(ID, 2, both, HERE, LATE)


def test_after_a_while_it_is_kept_after_all_and_asking_again_begins_anew():
    made = begun()
    made.begin([ID], 150.0)
    assert made.settled(ID, LATE), "it goes on from the first time"
    late = 100.0 + LEAVING_S
    assert not made.leaves(ID, late)
    both = told(late, a=Stage.COMPLETE, b=Stage.COMPLETE)
    assert not made.is_taken_over(ID, 2, both, HERE, late)
    made.begin([ID], late)
    assert made.leaves(ID, late)
    assert not made.settled(ID, late)


def line(state: str, code: str | None = None, **more: bool) -> dict[str, object]:
    return {"self": False, "here": True, "chosen": True, "state": state, "code": code} | more


def test_nobody_is_asked_where_too_few_could_take_it_over():
    lines = [
        line("complete"), line("refused"), line("failed"), line("idle", chosen=False),
        line("idle", here=False), line("idle", self=True),
    ]  # fmt: skip
    assert is_possible(lines, 1)
    assert not is_possible(lines, 2)
    assert is_possible([*lines, line("idle")], 2)
    assert not is_possible([*lines, line("idle", LEAVING)], 2), "it waits for us, too"


def test_who_wants_its_copy_taken_over_is_known():
    reports = Reports()
    reports.hear(A, state(Stage.IDLE, LEAVING), 0.0)
    reports.hear(B, state(Stage.COMPLETE), 0.0)
    assert reports.leaving(ID, HERE) == {A}
    assert reports.leaving(ID, {B}) == set()
