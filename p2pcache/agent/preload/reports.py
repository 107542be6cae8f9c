"""How far every agent is with every preload, as far as it told: for `show`, and for evictions.

Pure: `now` is any steady clock in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from p2pcache.content.peerid import format_peer_id
from p2pcache.content.preload import is_chosen, parse_labels
from p2pcache.errors import UsageError
from p2pcache.net.sync.preloads import Stage, State

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from p2pcache.content.peerid import PeerId
    from p2pcache.content.preload import Intent

GONE_S = 60.0  # after its link ended a member counts for so long: an agent restarts in 1-10 s,
#                a machine in a minute, and a successor's first bytes would be for nothing
SILENT_S = 10.0  # who was asked and says nothing for this long takes no part; nor does who is
#                  selected and says `idle` for so long: what it had it evicted
MAX_TELLERS = 4096  # of one preload: more than a network that is linked with us has
LEAVING = "leaving"  # the code of who is idle because its copy is to go; see handover.py
ENDED = (Stage.COMPLETE, Stage.REFUSED, Stage.FAILED, Stage.CANCELLED)


class Attendance:
    """The members, with those that went away just now."""

    def __init__(self) -> None:
        self._left_at: dict[PeerId, float] = {}
        self._here: frozenset[PeerId] = frozenset()

    def see(self, here: Iterable[PeerId], now: float) -> None:
        """Who is here now."""
        new = frozenset(here)
        self._left_at.update(dict.fromkeys(self._here - new, now))
        self._here = new
        self._left_at = {
            peer: at for peer, at in self._left_at.items() if peer not in new and now - at < GONE_S
        }

    @property
    def here(self) -> frozenset[PeerId]:
        """Those that can be talked to."""
        return self._here

    def alive(self) -> frozenset[PeerId]:
        """Those, and who may be back in a moment."""
        return self._here | self._left_at.keys()


@dataclass(frozen=True, slots=True)
class Told:
    """A state, and when it was heard."""

    state: State
    at: float


class Reports:
    """What others said of themselves."""

    def __init__(self) -> None:
        self._told: dict[bytes, dict[PeerId, Told]] = {}

    def hear(self, peer: PeerId, state: State, now: float) -> None:
        """A member tells how far it is with a preload that is known here."""
        of = self._told.setdefault(state.id, {})
        if peer in of or len(of) < MAX_TELLERS:
            of[peer] = Told(state, now)

    def of(self, id_: bytes) -> Mapping[PeerId, Told]:
        """By member."""
        return self._told.get(id_, {})

    def holders(self, id_: bytes, here: Collection[PeerId]) -> list[PeerId]:
        """Who of those that are here said that all of it is there."""
        return [
            peer
            for peer, told in self.of(id_).items()
            if peer in here and told.state.stage is Stage.COMPLETE
        ]

    def leaving(self, id_: bytes, here: Collection[PeerId]) -> frozenset[PeerId]:
        """Who of those that are here wants somebody to take its copy over."""
        return frozenset(
            peer
            for peer, told in self.of(id_).items()
            if peer in here and told.state.code == LEAVING
        )

    def forget(self, id_: bytes) -> None:
        """It is over."""
        self._told.pop(id_, None)


@dataclass(frozen=True, slots=True)
class View:
    """What one agent sees of a preload at one moment. `asked_s`: for how long it has asked;
    `size_bytes`: of the content, where its manifest is here.
    """

    intent: Intent
    me: PeerId
    mine: State
    told: Mapping[PeerId, Told]
    here: frozenset[PeerId]  # members that know of preloads
    alive: frozenset[PeerId]  # those, and who may be back in a moment
    hearsay: frozenset[PeerId]  # in a large network: members without a link
    now: float
    asked_s: float
    size_bytes: int | None = None

    def lines(self) -> list[dict[str, Any]]:
        """One for each agent that is selected, or has it, or goes on with it: ourselves first."""
        shown = [(self.me, self.mine, 0.0)]
        shown += [
            (peer, told.state, self.now - told.at)
            for peer, told in sorted(self.told.items())
            if peer != self.me
        ]
        return [
            {
                "peer": format_peer_id(peer),
                "self": peer == self.me,
                "here": peer == self.me or peer in self.here,
                "chosen": self._is_chosen(peer, state),
                "state": state.stage.value,
                "code": state.code or None,
                "done_bytes": state.done_bytes,
                "total_bytes": state.total_bytes,
                "origin_bytes": state.origin_bytes,
                "bytes_per_s": state.bytes_per_s,
                "labels": state.labels,
                "heard_s": heard_s,
            }
            for peer, state, heard_s in shown
        ]

    def totals(self, lines: list[dict[str, Any]]) -> dict[str, Any]:
        """Sums over the selected agents; `origin_copies` of all that took something there.

        What others say counts to the size of the content, which their words alone tell only while
        nothing is known of it here.
        """
        chosen = [line for line in lines if line["chosen"]]
        size = self.size_bytes
        if size is None:
            size = max((line["total_bytes"] for line in lines), default=0)
        done = sum(min(line["done_bytes"], size) for line in chosen)
        rate = sum(line["bytes_per_s"] for line in chosen if line["state"] == Stage.PULLING.value)
        origin = sum(line["origin_bytes"] for line in lines)
        left = size * len(chosen) - done
        return {
            "agents": len(chosen),
            "complete": sum(_has_it(line, size) for line in chosen),
            "size_bytes": size,
            "done_bytes": done,
            "total_bytes": size * len(chosen),
            "bytes_per_s": rate,
            "eta_s": left / rate if rate > 0 and left > 0 else None,
            "origin_bytes": origin,
            "origin_copies": origin / size if size else None,
        }

    def unfinished(self, lines: list[dict[str, Any]]) -> set[str]:
        """The states of those who are waited for: selected, not at an end, and linked with us or
        gone just now, so that more may be heard of them.
        """
        near = {format_peer_id(peer) for peer in self.alive | {self.me}}
        waited = {line["state"] for line in lines if line["chosen"] and line["peer"] in near}
        return waited - _ENDED

    def is_over(self, lines: list[dict[str, Any]], idle_s: float = 0.0) -> bool:
        """Whether nothing more is to be expected: everybody who is selected has ended, and who was
        asked has answered, or had the time to. `idle_s`: for how long nobody was unfinished but
        idle ones; an agent that is selected anew because another went is idle for a moment.
        """
        chosen = any(line["chosen"] for line in lines)
        silent = self.here - self.told.keys()
        idle = {Stage.IDLE.value} if idle_s >= SILENT_S else set()
        return (
            (not silent or self.asked_s >= SILENT_S)
            and (chosen or self.asked_s >= SILENT_S)
            and self.unfinished(lines) <= idle
        )

    def _is_chosen(self, peer: PeerId, state: State) -> bool:
        members = self.alive | self.hearsay | {self.me}
        if peer not in members:
            return False
        others = members - {peer}
        return is_chosen(self.intent, peer, others, labels_of(state))


def _has_it(line: Mapping[str, Any], size_bytes: int) -> bool:
    """Who had all of it when the preload was cancelled has it still."""
    if line["state"] == Stage.CANCELLED.value:
        return bool(line["done_bytes"] >= size_bytes > 0)
    return bool(line["state"] == Stage.COMPLETE.value)


def labels_of(state: State) -> tuple[tuple[str, str], ...]:
    """What an agent says it is; nonsense is no label."""
    try:
        return parse_labels(state.labels)
    except UsageError:
        return ()


_ENDED = {stage.value for stage in ENDED}
