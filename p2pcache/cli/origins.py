"""What the network fetched of each origin, for people."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from p2pcache.cli.output import printable
from p2pcache.units import format_bytes, format_count, format_duration, format_progress, format_rate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from p2pcache.agent.localapi.origin_use import OriginMember, OriginStatus, ParkedMember


def origin_lines(origins: Sequence[OriginStatus]) -> list[str]:
    """One paragraph an origin: the budget, the sum, each agent, who waits."""
    if not origins:
        return ["no origin has a budget, and none was asked in that month"]
    return [printable(line) for origin in origins for line in _of_one(origin)]


def _of_one(origin: OriginStatus) -> list[str]:
    limits = origin["limits"]
    budget = limits["month_bytes"]
    count = origin["bytes"]
    sum_ = format_bytes(count) if budget is None else format_progress(count, int(budget))
    renews = time.strftime("%Y-%m-%d", time.gmtime(origin["renews_at"]))
    asked = format_count(origin["requests"], "request")
    lines = [f"{origin['host']}  {sum_} in {origin['month']}, {asked}"]
    told = _limits(limits)
    if told:
        lines.append(f"  budget  {told}; the month renews on {renews} (UTC)")
    if origin["used_up"]:
        lines.append("  used up: no agent asks it before then")
    lines += _cost(origin)
    lines += [_member(member) for member in origin["members"]]
    now = time.time()
    for parked in origin["parked"]:
        left = format_duration(max(0.0, parked["until"] - now))
        lines.append(f"  {_who(parked)}  was told to wait, {left} more")
    return lines


def _cost(origin: OriginStatus) -> list[str]:
    """What an older agent does not tell is left out."""
    parts = []
    copies = origin.get("copies")
    if copies is not None:
        parts.append(f"{copies:.2f} copies of {format_bytes(origin['content_bytes'])}")
    if origin.get("errors"):
        parts.append(f"{format_count(origin['errors'], 'error')} here")
    if origin.get("sent_bytes"):
        parts.append(f"{format_bytes(origin['sent_bytes'])} sent there")
    cost = origin.get("cost")
    if cost is not None:
        parts.append(f"{cost['amount']:.2f} {cost['currency']}")
    return [f"  cost    {', '.join(parts)}"] if parts else []


def _limits(limits: dict[str, float | None]) -> str:
    requests, concurrent = limits["requests_per_s"], limits["concurrent"]
    rate, month = limits["bytes_per_s"], limits["month_bytes"]
    parts = [
        "" if requests is None else f"{requests:g} requests/s",
        "" if concurrent is None else f"{concurrent:g} at once",
        "" if rate is None else format_rate(rate),
        "" if month is None else f"{format_bytes(month)} a month",
    ]
    return ", ".join(part for part in parts if part)


def _member(member: OriginMember) -> str:
    count, asked = format_bytes(member["bytes"]), format_count(member["requests"], "request")
    now = f"  asks now, {member['running']} at once" if member["asks_now"] else ""
    unheard = "" if member["heard"] else "  (not counted)"
    return f"  {_who(member)}  {count}, {asked}{now}{unheard}"


def _who(member: OriginMember | ParkedMember) -> str:
    if member["peer"] is None:
        return "this agent"
    return member["peer"] + (" (this agent)" if member["ours"] else "")
