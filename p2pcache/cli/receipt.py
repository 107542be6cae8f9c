"""A pull's receipt as people read it: what came from where, and what it cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from p2pcache.cli.command import when
from p2pcache.cli.output import aligned, printable
from p2pcache.units import format_bytes, format_duration, format_rate

if TYPE_CHECKING:
    from collections.abc import Mapping

_PHASES = (
    ("resolve_s", "resolve"),
    ("adopt_s", "adopt"),
    ("fetch_s", "fetch"),
    ("verify_s", "verify"),
    ("materialise_s", "materialise"),
)


def receipt_lines(receipt: Mapping[str, Any]) -> list[str]:
    """The receipt in a screenful; a field that an agent does not send is left out."""
    first, *more = str(receipt.get("outcome", "?")).splitlines() or ["?"]
    lines = [
        f"{receipt.get('ref', '?')}  {first}",
        *(f"  {line.strip()}" for line in more if line.strip()),
        f"  manifest  {receipt.get('manifest') or '-'}",
        f"  started   {when(receipt.get('started_at'))}, "
        f"took {format_duration(receipt.get('seconds', 0))}  (pull {receipt.get('id', '?')})",
        "  bytes     " + _bytes_line(receipt),
    ]
    times = receipt.get("times") or {}
    spent = [f"{name} {format_duration(times[key])}" for key, name in _PHASES if times.get(key)]
    if spent:
        lines.append("  time      " + ", ".join(spent))
    bound = receipt.get("bound")
    if bound:
        lines.append(
            f"  bound     {bound['name']}: {format_rate(bound['bytes_per_s'])}, at best "
            f"{format_duration(bound['seconds'])}; this pull took {bound['ratio']:.2f} times that"
        )
    lines += [f"  {line}" for line in _source_table(receipt.get("sources") or [])]
    lines += [f"  note: {note}" for note in receipt.get("notes") or []]
    return [printable(line) for line in lines]


def _bytes_line(receipt: Mapping[str, Any]) -> str:
    parts = [
        f"{format_bytes(receipt.get('total_bytes', 0))} in all",
        f"{format_bytes(receipt.get('fetched_bytes', 0))} fetched",
        f"{format_bytes(_sum(receipt, 'reused_bytes', 'adopted_bytes'))} were here",
        f"{format_bytes(receipt.get('resumed_bytes', 0))} resumed",
        f"{format_bytes(receipt.get('duplicate_bytes', 0))} fetched twice",
        f"{receipt.get('retries', 0)} retries",
    ]
    return ", ".join(parts)


def _sum(receipt: Mapping[str, Any], *names: str) -> int:
    return sum(receipt.get(name, 0) for name in names)


def _source_table(sources: list[Mapping[str, Any]]) -> list[str]:
    if not sources:
        return []
    rows = [("source", "host", "bytes", "a stream", "stream time", "requests", "outcome")]
    for source in sources:
        seconds, count = source.get("seconds") or 0, source.get("bytes") or 0
        outcome = str(source.get("outcome", "?"))
        reason = source.get("reason")
        rows.append(
            (
                f"{source.get('name', '?')} ({source.get('kind', '?')})",
                str(source.get("host") or "-"),
                format_bytes(count),
                format_rate(count / seconds) if seconds and count else "-",
                format_duration(seconds),
                str(source.get("requests", 0)),
                f"{outcome}: {reason}" if reason else outcome,
            )
        )
    return aligned(rows)
