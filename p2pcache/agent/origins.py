"""The accounts of origins, kept on the disk and told to the members; `transfer.spending` decides.

A crash loses what was counted within FLUSH_S. A disk that does not take it loses nothing while the
agent runs: it is written later. Of what other members told it loses OTHERS_S: they tell it again.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

import trio

from p2pcache.content.peerid import format_peer_id
from p2pcache.errors import LocalFault, Untrusted
from p2pcache.net.sync.limits import Bucket
from p2pcache.store.origin_costs import OriginCost
from p2pcache.store.spent import SpentRow
from p2pcache.transfer.budgets import (
    KEEP_MONTHS,
    NO_LIMITS,
    OURS,
    Figure,
    Spent,
    begins_at,
    month_of,
    month_text,
)
from p2pcache.transfer.origin_use import OriginUse
from p2pcache.transfer.spending import Spending

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from p2pcache.agent.network import AgentNetwork
    from p2pcache.agent.network_slot import NetworkSlot
    from p2pcache.content.peerid import PeerId
    from p2pcache.lanes.odometer import Odometer
    from p2pcache.net.sync import spending as wire
    from p2pcache.store.origin_costs import Arrived
    from p2pcache.store.store import Store
    from p2pcache.transfer.budgets import Limits
    from p2pcache.transfer.costs import Price

_log = logging.getLogger(__name__)

FLUSH_S = 1.0  # between two looks at what arrived; then it is kept and told
AGAIN_S = 10.0  # after the disk failed
OTHERS_S = 60.0  # between two times that others' figures are kept: theirs may grow all the time
COALESCE_S = 0.02  # requests that begin and end together are told together
TELL_S = 0.1  # between two words, at least; the network's beat, where it has many links
WORDS_PER_S, WORDS_BURST = 20.0, 40.0  # of one member: twice what one says
NO_COSTS: Mapping[bytes, OriginCost] = {}
MAX_SHOWN = 256  # members of one origin in a status; the local socket's frames are bounded


class Origins:
    """See the module. `rows`: what was kept before; `me`: see `Spending`."""

    def __init__(
        self,
        store: Store,
        slot: NetworkSlot,
        budgets: Mapping[str, Limits],
        now: Callable[[], float],
        odometer: Odometer | None,
        rows: Iterable[SpentRow],
        me: bytes = OURS,
        prices: Mapping[str, Price] | None = None,
    ) -> None:
        kept = list(rows)
        self._prices = dict(prices or {})
        known = dict.fromkeys(self._prices, NO_LIMITS) | dict(budgets)  # what members tell of
        self.spending = Spending(known, now, map(_figure, kept), odometer, me)
        self._hosts = {row.origin: row.host for row in kept}
        self._store = store
        self._slot = slot
        self._now = now
        self._keep_at = self._others_at = -math.inf
        self._words: dict[PeerId, Bucket] = {}

    async def run(self) -> None:
        """Count, keep and tell until cancelled; what came last is `close`'s to keep."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._with_networks)
            nursery.start_soon(self._tell)
            while True:
                await self.spending.work.wait()
                self.spending.work = trio.Event()
                await trio.sleep(FLUSH_S)
                self.spending.look()
                await self._keep()

    def close(self) -> None:
        """Keep what is not kept yet, when no pull runs any more. Blocking."""
        more, arrived = self.spending.costs.take()
        if more or arrived:
            try:
                self._add(more, arrived)
            except LocalFault as exc:
                _log.warning("what origins cost is not kept: %s", exc.message)
        if rows := self._rows(self.spending.take_dirty()):
            try:
                self._put(rows)
            except LocalFault as exc:
                _log.warning("what was fetched of origins is not kept: %s", exc.message)

    async def _keep(self) -> None:
        now = trio.current_time()
        if now < self._keep_at:
            self.spending.work.set()
            return
        await self._keep_costs(now)
        others = now >= self._others_at
        taken = self.spending.take_dirty(others=others)
        if self.spending.is_dirty:
            self.spending.work.set()
        rows = self._rows(taken)
        if not rows:
            return
        if others:
            self._others_at = now + OTHERS_S
        try:
            await trio.to_thread.run_sync(self._put, rows)
        except LocalFault as exc:
            self.spending.not_kept(taken)
            self._keep_at = trio.current_time() + AGAIN_S
            _log.warning("what was fetched of origins is not kept yet: %s", exc.message)

    async def _keep_costs(self, now: float) -> None:
        more, arrived = self.spending.costs.take()
        if not more and not arrived:
            return
        try:
            await trio.to_thread.run_sync(self._add, more, arrived)
        except LocalFault as exc:
            self.spending.costs.not_kept(more, arrived)
            self.spending.work.set()
            self._keep_at = now + AGAIN_S
            _log.warning("what origins cost is not kept yet: %s", exc.message)

    def _add(self, more: list[tuple[bytes, int, OriginCost]], arrived: list[Arrived]) -> None:
        since = month_of(self._now()) - KEEP_MONTHS
        self._store.origin_costs.add(more, arrived, since=since)

    def _rows(self, taken: list[tuple[str, Figure]]) -> list[SpentRow]:
        rows = [
            SpentRow(f.origin, f.month, f.member, host, f.spent.bytes_total, f.spent.requests_total)
            for host, f in taken
        ]
        self._hosts |= {row.origin: row.host for row in rows}
        return rows

    def _put(self, rows: list[SpentRow]) -> None:
        self._store.spent.put(rows, since=month_of(self._now()) - KEEP_MONTHS)

    # -- members ---------------------------------------------------------------------------------

    async def _with_networks(self) -> None:
        while True:
            opened = await self._slot.wait_any()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._listen, opened)
                await self._slot.wait_closed(opened)
                nursery.cancel_scope.cancel()

    async def _listen(self, opened: AgentNetwork) -> None:
        from p2pcache.net.member import MemberDown

        self.spending.ledger.me = opened.peer_id
        self.spending.has_members = lambda: bool(opened.network.members())
        opened.network.on_spends = self._heard
        try:
            async with opened.network.watch() as changes:
                async for change in changes:
                    if isinstance(change, MemberDown):
                        self.spending.left(change.peer)
                        self._words.pop(change.peer, None)
                    else:
                        self.spending.news.set()
        finally:
            self.spending.has_members = lambda: False

    def _heard(self, peer: PeerId, news: wire.Spends) -> None:
        """See Network.on_spends. Raises Untrusted."""
        now = trio.current_time()
        if peer not in self._words:
            self._words[peer] = Bucket(WORDS_PER_S, WORDS_BURST, now)
        if not self._words[peer].take(1, now):
            raise Untrusted("a peer tells of origins more often than one may")
        for entry in news.entries:
            spent = Spent(entry.bytes_total, entry.requests_total)
            figure = Figure(entry.origin, entry.month, peer, spent)
            self.spending.hear(peer, figure, asks=entry.asks, running=entry.running)

    async def _tell(self) -> None:
        """Say what changed, soon; and again while an origin is asked, for words lapse. What found
        no room is said again too: it may be the last word.
        """
        from p2pcache.net.sync import spending as wire

        while True:
            await self.spending.news.wait()
            await trio.sleep(COALESCE_S)
            self.spending.news = trio.Event()
            opened = self._slot.current
            entries = tuple(
                wire.Entry(
                    figure.origin,
                    figure.month,
                    figure.spent.bytes_total,
                    figure.spent.requests_total,
                    asks,
                    min(running, wire.MAX_RUNNING),
                )
                for figure, asks, running in self.spending.said()
            )
            if opened is not None and entries:
                if not opened.network.tell_spends(wire.Spends(entries)):
                    self.spending.news.set()
                await trio.sleep(max(TELL_S, opened.network.beat_s))

    # -- what is shown ---------------------------------------------------------------------------

    async def of_month(self, month: int | None) -> list[dict[str, Any]]:
        """For `status --origins`; None: of this month. See `shown`."""
        wanted = month_of(self._now()) if month is None else month
        await self._keep_costs(trio.current_time())  # what came since the last beat counts, too
        costs = await trio.to_thread.run_sync(self._store.origin_costs.of_month, wanted)
        return self.shown(wanted, costs)

    def shown(
        self, month: int | None = None, costs: Mapping[bytes, OriginCost] = NO_COSTS
    ) -> list[dict[str, Any]]:
        """Of this month each origin with a budget or a price, and of this or an earlier one those
        that were asked.
        """
        current = month_of(self._now())
        month = current if month is None else month
        spending = self.spending
        uses = {use.key: use for use in spending.origins()}
        figures = dict(spending.ledger.of_month(month))
        for key in [*figures, *costs]:
            if key not in uses:
                host = self._hosts.get(key) or (costs[key].host if key in costs else "")
                uses[key] = OriginUse(host or key.hex(), NO_LIMITS, key)
        return [
            self._row(use, month, figures.get(key, {}), costs.get(key, OriginCost(use.host)))
            for key, use in uses.items()
            if key in figures
            or key in costs
            or (month == current and (use.limits is not NO_LIMITS or use.host in self._prices))
        ]

    def _row(
        self, use: OriginUse, month: int, figures: dict[bytes, Spent], cost: OriginCost
    ) -> dict[str, Any]:
        limits, now, wall = use.limits, trio.current_time(), self._now()
        me = self.spending.ledger.me
        total = use.total_bytes(self.spending.ledger, month)
        running = use.askers.running(now)
        asking = set(running)
        if use.asks(now):
            asking.add(me)
            running[me] = use.running
        most = sorted(figures, key=lambda who: (who != me, -figures[who].bytes_total))
        heard = figures.keys() - (use.limits.unheard - {me})
        requests = sum(figures[who].requests_total for who in heard)
        members = [*most, *sorted(asking - figures.keys())][:MAX_SHOWN]
        return {
            "host": use.host,
            "month": month_text(month),
            "renews_at": begins_at(month + 1),
            "limits": {
                "requests_per_s": limits.requests_per_s,
                "concurrent": limits.concurrent,
                "bytes_per_s": limits.bytes_per_s,
                "month_bytes": limits.month_bytes,
            },
            "bytes": total,
            "requests": requests,
            "errors": cost.errors,
            "sent_bytes": cost.sent_bytes,
            "sent_objects": cost.sent_requests,
            "sent_requests": cost.sent_requests,
            "content_bytes": cost.content_bytes,
            "copies": total / cost.content_bytes if cost.content_bytes else None,
            "cost": self._cost(use.host, total, requests + cost.sent_requests),
            "used_up": limits.month_bytes is not None and total >= limits.month_bytes,
            "members": [
                {
                    "peer": self._name(who),
                    "ours": who in (OURS, me),
                    "bytes": figures.get(who, Spent()).bytes_total,
                    "requests": figures.get(who, Spent()).requests_total,
                    "asks_now": who in asking,
                    "running": running.get(who, 0),
                    "heard": who == me or who not in limits.unheard,
                }
                for who in members
            ],
            "parked": [
                {"peer": self._name(who or me), "ours": who == OURS, "until": until}
                for who, until in sorted(use.parked.items())
                if until > wall
            ],
        }

    def _cost(self, host: str, bytes_total: int, requests: int) -> dict[str, Any] | None:
        price = self._prices.get(host)
        if price is None:
            return None
        return {"amount": round(price.of(bytes_total, requests), 6), "currency": price.currency}

    def _name(self, member: bytes) -> str | None:
        """A peer id; None: this agent, while it had no identity."""
        return None if member == OURS else format_peer_id(member)


def _figure(row: SpentRow) -> Figure:
    spent = Spent(row.bytes_total, row.requests_total)
    return Figure(row.origin, row.month, row.member, spent)
