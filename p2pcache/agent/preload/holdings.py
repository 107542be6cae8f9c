"""What this agent's store says of what is preloaded, and what it is told to keep for others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from p2pcache.content.preload import may_evict

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from p2pcache.agent.network import AgentNetwork
    from p2pcache.agent.preload.handover import Handovers
    from p2pcache.agent.preload.job import Job
    from p2pcache.agent.preload.reports import Reports
    from p2pcache.content.peerid import PeerId
    from p2pcache.store.preloads import PreloadRow
    from p2pcache.store.store import Store


class Holdings:
    """As it was at the last `check`."""

    def __init__(self, store: Store) -> None:
        self.complete: set[bytes] = set()  # manifests of which all is here
        self.sizes: dict[bytes, int] = {}  # in bytes, of what has its manifest here
        self.spared: frozenset[bytes] = frozenset()  # of which others keep copies enough
        self._store = store
        self._kept: tuple[set[bytes], set[bytes]] | None = None  # what stays, what is here

    def check(self, opened: AgentNetwork, jobs: Sequence[Job]) -> None:
        """What is here, what of it is restricted, and which signers may read that; for a worker
        thread. Raises LocalFault.
        """
        self.complete = self._store.complete_manifests()
        sizes = {}
        for cid in {job.intent.manifest for job in jobs}:
            body = None if cid in self.sizes else self._store.get_manifest(cid)
            if cid in self.sizes or body is not None:
                sizes[cid] = self.sizes[cid] if body is None else body.total_bytes
        self.sizes = sizes
        hidden = self._store.hidden_manifests([job.intent.manifest for job in jobs])
        for job in jobs:
            signer, manifest = job.intent.signer, job.intent.manifest
            job.signer_reads = signer == opened.admin or (
                manifest in hidden and opened.access.may(signer, manifest)
            )
            job.hidden = manifest in hidden

    async def keep_replicas(
        self,
        rows: Iterable[PreloadRow],
        me: PeerId | None,
        reports: Reports,
        here: frozenset[PeerId],
        handovers: Handovers,
    ) -> None:
        """Tell the store what stays for others' sake. `me`: None while there is no network: before
        others can be heard, everything that a preload may need stays. Raises LocalFault.
        """
        asked = [
            (row, row.intent)
            for row in rows
            if row.intent is not None and row.intent.replicas and row.cancel is None
        ]
        kept = {
            intent.manifest
            for row, intent in asked
            if (me is None or not may_evict(intent, me, reports.holders(row.id, here)))
            and not handovers.is_taken_over(
                row.id, intent.replicas, reports.of(row.id), here, trio.current_time()
            )
        }
        wanted = kept, kept & self.complete
        if self._kept != wanted:
            await trio.to_thread.run_sync(self._store.keep_replicas, kept)
            self._kept = wanted
        self.spared = frozenset(intent.manifest for _, intent in asked) - kept
