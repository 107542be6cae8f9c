"""Between faults (what a worker saw) and errors (what a caller gets): one table each way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pcache import errors
from p2pcache.lanes.orders import Fault, FaultKind
from p2pcache.transfer.budgets import BudgetSpent, OthersTurn

if TYPE_CHECKING:
    from collections.abc import Sequence

_ERROR_OF: dict[FaultKind, type[errors.P2PCacheError]] = {
    FaultKind.UNAVAILABLE: errors.Unavailable,
    FaultKind.RANGE_IGNORED: errors.Unavailable,
    FaultKind.NOT_FOUND: errors.NotFound,
    FaultKind.DENIED: errors.Denied,
    FaultKind.UNTRUSTED: errors.Untrusted,
    FaultKind.LOCAL: errors.LocalFault,
    FaultKind.DISK_FULL: errors.DiskFull,
    FaultKind.SPENT: errors.Unavailable,
    FaultKind.TURN: errors.Unavailable,
}
_HINT_OF: dict[FaultKind, str] = {
    FaultKind.UNAVAILABLE: "try again later: what was verified is kept",
    FaultKind.NOT_FOUND: "check the name and the revision",
    FaultKind.DENIED: "log in (HF_TOKEN or `hf auth login`; for buckets the variables in "
    "docs/cli.md; for registries `docker login`) or ask for access, then try again",
    FaultKind.UNTRUSTED: "the source sends other bytes than it promised; those were dropped",
    FaultKind.LOCAL: "look at `p2pcache doctor`",
    FaultKind.SPENT: "raise its `month=` in the setting `origins.budgets` of every agent, or wait "
    "until it renews: what was verified is kept",
    FaultKind.TURN: "raise its `concurrent=` in the setting `origins.budgets` of every agent, or "
    "try later: what was verified is kept",
    FaultKind.DISK_FULL: "free space (`p2pcache gc`), then try again: what was verified is kept",
}

MAX_LOST = 8  # peers that are named in a message


OURS = (errors.LocalFault, errors.UsageError)
"""What ends a pull as it is, with its hint: no other source would do better, nor a later try."""


def fault_of(exc: errors.P2PCacheError) -> Fault:
    """The fault that an adapter's error stands for; those of `OURS` end the pull before."""
    if isinstance(exc, BudgetSpent):
        return Fault(FaultKind.SPENT, exc.message)
    retry_after_s = exc.retry_after_s if isinstance(exc, errors.Unavailable) else None
    if isinstance(exc, OthersTurn):
        return Fault(FaultKind.TURN, exc.message, retry_after_s=retry_after_s)
    for kind in (
        FaultKind.DISK_FULL,  # before LOCAL: it is a subclass
        FaultKind.LOCAL,
        FaultKind.UNTRUSTED,
        FaultKind.DENIED,
        FaultKind.NOT_FOUND,
    ):
        if isinstance(exc, _ERROR_OF[kind]):
            return Fault(kind, exc.message)
    return Fault(FaultKind.UNAVAILABLE, exc.message, retry_after_s=retry_after_s)


def local_error(fault: Fault) -> errors.LocalFault:
    """The error of a fault of our own machine."""
    kind = errors.DiskFull if fault.kind is FaultKind.DISK_FULL else errors.LocalFault
    return kind(fault.message, hint=_HINT_OF[fault.kind])


def no_source(
    what: Sequence[str],
    count: int,
    faults: Sequence[tuple[str, Fault]],
    lost: Sequence[tuple[str, float]] = (),
) -> errors.P2PCacheError:
    """The error of a pull that nobody can finish: who was asked and what each said; who held it,
    and how many seconds ago each left.
    """
    names = ", ".join(f"`{name}`" for name in what[:3]) + (", ..." if len(what) > 3 else "")
    tried = "; ".join(f"{name}: {fault.message}" for name, fault in faults) or "no source at all"
    message = f"no source brought {len(what)} of {count} files ({names})\ntried: {tried}"
    if lost:
        seen = ", ".join(f"{name} (last seen {ago_s:.0f} s ago)" for name, ago_s in lost[:MAX_LOST])
        message += f"\nheld by: {seen}" + (", ..." if len(lost) > MAX_LOST else "")
        if not faults:
            hint = "start one of them again, or try later: what was verified is kept"
            return errors.Unavailable(message, hint=hint)
    if not faults:
        return errors.NotFound(
            message,
            hint="check the ref, or start an agent that has it; with --offline no origin is asked",
        )
    worst = faults[0][1]
    return _ERROR_OF[worst.kind](message, hint=_HINT_OF.get(worst.kind))
