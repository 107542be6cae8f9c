"""`p2pcache preload`: times, the short form, and what `--watch` shows and ends with."""

from __future__ import annotations

import datetime
import io
import json

import click
import pytest

from p2pcache.cli import preload as module
from p2pcache.cli.main import main
from p2pcache.cli.output import Mode, Printer
from p2pcache.errors import P2PCacheError

LINE = {
    "peer": "12D3KooWabcdefghijklmnop", "self": False, "here": True, "chosen": True,
    "state": "pulling", "code": None, "done_bytes": 50 << 20, "total_bytes": 100 << 20,
    "origin_bytes": 25 << 20, "bytes_per_s": 10.0 * 2**20, "labels": "gpu=h100", "heard_s": 0.5,
}  # fmt: skip
TOTALS = {
    "agents": 2, "complete": 1, "size_bytes": 100 << 20, "done_bytes": 150 << 20,
    "total_bytes": 200 << 20, "bytes_per_s": 10.0 * 2**20, "eta_s": 5.0,
    "origin_bytes": 104 << 20, "origin_copies": 1.04,
}  # fmt: skip


def state(**changed):
    mine = {**LINE, "self": True, "state": "complete", "done_bytes": 100 << 20, "bytes_per_s": 0.0}
    made = {
        "id": "ab" * 32, "ref": "hf://org/name", "nodes": "all", "cancelled": False,
        "totals": TOTALS, "agents": [mine, LINE], "over": False,
    }  # fmt: skip
    return {**made, **changed}


@pytest.mark.parametrize("text", ["2h", "90m", "1 d"])
def test_a_duration_is_from_now(text):
    seconds = {"2h": 7200, "90m": 5400, "1 d": 86400}[text]
    assert module.moment(text, 1000.0) == 1000.0 + seconds


@pytest.mark.parametrize("hour", range(24))
def test_a_deadline_counts_from_the_start_at_any_time_of_the_day(hour):
    now = datetime.datetime(2030, 1, 2, hour, 30).timestamp()
    at, deadline = module.span("22:00", "6h", now)
    assert deadline - at == 6 * 3600
    assert 0 < at - now <= 86400
    at, deadline = module.span("22:00", "06:00", now)
    assert deadline - at == 8 * 3600, "the next one after the start"
    assert module.span(None, "6h", now) == (None, now + 6 * 3600)
    assert module.span("2029-01-01T00:00", "6h", now)[1] == now + 6 * 3600, "it begins now"
    assert module.span(None, None, now) == (None, None)


def test_a_clock_time_is_the_next_one_and_a_date_is_local():
    now = datetime.datetime.now()
    past = (now - datetime.timedelta(minutes=2)).strftime("%H:%M")
    at = module.moment(past, now.timestamp())
    assert 0 < at - now.timestamp() <= 86400
    date = module.moment("2030-01-02T03:04", now.timestamp())
    assert datetime.datetime.fromtimestamp(date) == datetime.datetime(2030, 1, 2, 3, 4)
    assert module.moment("2030-01-02T03:04+00:00", now.timestamp()) == 1893553440


@pytest.mark.parametrize("text", ["", "soon", "25:00", "7", "-1h", "2030-13-01"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(click.BadParameter, match="no time"):
        module.TIME.convert(text, None, None)


def test_the_short_form_is_start(capsys, monkeypatch):
    asked = []

    def connect():
        asked.append(True)
        raise P2PCacheError("no agent here")

    monkeypatch.setattr(module, "connect", connect)
    for argv in (["hf://org/name"], ["--nodes", "2", "hf://org/name"], ["start", "hf://org/name"]):
        assert main(["preload", *argv]) == 1
    assert len(asked) == 3
    assert main(["preload", "--help"]) == 0
    assert "cancel" in capsys.readouterr().out


def test_a_line_an_agent_and_totals():
    out = io.StringIO()
    printer = Printer(Mode.HUMAN, stdout=out, stderr=out)
    module._show(printer, state())
    heading, mine, other, totals = out.getvalue().splitlines()
    assert heading.split() == ["agent", "state", "bytes", "rate", "origin", "labels"]
    assert mine.startswith("this agent  ")
    assert "complete" in mine
    assert "pulling" in other
    assert "50/100 MiB" in other
    assert totals == ("1 of 2 agents have it, 150/200 MiB, 10 MiB/s, ETA 5s, 1.04 origin copies")


def test_why_and_away_are_said():
    failed = {**LINE, "state": "refused", "code": "denied", "here": False, "heard_s": 61.0}
    rows = module._rows(state(agents=[failed, {**LINE, "state": "idle", "chosen": False}]))
    assert [row[1] for row in rows[1:]] == ["refused (denied) away, heard 1m01s ago"]


def test_watch_in_json_is_a_line_for_each_change_and_signs_of_life_are_none():
    out = io.StringIO()
    with module._Display(Printer(Mode.JSON, stdout=out, stderr=out)) as display:
        display.update({})
        display.update({"type": "progress", **state()})
    (line,) = map(json.loads, out.getvalue().splitlines())
    assert line["type"] == "preload-progress"
    assert line["totals"]["origin_copies"] == 1.04


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({}, "1 of 2 agents"),
        ({"totals": {**TOTALS, "agents": 0, "complete": 0}}, "no agent is selected"),
        ({"cancelled": True}, "cancelled"),
    ],
)
def test_watch_fails_unless_all_have_it(changed, says):
    module._check(state(totals={**TOTALS, "complete": 2}))
    with pytest.raises(P2PCacheError, match=says):
        module._check(state(**changed))


def test_the_hint_after_a_deadline_promises_nothing():
    late = {**LINE, "state": "failed", "code": "deadline"}
    for line, says in ((late, "the deadline came first"), (LINE, "they go on trying")):
        with pytest.raises(P2PCacheError) as caught:
            module._check(state(agents=[line]))
        assert says in caught.value.hint


def test_the_short_forms_options_are_in_its_help(capsys):
    assert main(["preload", "--help"]) == 0
    out = capsys.readouterr().out
    for option in ("--nodes", "--deadline", "--watch", "cancel"):
        assert option in out


@pytest.mark.parametrize("command", ["show", "cancel"])
def test_an_empty_id_is_said(capsys, command):
    assert main(["preload", command, ""]) == 2
    assert "there is no id" in capsys.readouterr().err
