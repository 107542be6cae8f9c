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


_WHERE = (
    ("owner_s", "waiting for an owner"),
    ("peers_s", "from peers"),
    ("origin_s", "from the origin"),
    ("both_s", "from both"),
    ("disk_s", "disk and verify"),
    ("idle_s", "idle"),
)
_DUPLICATES = (
    ("endgame", "asked for twice at the end"),
    ("race", "brought by another too"),
    ("wrong_bytes", "wrong bytes"),
    ("restart", "begun again"),
)
_TERMS = {"origin": "the origin", "link": "this node's link", "swarm": "the links of all"}
MAX_SHOWN = 12  # incidents; `--json` has all that were kept


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
    where = receipt.get("where") or {}
    went = [f"{name} {format_duration(where[key])}" for key, name in _WHERE if where.get(key)]
    if went:
        lines.append("  fetch     " + ", ".join(went))
    duplicates = receipt.get("duplicates") or {}
    causes = [f"{n} {format_bytes(duplicates[k])}" for k, n in _DUPLICATES if duplicates.get(k)]
    if causes:
        lines.append("  twice     " + ", ".join(causes))
    copies = receipt.get("origin_copies")
    if copies:
        heard = copies.get("heard")
        lines.append(
            f"  copies    {copies['own']:.2f} left an origin for this node"
            + ("" if heard is None else f", {heard:.2f} for all nodes that it heard of")
        )
    lines += _bound_lines(receipt.get("bound"))
    lines += [f"  {line}" for line in _source_table(receipt.get("sources") or [])]
    lines += _incident_lines(receipt)
    lines += [f"  note: {note}" for note in receipt.get("notes") or []]
    return [printable(line) for line in lines]


def _bound_lines(bound: Mapping[str, Any] | None) -> list[str]:
    if not bound:
        return []
    lines = [
        f"  bound     {bound['name']}: {format_rate(bound['bytes_per_s'])}, at best "
        f"{format_duration(bound['seconds'])}; this pull took {bound['ratio']:.2f} times that"
    ]
    if bound.get("term"):
        origin = bound.get("origin_bytes_per_s", 0)
        lines.append(
            f"            set by {_TERMS.get(bound['term'], bound['term'])}; best second: "
            f"this link {format_rate(bound.get('link_bytes_per_s', 0))}, the origin "
            f"{format_rate(origin) if origin else '-'} to all that were heard"
        )
    return lines


def _incident_lines(receipt: Mapping[str, Any]) -> list[str]:
    incidents = receipt.get("incidents") or []
    lines = [f"  after {i['at_s']:.1f}s: {i['text']}" for i in incidents[:MAX_SHOWN]]
    more = len(incidents) - MAX_SHOWN + receipt.get("more_incidents", 0)
    return [*lines, f"  and {more} more like these"] if more > 0 else lines


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
