"""One preload's own pull: what its ref means to this agent, and the bytes, in the background.

An agent fetches with its own access alone: the credential of its own environment, or a grant. What
an intent names is somebody else's wish, so nothing of this machine is read for it, and no address
of its choosing is called: only a Hugging Face hub of this agent's own settings, and the web
addresses of preloads that are the admin's, or its own. All else comes from other agents.
"""

from __future__ import annotations

import uuid
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from p2pcache import config
from p2pcache.agent.args import credentials_of
from p2pcache.agent.keep_receipt import keep_receipt
from p2pcache.agent.kubo_beside import kubo_helper
from p2pcache.agent.peering import count_received, maybe_peers, tell_complete
from p2pcache.content import cid as cids
from p2pcache.content import refs
from p2pcache.errors import LocalFault, NotFound, P2PCacheError
from p2pcache.sources.port import Credentials, SourceKind
from p2pcache.transfer.names import OTHERS
from p2pcache.transfer.pull import pull
from p2pcache.transfer.receipts import receipt

if TYPE_CHECKING:
    from collections.abc import Callable

    from p2pcache.agent.parts import Parts
    from p2pcache.content.preload import Intent
    from p2pcache.transfer.progress import Progress
    from p2pcache.transfer.resolve import Resolution
    from p2pcache.transfer.want import PullReport


class PreloadPull:
    """One try. `own`: the intent is this agent's; `trusted`: it is, or the network admin's."""

    def __init__(
        self,
        parts: Parts,
        intent: Intent,
        *,
        own: bool,
        trusted: bool,
        watch: Callable[[Progress], None],
    ) -> None:
        self.origin_bytes = 0  # what origins sent, duplicates included
        self.hidden = True  # until it is known that this may be talked of with everybody
        self._parts = parts
        self._intent = intent
        self._own = own
        self._trusted = trusted
        self._watch = watch
        self._report: PullReport | None = None
        self._resolution: Resolution | None = None
        self._credentials = Credentials()

    async def run(self) -> None:
        """Until all of it is here. Raises one of our errors. Cancel-safe: verified blocks stay."""
        started_at, started = self._parts.now(), trio.current_time()
        error: P2PCacheError | None = None
        try:
            self._credentials = await self._own_credentials()
            await self._run()
        except P2PCacheError as exc:
            error = exc
            raise
        finally:
            if self._report is not None and self._report.statistics.fetched_bytes:
                await self._save(started_at, trio.current_time() - started, error)

    async def _run(self) -> None:
        parts, intent = self._parts, self._intent
        resolution, has_origin = await self._resolve()
        self._resolution = resolution
        hidden = await trio.to_thread.run_sync(parts.store.hidden_manifests, [intent.manifest])
        self.hidden = bool(hidden)
        files = list(resolution.listing.files)
        source = parts.resolver.source_for(resolution.ref) if has_origin else None
        with parts.store.running() as hold:
            await pull(
                parts.context,
                resolution,
                files,
                source,
                self._credentials,
                rate_bytes_per_s=intent.rate_bytes_per_s,
                watch=self._watch,
                note=self._note,
                hold=hold,
                peers=maybe_peers(parts, resolution, files, self._credentials),
                helper=kubo_helper(parts, await parts.kubos.find(None)),
            )
            await tell_complete(parts, resolution)
            with suppress(LocalFault):  # no room for the next is not this one's failure
                await trio.to_thread.run_sync(parts.store.trim)

    async def _own_credentials(self) -> Credentials:
        """The agent's own, as its environment and its user's home have them. A login to a registry
        is looked for only where this agent may ask one: a helper may be run for it.
        """
        ref = self._intent.ref if self._trusted else ""
        return credentials_of(await trio.to_thread.run_sync(config.caller_credentials, ref))

    def _note(self, report: PullReport) -> None:
        self._report = report
        self.origin_bytes = sum(
            source.wire_bytes
            for source in report.statistics.sources
            if source.kind is SourceKind.ORIGIN
        )
        count_received(self._parts, report)

    async def _resolve(self) -> tuple[Resolution, bool]:
        """What is to be fetched, and whether an origin may be asked for its bytes."""
        for found in (self._by_grant, self._from_origin):
            with suppress(NotFound):  # at this agent's hub; other agents may have the content
                resolution = await found()
                if resolution is not None and _cid(resolution) == self._intent.manifest:
                    return resolution, resolution.listing.source != OTHERS
        return await self._from_members(), False

    async def _by_grant(self) -> Resolution | None:
        """What members say of the ref. Where a grant is all we have, it comes before the origin,
        which would list what it does not give; and members tell whom they know as the asker.
        """
        ref, resolver = refs.parse_ref(self._intent.ref), self._parts.resolver
        if not await self._parts.names.granted(refs.canonical(ref)):
            return None
        return await resolver.resolve(ref, self._credentials, offline=True)

    async def _from_origin(self) -> Resolution | None:
        """What the origin says, asked with our own access, if it may be asked."""
        ref = refs.parse_ref(self._intent.ref)
        if isinstance(ref, refs.HfRef):
            if self._intent.revision is not None:
                ref = replace(ref, revision=self._intent.revision)
        elif self._own and isinstance(ref, refs.CidRef):
            address = await trio.to_thread.run_sync(self._own_address)
            if address is None:
                return None
            ref = address
        elif not (isinstance(ref, refs.Address) and self._trusted):
            return None
        return await self._parts.resolver.resolve(ref, self._credentials)

    def _own_address(self) -> refs.Address | None:
        """The address that this agent knows what it wished by, and told nobody."""
        for row in self._parts.store.resolutions_of(self._intent.manifest):
            ref = refs.parse_ref(row.canonical)
            if isinstance(ref, refs.Address) and row.source != OTHERS:
                return ref
        return None

    async def _from_members(self) -> Resolution:
        parts, cid = self._parts, self._intent.manifest
        manifest = await parts.names.manifest(cid)
        if manifest is None:
            raise NotFound(f"nobody that this agent may ask has `{cids.format_cid(cid)}`")
        await trio.to_thread.run_sync(parts.store.put_manifest, manifest)
        return await parts.resolver.resolve(refs.CidRef(cid), Credentials())

    async def _save(self, started_at: float, seconds: float, error: P2PCacheError | None) -> None:
        """The receipt, for `why`. A disk that does not take it fails nothing."""
        resolution = self._resolution
        files = () if resolution is None else resolution.listing.files
        made = receipt(
            pull=uuid.uuid4().hex[:12],
            ref=self._intent.ref,
            started_at=started_at,
            seconds=seconds,
            times={},
            resolution=resolution,
            total_bytes=sum(f.size or 0 for f in files),
            report=self._report,
            error=error,
        )
        await keep_receipt(self._parts.store, made)


def _cid(resolution: Resolution) -> bytes | None:
    return None if resolution.manifest is None else resolution.manifest.cid()
