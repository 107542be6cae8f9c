"""Names and manifests from other agents: the resolver's `Names` over the agent's network."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from p2pcache.agent.network_slot import READY_S
from p2pcache.content.address_secrets import secret_in
from p2pcache.content.grants import covers, standing
from p2pcache.content.manifest import MAX_MANIFEST_BYTES, Manifest, parse
from p2pcache.errors import P2PCacheError, Untrusted

if TYPE_CHECKING:
    from collections.abc import Callable

    from p2pcache.agent.network import AgentNetwork
    from p2pcache.agent.network_slot import NetworkSlot
    from p2pcache.content.signed import SignedResolution
    from p2pcache.net.network import Network
    from p2pcache.store.store import Store

_log = logging.getLogger(__name__)

MEMBERS_S = 4.0  # for the first member: mDNS takes 1.5 s, up to 3
WORDS_S = 1.0  # for all members to answer; on a LAN it is milliseconds
MANIFEST_S = 60.0  # 64 MiB at worst


class NetworkNames:
    """See `transfer.names.Names`."""

    def __init__(self, slot: NetworkSlot, store: Store, now: Callable[[], float]) -> None:
        self._slot = slot
        self._store = store
        self._now = now
        self.clock_skew_s = 0.0  # how far ahead of our clock a word was at most; for `doctor`

    async def words(self, canonical: str) -> list[SignedResolution]:
        """Kept words, and those of the members that are here now or within seconds. Nobody is
        asked about an address with a secret in it: to ask is to tell.
        """
        kept = await trio.to_thread.run_sync(self._store.others.words, canonical)
        network = None if secret_in(canonical) else await self.network_with_somebody()
        if network is None:
            return kept
        heard = await network.resolutions(canonical, timeout_s=WORDS_S)
        ahead_s = [word.resolved_at - self._now() for word in heard]
        self.clock_skew_s = max([self.clock_skew_s, *ahead_s])
        return [*kept, *heard]

    async def manifest(self, cid: bytes) -> Manifest | None:
        """From the store, or from a member; None when nobody has it."""
        here = await trio.to_thread.run_sync(self._store.get_manifest, cid)
        network = None if here is not None else await self.network_with_somebody()
        if network is None:
            return here
        try:
            data = await network.manifest(
                cid,
                timeout_s=MANIFEST_S,
                max_bytes=MAX_MANIFEST_BYTES,
                newcomers_s=max(0.0, MEMBERS_S - self._slot.open_for_s),
            )
            found = await trio.to_thread.run_sync(parse, data)
        except P2PCacheError as exc:
            _log.info("no manifest: %s", exc.message)
            return None
        if found.cid() != cid:
            raise Untrusted("a manifest does not hash to its name")
        return found

    async def granted(self, canonical: str) -> bool:
        """Whether a grant of the network's admin for this agent covers the ref."""
        opened = await self._slot.wait_open(READY_S)
        if opened is None:
            return False
        me, admin, others = opened.peer_id, opened.admin, self._store.others
        told = await trio.to_thread.run_sync(lambda: others.grants(peer=me, now=self._now()))
        return any(covers(grant.repo, canonical) for grant in standing(told, admin))

    def keep(self, word: SignedResolution) -> None:
        """Remember a word that was used."""
        self._store.others.put_word(word, self._now())

    async def network_with_somebody(self) -> Network | None:
        """The network once somebody is there, or MEMBERS_S later; None when there is none."""
        opened = await with_somebody(self._slot)
        return None if opened is None else opened.network


async def with_somebody(slot: NetworkSlot) -> AgentNetwork | None:
    """The network once a member is there, or MEMBERS_S after it opened; None when there is none.

    An agent that lives for one command has met nobody when it is asked for what only others have.
    """
    opened = await slot.wait_open(READY_S)
    if opened is None:
        return None
    with trio.move_on_after(max(0.0, MEMBERS_S - slot.open_for_s)):
        async with opened.network.watch() as changes:
            async for _ in changes:
                break
    return opened
