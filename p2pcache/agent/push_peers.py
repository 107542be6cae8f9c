"""Other agents of the network as a destination: so many are to have the content, and to keep it.

They bring it by a preload (docs/preload.md), which selects this agent and as many others as are
wanted, this one ranked last of them: no eviction takes a copy of the others', and ours is free to
go. A push that is repeated joins the preload that is there.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import trio

from p2pcache.agent.preload.operations import KEEP_S, check_settings
from p2pcache.agent.share import opened_network
from p2pcache.content import cid as cids
from p2pcache.content import refs
from p2pcache.content.preload import MAX_COUNT, score, sign_intent
from p2pcache.destinations.port import Amount, Pushed
from p2pcache.errors import Denied, Unavailable, UsageError
from p2pcache.net.sync import preloads as wire
from p2pcache.net.sync.preloads import Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from p2pcache.agent.network import AgentNetwork
    from p2pcache.agent.parts import Parts
    from p2pcache.agent.preload.reports import View
    from p2pcache.content.peerid import PeerId
    from p2pcache.content.preload import Intent
    from p2pcache.destinations.port import Content, Place

TRIES = 20_000  # draws until one ranks us as it has to: about one for each member, 0.3 ms each
DRAWS = 8  # good ones, of which the one counts that sends least
MEET_S = 5.0  # for members to be linked: those that are here take milliseconds
LOOK_S = 0.1
ASK_S = 20.0  # between two questions; who was asked tells for a minute
STILL_S = 120.0  # without a byte or a word of anybody: they have patience of their own before


@dataclass(frozen=True, slots=True)
class PeersPlan:
    """`chosen`: who is to have it; `lacking`: those of them that have not said that they do.
    `running`: a preload of ours that does it already.
    """

    chosen: tuple[PeerId, ...]
    lacking: int
    intent: Intent
    running: bool
    missing: Amount


class PeersDestination:
    """The members of one network; `replicas` of them."""

    name = "peers"
    endpoint: str | None = None

    def __init__(self, parts: Parts, opened: AgentNetwork, replicas: int) -> None:
        self._parts = parts
        self._opened = opened
        self._replicas = replicas
        self.where = f"{replicas} other agents" if replicas > 1 else "1 other agent"

    async def plan(self, content: Content) -> PeersPlan:
        """Who is to have it, of those that are here now. Raises Unavailable when these are too few:
        nothing is asked of anybody then.
        """
        members = await self._members()
        running = self._running(content, members)
        if running is None:
            intent = await trio.to_thread.run_sync(self._draw, content, members)
        else:
            intent = running
        chosen = _chosen(intent, members, self._replicas)
        have, _ = self._opened.network.possessors(intent.manifest)
        lacking = len(set(chosen) - have)
        size, count = content.total_bytes, len(content.manifest.files)
        amount = Amount(bytes=lacking * size, objects=lacking * count)
        return PeersPlan(chosen, lacking, intent, running is not None, amount)

    def missing(self, plan: PeersPlan) -> Amount:
        """See the port. What a part of them has of it already is not counted."""
        return plan.missing

    async def send(self, content: Content, plan: PeersPlan, watch: Callable[[int], None]) -> Pushed:
        """Have them bring it, and wait until so many said that they have it, verified. If
        cancelled, they go on: `p2pcache preload cancel` ends it. Raises Unavailable when fewer of
        them got it, Denied when they may not.
        """
        if not plan.running:
            await self._parts.preloads.issue(self._opened, plan.intent)
        there = await self._wait(plan.intent, content, watch)
        note = (
            f"kept by {', '.join(sorted(map(_short, there)))} for {KEEP_S // 86400} days at least "
            f"(`p2pcache preload show {plan.intent.id.hex()[:12]}`)"
        )
        root = cids.format_cid(plan.intent.manifest)
        return Pushed(plan.missing, content.root, ref=root, notes=(note,))

    async def aclose(self) -> None:
        """Nothing is open."""

    # -- who --------------------------------------------------------------------------------------

    async def _members(self) -> frozenset[PeerId]:
        """Who is here and knows of preloads. Raises Unavailable when these are too few."""
        here: frozenset[PeerId] = frozenset()
        with trio.move_on_after(MEET_S):
            while len(here) < self._replicas:
                here = frozenset(
                    one.peer
                    for one in self._opened.network.members()
                    if one.version >= (1, wire.MINOR)
                )
                await trio.sleep(0 if len(here) >= self._replicas else LOOK_S)
        if len(here) < self._replicas:
            raise Unavailable(
                f"{self._replicas} copies need as many other agents, and {len(here)} are here: "
                "nothing was sent",
                hint="`p2pcache peers` lists them; start more, or ask for fewer --replicas",
            )
        return here

    def _running(self, content: Content, members: Collection[PeerId]) -> Intent | None:
        """A preload of ours that does the same, and for long enough."""
        manifest, half = content.manifest.cid(), self._parts.now() + KEEP_S / 2
        for row in self._parts.preloads.book.intents():
            intent = row.intent
            if (
                intent is not None
                and row.cancel is None
                and intent.signer == self._opened.peer_id
                and (intent.manifest, intent.replicas) == (manifest, self._replicas)
                and intent.nodes == str(self._replicas + 1)
                and intent.expires_at >= half
                and _above(intent.id, self._opened.peer_id, members) == self._replicas
            ):
                return intent
        return None

    def _draw(self, content: Content, members: Collection[PeerId]) -> Intent:
        """A preload that ranks exactly so many members before us; of some such the one whose
        members have most. Blocking.
        """
        me, drawn = self._opened.peer_id, 0
        best: tuple[int, Intent] | None = None
        holders, _ = self._opened.network.possessors(content.manifest.cid())
        for _ in range(TRIES):
            intent = self._intent(content)
            if _above(intent.id, me, members) != self._replicas:
                continue
            have = len(holders & set(_chosen(intent, members, self._replicas)))
            best = (have, intent) if best is None or have > best[0] else best
            drawn += 1
            if drawn == DRAWS or not holders:
                break
        if best is None:
            raise Unavailable("no choice of agents was found", hint="run it again")
        return best[1]

    def _intent(self, content: Content) -> Intent:
        """Signed, with a number of its own."""
        now = int(self._parts.now())
        ref, revision = _told(self._parts, content)
        return sign_intent(
            self._opened.identity,
            ref=ref,
            revision=revision,
            manifest=content.manifest.cid(),
            nodes=str(self._replicas + 1),
            replicas=self._replicas,
            rate_bytes_per_s=None,
            issued_at=now,
            start_at=now,
            deadline_at=now + KEEP_S,
            expires_at=now + KEEP_S,
            nonce=os.urandom(16),
        )

    # -- how far ----------------------------------------------------------------------------------

    async def _wait(
        self, intent: Intent, content: Content, watch: Callable[[int], None]
    ) -> list[str]:
        """Until enough others have it; their peer ids."""
        started = still_since = trio.current_time()
        asked_at, last = float("-inf"), None
        while True:
            now = trio.current_time()
            if now >= asked_at + ASK_S:
                asked_at = now
                self._opened.network.tell_preload(wire.Watch((intent.id,)))
            view = self._view(intent, now - started)
            lines = [line for line in view.lines() if not line["self"] and line["here"]]
            there = [line["peer"] for line in lines if line["state"] == Stage.COMPLETE.value]
            if len(there) >= self._replicas:
                return there
            watch(sum(line["done_bytes"] for line in lines))
            seen = [(line["peer"], line["state"], line["done_bytes"]) for line in lines]
            if seen != last:
                last, still_since = seen, now
            if view.is_over(view.lines(), now - still_since) or now >= still_since + STILL_S:
                raise self._too_few(lines, len(there), intent)
            await trio.sleep(LOOK_S)

    def _view(self, intent: Intent, asked_s: float) -> View:
        row = self._parts.preloads.book.find(intent.id)
        if row is None or row.cancel is not None:
            raise Unavailable("the preload behind this push was cancelled", hint="push it again")
        if self._parts.network.current is not self._opened:
            raise Unavailable("the network was closed", hint="push it again: it goes on from there")
        return self._parts.preloads.view(self._opened, row, asked_s)

    def _too_few(self, lines: list[dict[str, Any]], there: int, intent: Intent) -> Exception:
        said = f"{there} of {self._replicas} other agents have it"
        show = f"`p2pcache preload show {intent.id.hex()[:12]}` tells of each"
        refused = [_short(line["peer"]) for line in lines if line["state"] == Stage.REFUSED.value]
        if refused:
            return Denied(
                f"{said}: {', '.join(refused)} may not read it",
                hint=f"it is gated: they need access of their own, or a grant; {show}",
            )
        return Unavailable(
            said, hint=f"the others go on while they can: push it again to wait for them; {show}"
        )


async def open_peers(parts: Parts, place: Place) -> PeersDestination:
    """The agents of the network that is open. Raises UsageError, Unavailable, Denied."""
    if place.replicas is None or not 1 <= place.replicas <= MAX_COUNT:
        raise UsageError(
            "a push to `peers` needs a number of agents", hint=f"--replicas 1 to {MAX_COUNT}"
        )
    opened = await opened_network(parts)
    check_settings(parts, opened)
    return PeersDestination(parts, opened, place.replicas)


def _told(parts: Parts, content: Content) -> tuple[str, str | None]:
    """What others are told: a hub's name, which they may ask with their own access; of everything
    else the CID, which opens nothing to them that they may not read.
    """
    ref = refs.parse_ref(content.ref)
    known = parts.resolver.recorded(ref) if isinstance(ref, refs.HfRef) else None
    if known is None or known.manifest is None or known.manifest.cid() != content.manifest.cid():
        return cids.format_cid(content.manifest.cid()), None
    return content.ref, known.listing.immutable


def _above(id_: bytes, me: PeerId, members: Collection[PeerId]) -> int:
    mine = score(id_, me)
    return sum(score(id_, peer) > mine for peer in members)


def _chosen(intent: Intent, members: Collection[PeerId], count: int) -> tuple[PeerId, ...]:
    ranked = sorted(members, key=lambda peer: score(intent.id, peer), reverse=True)
    return tuple(ranked[:count])


def _short(peer: str) -> str:
    return f"{peer[:16]}..."
