"""One preload at this agent: how far it is, and what follows from progress and failures.

Pure but for the cancel scope that it keeps; `now` is trio's clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from p2pcache.errors import Denied, Interrupted, NotFound, P2PCacheError, Unavailable
from p2pcache.net.sync.preloads import Stage, State

if TYPE_CHECKING:
    import trio

    from p2pcache.content.peerid import PeerId
    from p2pcache.content.preload import Intent
    from p2pcache.store.preloads import PreloadRow
    from p2pcache.transfer.progress import Progress

FIRST_RETRY_S, LAST_RETRY_S = 2.0, 300.0
TRIES = 5  # then it is called a failure; it is tried on all the same
PEER_ID_START = "12D3KooW"  # of every Ed25519 peer id: a source of that name is a peer


@dataclass(slots=True)
class Job:
    """See the module. `at`: when it is tried (again)."""

    row: PreloadRow
    state: State
    at: float = 0.0
    tries: int = 0
    cut: bool = False  # its pull is stopped because it is no longer to be
    scope: trio.CancelScope | None = None  # of the pull that runs
    earlier_bytes: int = 0  # from origins, by pulls before this one
    watchers: dict[PeerId, float] = field(default_factory=dict)  # until when
    told: State | None = None  # the last that everybody was told
    hidden: bool = True  # restricted content: who has it is not told to everybody
    answered: frozenset[PeerId] = frozenset()  # who wanted it taken over when it was tried last
    signer_reads: bool = False  # its signer may read it, or is the network's admin

    @property
    def intent(self) -> Intent:
        """What is wished."""
        assert self.row.intent is not None
        return self.row.intent

    @property
    def turned(self) -> bool:
        """Whether everybody is to be told something new."""
        old, new = self.told, self.state
        return old is None or (old.stage, old.code) != (new.stage, new.code)

    def turn(self, stage: Stage, code: str) -> None:
        """It is elsewhere now."""
        if (self.state.stage, self.state.code) != (stage, code):
            self.state = replace(self.state, stage=stage, code=code, bytes_per_s=0.0)

    def has(self, size_bytes: int) -> None:
        """All of it is here, or (0) none of it is known to be."""
        total = max(size_bytes, self.state.total_bytes)
        self.state = replace(self.state, done_bytes=size_bytes, total_bytes=total)

    def progress(self, progress: Progress) -> None:
        """The pull that runs tells how far it is."""
        kept = sum(
            count for name, count in progress.sources.items() if not name.startswith(PEER_ID_START)
        )
        self.state = replace(
            self.state,
            done_bytes=progress.done_bytes,
            total_bytes=max(progress.total_bytes, self.state.total_bytes),
            origin_bytes=self.earlier_bytes + kept,
            bytes_per_s=progress.bytes_per_s,
        )

    def count(self, origin_bytes: int) -> None:
        """A pull ended; so much origins sent to it."""
        self.earlier_bytes += origin_bytes
        self.state = replace(self.state, origin_bytes=self.earlier_bytes, bytes_per_s=0.0)

    def failed(self, error: P2PCacheError, now: float) -> None:
        """A try failed; another follows, later each time."""
        self.tries += 1
        self.at = now + min(LAST_RETRY_S, FIRST_RETRY_S * 2.0 ** (self.tries - 1))
        match error:
            case Denied():
                stage = Stage.REFUSED
            case NotFound() | Unavailable() | Interrupted() if self.tries < TRIES:
                stage = Stage.WAITING
            case _:
                stage = Stage.FAILED
        self.turn(stage, error.code)
