"""What a worker's fault is to whoever pushes: the table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pcache.errors import (
    Denied,
    DiskFull,
    LocalFault,
    NotFound,
    P2PCacheError,
    Unavailable,
    Untrusted,
)
from p2pcache.lanes.faults import CHANGED
from p2pcache.lanes.orders import FaultKind

if TYPE_CHECKING:
    from p2pcache.lanes.orders import Fault

DAMAGED_HERE = "`p2pcache verify --repair` fetches damaged blocks again"
CHANGED_HERE = "push it again when nobody writes the file"
AGAIN = "push it again when that is mended: what it took is not sent twice"

_ERRORS: dict[FaultKind, type[P2PCacheError]] = {
    FaultKind.UNAVAILABLE: Unavailable,
    FaultKind.NOT_FOUND: NotFound,
    FaultKind.DENIED: Denied,
    FaultKind.UNTRUSTED: Untrusted,
    FaultKind.LOCAL: LocalFault,
    FaultKind.DISK_FULL: DiskFull,
}


def error_of(fault: Fault, denied_hint: str | None = None) -> P2PCacheError:
    """The error for it, with what to do."""
    kind = _ERRORS.get(fault.kind, Unavailable)
    hint = None
    if kind is Unavailable:
        hint = AGAIN
    elif kind is Denied:
        hint = denied_hint
    elif kind is LocalFault:
        hint = CHANGED_HERE if CHANGED in fault.message else DAMAGED_HERE
    return kind(fault.message, hint=hint)
