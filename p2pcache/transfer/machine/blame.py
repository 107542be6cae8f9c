"""What a fault costs its source in this pull. A ban for longer is `trust`'s to prove."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from p2pcache.lanes.orders import BLOCK_BYTES, FaultKind
from p2pcache.sources.port import SourceKind
from p2pcache.transfer import events as ev
from p2pcache.transfer.policy import backoff_s

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from p2pcache.lanes.orders import Fault
    from p2pcache.transfer.machine.blobs import BlobState
    from p2pcache.transfer.machine.sources import SourceState
    from p2pcache.transfer.policy import TransferOptions

BUSY_S = 0.5  # a full queue of a peer moves on in about this time; others are asked meanwhile
REFUSES_S = 5.0  # a queue that is this long is no help: asked again as seldom
BUSY_MOST_S = 5.0  # that a peer may ask for: what our own byte server says at most
MAX_MISSES = 3  # a peer's limit of 8 is then 1
TURN_BEAT_S = 1.0  # a turn may come sooner than was said: others end
UNASKED = frozenset({FaultKind.SPENT, FaultKind.TURN})  # it was our doing: no request was made
LACKS_IT = frozenset({404, 409, 410, 416})  # what a peer answers that has not what it told
BUSY = 503

WORST_FIRST = [
    FaultKind.DENIED,
    FaultKind.UNTRUSTED,
    FaultKind.SPENT,
    FaultKind.NOT_FOUND,
    FaultKind.UNAVAILABLE,
    FaultKind.TURN,
    FaultKind.RANGE_IGNORED,
    FaultKind.LOCAL,
    FaultKind.DISK_FULL,
]


def cause_of(event: ev.Ended | ev.BatchEnded, *, endgame: bool = False, race: bool = False) -> str:
    """Why what a request brought in vain was in vain: "wrong_bytes" (they did not match, or were
    fetched to be compared), "endgame" (asked for twice on purpose), "race" (another member brought
    the same from its origin), "restart" (it broke, or was stopped, within a block).
    """
    if isinstance(event, ev.Ended):
        faults: tuple[Fault | None, ...] = (event.fault,)
        wrong = event.job.compare
    else:
        faults, wrong = event.faults, False
    if wrong or any(f is not None and f.kind is FaultKind.UNTRUSTED for f in faults):
        return "wrong_bytes"
    return "endgame" if endgame else "race" if race else "restart"


def stalled(
    source: SourceState, options: TransferOptions, chance: Callable[[], float], now: float
) -> None:
    """It did not move: left alone for a growing while. Its other streams are counted once."""
    if now < source.not_before:
        return
    source.failures += 1
    source.retries += 1
    pause_s = options.stall_backoff_s * 2.0 ** min(source.failures - 1, 6)
    source.not_before = now + pause_s * (1.0 + 0.2 * chance())


def accuse(
    blob: BlobState, sources: Mapping[str, SourceState], fault: Fault, out: list[ev.Action]
) -> None:
    """The whole digest was wrong, also with everything fetched twice; all of it is to come again.

    Who sent all of it alone lied. Of several nobody knows who, and some may be honest: each that
    has all of it, origins first, is asked for it alone, once. Where nobody is left, all that sent
    some are left out.
    """
    index = blob.spec.index
    senders = sorted(name for name, mask in blob.by.items() if mask) or sorted(sources)
    whole = [
        each
        for each in sources.values()
        if each.name not in blob.alone and each.may(index) and each.has(blob) == blob.full
    ]
    if len(senders) == 1 or not whole:
        for name in senders:
            sources[name].excluded[index] = fault
            out.append(ev.Banned(name, fault.message))
        whole = [each for each in whole if each.name not in senders] if blob.alone else []
    if whole:
        chosen = min(whole, key=lambda each: (each.is_peer, each.name))
        blob.alone.add(chosen.name)
        for each in sources.values():
            each.barred[index] = blob.full
        del chosen.barred[index]


def blame(
    source: SourceState,
    blob: BlobState,
    ended: ev.Ended | None,
    fault: Fault,
    options: TransferOptions,
    chance: Callable[[], float],
    now: float,
    out: list[ev.Action],
) -> None:
    """Lower a source's standing by what its fault says; `ended` None: the blob was in a batch."""
    source.last_fault = fault
    index = blob.spec.index
    if source.is_peer and fault.http_status in LACKS_IT:
        _lacks(source, blob, ended, options, chance, now)
        return
    match fault.kind:
        case FaultKind.UNAVAILABLE:
            _unavailable(source, fault, options, chance, now)
        case FaultKind.RANGE_IGNORED:
            source.ranged = False
            if source.is_peer:  # lanes of ours have ranges
                source.excluded[index] = fault
        case FaultKind.NOT_FOUND | FaultKind.DENIED | FaultKind.SPENT:
            source.excluded[index] = fault
        case FaultKind.UNTRUSTED:
            is_peer = source.kind is SourceKind.PEER  # others' bytes: by proven maps only
            if is_peer and fault.arrived is not None and ended is not None:
                block = 1 << (ended.done // BLOCK_BYTES)  # the one that differed
                source.barred[index] = source.barred.get(index, 0) | block
                stalled(source, options, chance, now)
                return
            source.strikes[index] = source.strikes.get(index, 0) + 1
            source.retries += 1
            enough = 1 if source.is_peer and fault.arrived is not None else options.strikes
            if source.strikes[index] >= enough:
                source.excluded[index] = fault
                if source.kind is SourceKind.KUBO:
                    source.gone = fault.message  # who lied once is asked for nothing more
                out.append(ev.Banned(source.name, fault.message))
        case FaultKind.TURN:
            wait_s = fault.retry_after_s or 0.0
            source.asked_s = max(source.asked_s, min(wait_s, options.retry_after_cap_s))
            source.not_before = max(source.not_before, now + min(wait_s, TURN_BEAT_S))
        case FaultKind.LOCAL | FaultKind.DISK_FULL:
            pass  # the driver ends the pull with it; the source did nothing wrong
        case _:
            assert_never(fault.kind)


def _unavailable(
    source: SourceState,
    fault: Fault,
    options: TransferOptions,
    chance: Callable[[], float],
    now: float,
) -> None:
    if now < source.not_before:
        return  # its other streams fail for the same reason: counted once
    asked = min(fault.retry_after_s or 0.0, options.retry_after_cap_s)
    if source.is_peer and fault.http_status == BUSY:
        source.retries += 1
        source.busy_until = now + min(max(BUSY_S, asked), BUSY_MOST_S) * (0.5 + 0.5 * chance())
        if source.refuses_since is None:
            source.refuses_since = now
        elif now >= source.refuses_since + REFUSES_S:  # what it holds is as good as not there
            source.not_before = now + REFUSES_S
        return
    source.failures += 1
    source.retries += 1
    source.asked_s = max(source.asked_s, asked)
    own = backoff_s(source.failures, chance(), options)
    source.not_before = now + max(asked * (1.0 + 0.1 * chance()), own)


def _lacks(
    source: SourceState,
    blob: BlobState,
    ended: ev.Ended | None,
    options: TransferOptions,
    chance: Callable[[], float],
    now: float,
) -> None:
    """It told that it has this: that word is worth nothing now, and the others less."""
    source.retries += 1
    source.misses = min(source.misses + 1, MAX_MISSES)
    if source.holds is not None:
        asked = blob.full if ended is None else blob.upto(ended.done, ended.job.end)
        left = source.holds.get(blob.spec.index, 0) & ~asked
        if left:
            source.holds[blob.spec.index] = left
        else:
            source.holds.pop(blob.spec.index, None)
    source.not_before = max(source.not_before, now + backoff_s(source.misses, chance(), options))
