"""A recorded pull again, in a fresh machine: does it ask for the same, and where did the time go?

Pure: the recording has the times, and the seed of the chance.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from p2pcache.errors import UsageError
from p2pcache.transfer import trace
from p2pcache.transfer.account import Account

if TYPE_CHECKING:
    from collections.abc import Iterable

    from p2pcache.transfer.account import Tally
    from p2pcache.transfer.machine import Download


@dataclass(frozen=True, slots=True)
class Difference:
    """The first step at which the machine asks for something else than it did."""

    step: int
    at_s: float
    recorded: list[dict[str, Any]]
    replayed: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Replayed:
    """One pull of a recording. `steps`: those that were replayed, up to the first `difference`.

    `incomplete` says why it could not be replayed to its end, or None. The `tally` is of the
    recorded events and actions, all of them.
    """

    pull: int
    ref: str
    steps: int
    actions: int
    difference: Difference | None
    incomplete: str | None
    seconds: float
    tally: Tally

    def to_wire(self) -> dict[str, Any]:
        """For `--json`."""
        found = self.difference
        return {
            "pull": self.pull,
            "ref": self.ref,
            "same": found is None and self.incomplete is None,
            "steps": self.steps,
            "actions": self.actions,
            "difference": None
            if found is None
            else {
                "step": found.step,
                "t": found.at_s,
                "recorded": found.recorded,
                "replayed": found.replayed,
            },
            "incomplete": self.incomplete,
            "seconds": self.seconds,
            "where": dict(self.tally.spent),
            "nodes": self.tally.nodes,
            "missing_bytes": self.tally.missing_bytes,
            "origin_bytes": self.tally.origin_bytes,
            "heard_origin_bytes": self.tally.heard_origin_bytes,
            "incidents": [incident.to_wire() for incident in self.tally.incidents],
        }


def replay(lines: Iterable[str]) -> list[Replayed]:
    """Every pull that a recording has from its start. Raises UsageError when it is none."""
    pulls: dict[int, _Recorded] = {}
    found: list[Replayed] = []
    where = "it"
    try:
        for number, text in enumerate(lines, 1):
            where = f"line {number}"
            if text.strip():
                _take(json.loads(text), pulls)
        for number, recorded in pulls.items():
            where = f"pull {number}"
            found.append(recorded.replay())
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise UsageError(
            f"{where} is not of a trace of this version",
            hint="record one with `p2pcache trace --json > FILE`",
        ) from exc
    return found


def _take(record: dict[str, Any], pulls: dict[int, _Recorded]) -> None:
    match record["type"]:
        case "pull":
            pulls[record["pull"]] = _Recorded(record)
        case "lost":
            for recorded in pulls.values():
                if recorded.ended_at is None:
                    recorded.is_lossy = True
        case "blobs" | "event" | "action" | "end" if record["pull"] in pulls:
            pulls[record["pull"]].add(record)
        case _:
            pass  # joined in the middle, or newer than this version


class _Recorded:
    """The lines of one pull."""

    def __init__(self, start: dict[str, Any]) -> None:
        self.ended_at: float | None = None
        self.is_lossy = False
        self._start = start
        self._blobs: list[dict[str, Any]] = []
        self._steps: list[list[dict[str, Any]]] = []

    def add(self, record: dict[str, Any]) -> None:
        if record["type"] == "blobs":
            self._blobs += record["blobs"]
        elif record["type"] == "end":
            self.ended_at = record["t"]
        elif self._steps and self._steps[-1][0]["step"] == record["step"]:
            self._steps[-1].append(record)
        else:
            self._steps.append([record])

    def replay(self) -> Replayed:
        setup = trace.read_setup(self._start, self._blobs)
        account = Account(setup.blobs)
        machine: Download | None = setup.machine()
        difference: Difference | None = None
        incomplete = None
        steps = actions = 0
        now = 0.0
        for expected, records in enumerate(self._steps, 1):
            now = records[0]["t"]
            if records[0]["step"] != expected and incomplete is None:
                machine, incomplete = None, f"steps were lost before step {records[0]['step']}"
            events = [trace.read_event(r) for r in records if r["type"] == "event"]
            recorded = [trace.read_action(r) for r in records if r["type"] == "action"]
            account.note(events, recorded, now)
            if machine is not None:
                made = trace.encoded(machine.handle_all(events, now))
                then = trace.encoded(recorded)
                if made != then:
                    difference = Difference(records[0]["step"], now, then, made)
                    machine = None
                else:
                    steps, actions = steps + 1, actions + len(made)
        if self.is_lossy and incomplete is None:
            incomplete = "some of its steps were lost"
        if self.ended_at is not None:
            account.close(now := self.ended_at)
        elif incomplete is None:
            incomplete = "the recording ends before the pull does"
        return Replayed(
            self._start["pull"], self._start["ref"], steps, actions, difference, incomplete, now,
            account.tally(),
        )  # fmt: skip
