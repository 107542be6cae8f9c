"""Traces: every event to a line and back, nothing secret, and the same pull again."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pcache.errors import UsageError
from p2pcache.lanes.orders import Fault, FaultKind
from p2pcache.transfer import events as ev
from p2pcache.transfer import trace
from p2pcache.transfer.replay import replay
from p2pcache.transfer.tracing import MAX_QUEUED, Traces
from tests.support.machine_world import MIB
from tests.support.recorded_world import RecordedWorld

SIZES = st.lists(st.sampled_from([0, 1, MIB, MIB + 1, 5 * MIB, 40 * MIB + 3]), max_size=4)


def recorded(seed: int, sizes=(5 * MIB, 1, 12 * MIB), peers: int = 2, faults: float = 0.1):
    world = RecordedWorld(seed, list(sizes), 1, faults, peers)
    world.run()
    return world.machine


@pytest.mark.parametrize("kind", [*get_args(ev.Event), *get_args(ev.Action)])
def test_every_field_of_every_event_and_action_can_be_read(kind):
    assert {str(field.type) for field in fields(kind)} <= set(trace.READERS)
    assert kind in (*trace.EVENTS.values(), *trace.ACTIONS.values())


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    sizes=SIZES,
    peers=st.integers(0, 3),
    faults=st.sampled_from([0.0, 0.2, 0.6]),
)
def test_a_recorded_pull_is_read_back_and_asks_for_the_same_again(seed, sizes, peers, faults):
    recorder = recorded(seed, sizes, peers, faults)
    lines = recorder.lines()
    for number, (_, events, actions) in enumerate(recorder.steps, 1):
        for record in trace.step_records(1, number, 0.0, events, actions):
            read = json.loads(trace.line(record))
            again = trace.read_event if read["type"] == "event" else trace.read_action
            assert again(read) in (*events, *actions)
    (found,) = replay(lines)
    assert found.difference is None
    assert found.incomplete is None
    assert found.steps == len(recorder.steps)
    assert found.tally == recorder.account.tally()


def test_another_decision_is_shown_with_its_step():
    lines = recorded(3).lines()
    at = next(n for n, line in enumerate(lines) if '"action":"fetch"' in line)
    changed = json.loads(lines[at])
    changed["job"]["end"] += MIB
    lines[at] = trace.line(changed)
    (found,) = replay(lines)
    assert found.difference is not None
    assert found.difference.step == changed["step"] == found.steps + 1
    assert found.difference.recorded != found.difference.replayed


def test_another_seed_is_another_pull():
    lines = recorded(3, [40 * MIB], peers=3).lines()
    start = json.loads(lines[0])
    start["seed"] += 1
    (found,) = replay([trace.line(start), *lines[1:]])
    assert found.difference is not None


def test_a_recording_with_holes_says_so_and_still_has_the_account():
    lines = recorded(5).lines()
    step = json.loads(lines[len(lines) // 2])["step"]
    holed = [line for line in lines if json.loads(line).get("step") != step]
    (found,) = replay(holed)
    assert found.incomplete == f"steps were lost before step {step + 1}"
    assert found.seconds == json.loads(lines[-1])["t"]
    (cut,) = replay(lines[:-1])
    assert cut.incomplete == "the recording ends before the pull does"


@pytest.mark.parametrize("line", ["{", "[]", '{"type":"pull"}', "7", '{"type":"blobs"}'])
def test_what_is_no_trace_is_refused_by_line(line):
    with pytest.raises(UsageError, match="line 2"):
        replay(["", line])


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (
            "https://cdn.example/a/b?X-Amz-Signature=abc&x=1: 403",
            "https://cdn.example/a/b?... 403",
        ),
        ("http://user:pass@host:8080/x", "http://host:8080/x"),
        ("sent Bearer abc.def to hub", "sent ... to hub"),
        ("token hf_" + "a" * 34 + " refused", "token ... refused"),
        ("hf://org/hf_internal_model@main", "hf://org/hf_internal_model@main"),
    ],
)
def test_no_query_no_user_and_no_token_is_in_a_line(said, shown):
    fault = Fault(FaultKind.DENIED, said, http_status=403)
    job = ev.Job(1, 0, "hub", 0, MIB)
    (record,) = trace.step_records(1, 1, 0.0, [ev.Ended(job, 0, 0, 0.1, fault)], [])
    assert record["fault"]["message"] == shown


async def test_a_slow_listener_loses_steps_is_told_how_many_and_keeps_start_and_end():
    recorder = recorded(1)
    traces = Traces()
    with traces.listen() as slow, traces.pull("hf://org/model@main") as pull:
        pull.began(recorder.setup, ["a", "b", "c"])
        for _ in range(MAX_QUEUED + 10):
            pull.step(1.0, [ev.Tick()], [])
        pull.ended(2.0, recorder.account.tally())
        traces.close()
        lines = []
        while more := await slow.wait_lines():
            lines += [json.loads(line) for line in more]
    kinds = [line["type"] for line in lines]
    assert (kinds[:2], kinds[-2:]) == (["pull", "blobs"], ["lost", "end"])
    assert lines[-2]["steps"] == 11, "the start took one place"
    assert kinds.count("event") == MAX_QUEUED - 1


async def test_who_comes_in_the_middle_is_told_so_and_others_hear_only_their_ref():
    traces = Traces()
    with traces.pull("hf://org/model@main") as pull:
        pull.step(0.5, [ev.Tick()], [])
        with traces.listen("hf://org/model@main") as mine, traces.listen("hf://a/b@main") as other:
            pull.step(1.0, [ev.Tick()], [])
            traces.close()
            first, second = await mine.wait_lines(), await mine.wait_lines()
            assert await other.wait_lines() == []
    assert json.loads(first[0])["type"] == "joined"
    assert json.loads(second[0]) == {
        "type": "event", "pull": 1, "step": 2, "t": 1.0, "event": "tick",
    }  # fmt: skip
    assert replay([*first, *second]) == []


def test_a_step_is_not_even_looked_at_while_nobody_listens():
    class Untouchable:
        def __iter__(self):
            raise AssertionError("looked at")

    with Traces().pull("hf://org/model@main") as pull:
        pull.step(0.0, Untouchable(), Untouchable())
