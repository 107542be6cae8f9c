"""The machine of one pull, step by step: the one place where events enter it and actions leave it.

Its clock starts at 0 with the pull and its chance comes from a seed, so that a recording of the
steps (`trace`) can be taken again exactly (`replay`). The account is kept of every step; a trace
costs nothing while nobody listens.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from p2pcache.transfer.account import Account
from p2pcache.transfer.machine import Download
from p2pcache.transfer.machine.owners import OwnerOptions, Owners

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from p2pcache.transfer import events as ev
    from p2pcache.transfer.account import Tally
    from p2pcache.transfer.machine import Statistics
    from p2pcache.transfer.policy import TransferOptions

SEEDS = 1 << 53  # exact in JSON, and in the float that chance is


@dataclass(frozen=True, slots=True)
class Setup:
    """All that a machine starts from. `names`: of each blob among peers, None where it has none.

    `origins`: those that will come up. `me` None: origins are not shared with anybody; else our
    name and those of the `members`.
    """

    blobs: tuple[ev.BlobSpec, ...]
    names: tuple[bytes | None, ...]
    piece_bytes: int
    streams: int
    options: TransferOptions
    seed: int
    hopeful: bool
    origins: tuple[str, ...]
    me: str | None
    members: tuple[str, ...]
    owners: OwnerOptions

    def machine(self) -> Download:
        """A fresh one, at time 0."""
        owners = None
        if self.me is not None:
            owners = Owners(self.me, self.members, self.owners, 0.0)
            for blob, name in zip(self.blobs, self.names, strict=True):
                if name is not None:
                    owners.add_blob(blob.index, name)
        return Download(
            self.blobs,
            piece_bytes=self.piece_bytes,
            streams=self.streams,
            options=self.options,
            chance=random.Random(self.seed).random,
            now=0.0,
            hopeful=self.hopeful,
            origins=self.origins,
            owners=owners,
        )


class Watcher(Protocol):
    """Who is told of the steps of a pull. Never waits, never raises."""

    def began(self, setup: Setup, paths: Sequence[str]) -> None:
        """Before the first step; `paths` of the blobs."""
        ...

    def step(self, now: float, events: Sequence[ev.Event], actions: Sequence[ev.Action]) -> None:
        """One step: what came in together, and what came out."""
        ...

    def ended(self, now: float, tally: Tally) -> None:
        """After the last step, with everything put away."""
        ...


class Steps:
    """A machine with its clock, its account and its watcher. `clock`: seconds, monotonic."""

    def __init__(
        self,
        setup: Setup,
        paths: Sequence[str],
        clock: Callable[[], float],
        watcher: Watcher | None = None,
    ) -> None:
        self._clock = clock
        self._zero = clock()
        self._now = 0.0
        self._machine = setup.machine()
        self._account = Account(setup.blobs)
        self._watcher = watcher
        if watcher is not None:
            watcher.began(setup, paths)

    def take(self, events: Sequence[ev.Event], reached: float = 0.0) -> list[ev.Action]:
        """Tell the machine; what to do now. `reached`: a wake that was waited for: it is not
        earlier than that, whatever rounding says.
        """
        self._now = max(self._now, reached, self._clock() - self._zero)
        actions = self._machine.handle_all(events, self._now)
        self._account.note(events, actions, self._now)
        if self._watcher is not None:
            self._watcher.step(self._now, events, actions)
        return actions

    def deadline(self, at: float) -> float:
        """A time of the machine on the clock."""
        return self._zero + at

    def statistics(self) -> Statistics:
        """Counters of the machine."""
        return self._machine.statistics()

    def close(self) -> float:
        """Nothing follows: seconds since the start, which the account's times add up to."""
        self._now = max(self._now, self._clock() - self._zero)
        self._account.close(self._now)
        if self._watcher is not None:
            self._watcher.ended(self._now, self._account.tally())
        return self._now

    def tally(self) -> Tally:
        """The account so far."""
        return self._account.tally()
