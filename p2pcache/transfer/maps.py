"""The hashes of blocks that peers hold: who is asked for which, and what becomes of the answers.

Several that hold the same are not all asked: one answers for the blocks that nobody spoke of yet,
and for a whole map MAP_OPINIONS are asked. What an answer is worth, `trust` judges.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from p2pcache.content.blockmap import prove_by_root
from p2pcache.content.ranges import RangeSet
from p2pcache.errors import P2PCacheError, Untrusted
from p2pcache.lanes.orders import BLOCK_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from p2pcache.content.peerid import PeerId
    from p2pcache.transfer.sharing import Peers
    from p2pcache.transfer.trust import Evidence
    from p2pcache.transfer.want import Wanted

log = logging.getLogger(__name__)

MAP_S = 5.0  # for a part of a map: 128 KiB
MAP_WAIT_S = 0.25  # blocks are asked for without a map rather than later than this
MAP_COUNT = 4096  # hashes in one answer
MAP_OPINIONS = 3  # peers that are asked for the map of one blob: one lies, the others tell


class Maps:
    """Of one pull. `evidence`: of blobs that are begun and not complete; its owner changes it."""

    def __init__(
        self, peers: Peers, wanted: Sequence[Wanted], evidence: Mapping[int, Evidence]
    ) -> None:
        self._swarm = peers.swarm
        self._sharing = peers.sharing
        self._wanted = wanted
        self._evidence = evidence
        self._asked: dict[int, set[PeerId]] = {}
        self._asked_now: dict[int, list[tuple[RangeSet, trio.Event]]] = {}  # set when it is over

    def has_to_learn(self, peer: PeerId, index: int, blocks: RangeSet | None) -> bool:
        """Whether a question for hashes comes before what a peer told of a blob."""
        evidence = self._evidence.get(index)
        if evidence is None or evidence.is_proven:
            return False
        if blocks is None:
            asked = self._asked.get(index, ())
            return peer not in asked and len(asked) < MAP_OPINIONS
        return bool(evidence.unspoken(blocks))

    async def learn(self, peer: PeerId, index: int, blocks: RangeSet | None) -> None:
        """Ask a peer for the hashes of the blocks that it told of (None: all), unless they are
        known, or on their way from others. Cancel-safe: who waits for the same then asks itself.
        """
        evidence, wanted = self._evidence.get(index), self._wanted[index]
        if evidence is None or evidence.is_proven or wanted.name is None:
            return  # it may have been completed since
        count = -(-wanted.size_bytes // BLOCK_BYTES)
        asked = self._asked.setdefault(index, set())
        if blocks is None:
            if peer in asked or len(asked) >= MAP_OPINIONS:
                return
            asked.add(peer)
            await self._ask_map(peer, index, RangeSet.of((0, count)))
            return
        asked_now = self._asked_now.setdefault(index, [])
        while not evidence.is_proven and (missing := evidence.unspoken(blocks)):
            mine = missing
            for asked_for, _ in asked_now:
                mine -= asked_for
            if not mine:  # others that hold them are being asked
                answered = next(event for asked_for, event in asked_now if asked_for & missing)
                with trio.move_on_after(MAP_WAIT_S) as patience:
                    await answered.wait()
                if not patience.cancelled_caught:
                    continue
                mine = missing
            mark = (mine, trio.Event())
            asked_now.append(mark)
            try:
                await self._ask_map(peer, index, mine)
            finally:
                asked_now.remove(mark)
                mark[1].set()
            return

    async def _ask_map(self, peer: PeerId, index: int, blocks: RangeSet) -> None:
        """Ask one peer for what it knows of some blocks."""
        wanted = self._wanted[index]
        assert wanted.name is not None
        for start, end in blocks:
            for first in range(start, end, MAP_COUNT):
                part = min(MAP_COUNT, end - first)
                try:
                    answer = await self._swarm.block_map(
                        peer, wanted.name, first, part, timeout_s=MAP_S
                    )
                except P2PCacheError as exc:
                    log.debug("no block map of %s: %s", wanted.path, exc.message)
                    return
                self._take_map(peer, index, first, part, answer)

    def _take_map(self, peer: PeerId, index: int, first: int, count: int, answer: object) -> None:
        evidence, wanted = self._evidence.get(index), self._wanted[index]
        if evidence is None:  # the blob was completed while the answer was on its way
            return
        if isinstance(answer, bytes):
            if len(answer) != 32 * count:
                return
            evidence.said(peer, first, answer)
            if wanted.root is not None and len(answer) == 32 * evidence.count:
                try:
                    prove_by_root(wanted.size_bytes, answer, wanted.root)
                except Untrusted:
                    return
                evidence.prove(answer)
        elif isinstance(answer, list):
            for attestation in answer:
                fits = (attestation.blob, attestation.size) == (wanted.name, wanted.size_bytes)
                if fits and not self._sharing.is_banned(attestation.signer):
                    evidence.attested(attestation)
                    self._sharing.attested(attestation)
