"""Copies that a preload keeps here and that are in the way: others are asked to take them over.

Who wants to evict such a copy says so first: it is idle with the code `leaving`. From then on
nobody counts it as a holder, so who is selected and has no copy fetches one, and who has one relies
on it no more. It goes when enough others say, once all had the time to hear this and to look again,
that they have it, whatever their rank: none of them relies on ours.

Pure; `now` is trio's clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from p2pcache.agent.preload.reports import LEAVING
from p2pcache.net.sync.preloads import Stage

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from p2pcache.agent.preload.reports import Told
    from p2pcache.content.peerid import PeerId

HURRY_S = 1.0  # who hears this looks into its store within so long
SETTLE_S = 5.0  # until a word on who has it is one of an agent that heard this, and looked
LEAVING_S = 600.0  # then we keep it after all, until the next eviction that needs the room
WAIT_S = 45.0  # of an eviction, for others to take over; what comes later serves the next one
_ABLE = frozenset(
    stage.value for stage in (Stage.IDLE, Stage.WAITING, Stage.PULLING, Stage.COMPLETE)
)


class Handovers:
    """The preloads whose copies are to go, and since when."""

    def __init__(self) -> None:
        self._since: dict[bytes, float] = {}

    def begin(self, ids: Iterable[bytes], now: float) -> None:
        """Leave these, from now on; those that are being left already go on."""
        self._since = {id_: at for id_, at in self._since.items() if now < at + LEAVING_S}
        for id_ in ids:
            self._since.setdefault(id_, now)

    def end(self, id_: bytes) -> None:
        """It went."""
        self._since.pop(id_, None)

    def leaves(self, id_: bytes, now: float) -> bool:
        """Whether ours is not to be counted."""
        since = self._since.get(id_)
        return since is not None and now < since + LEAVING_S

    def settled(self, id_: bytes, now: float) -> bool:
        """Whether words on it that are heard now count."""
        return self.leaves(id_, now) and now >= self._since[id_] + SETTLE_S

    def is_taken_over(
        self,
        id_: bytes,
        replicas: int,
        told: Mapping[PeerId, Told],
        here: Collection[PeerId],
        now: float,
    ) -> bool:
        """Whether ours may go: enough of those that are here have it, and said so late enough."""
        if not self.settled(id_, now):
            return False
        late = self._since[id_] + SETTLE_S
        have = [
            peer
            for peer, word in told.items()
            if peer in here and word.state.stage is Stage.COMPLETE and word.at >= late
        ]
        return len(have) >= replicas


def is_possible(lines: Iterable[Mapping[str, Any]], replicas: int) -> bool:
    """Whether enough others are selected, here, and not unable to, as one is that wants its own
    copy taken over. `lines`: see View.
    """
    able = [
        line for line in lines
        if not line["self"] and line["here"] and line["chosen"] and line["state"] in _ABLE
        and line["code"] != LEAVING
    ]  # fmt: skip
    return len(able) >= replicas
