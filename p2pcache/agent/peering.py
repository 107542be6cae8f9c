"""One pull among peers: what the transfer layer asks for (`Swarm`, `Sharing`) over the network."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from p2pcache.agent.names import with_somebody
from p2pcache.agent.pull_swarm import PullSharing, PullSwarm
from p2pcache.content import cid as cids
from p2pcache.content.digests import raw
from p2pcache.content.peerid import format_peer_id, parse_peer_id
from p2pcache.content.refs import CidRef, DigestRef, as_typed, canonical
from p2pcache.errors import NotFound, P2PCacheError, plain_errors
from p2pcache.lanes.orders import BLOCK_BYTES
from p2pcache.lanes.peek import peek
from p2pcache.sources.port import ListedFile, Listing, SourceKind
from p2pcache.transfer.bare import bare_name, pull_bare, told_root
from p2pcache.transfer.names import OTHERS
from p2pcache.transfer.resolve import Resolution, manifest_of, path_of
from p2pcache.transfer.sharing import Peers, PeersLater

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from p2pcache.agent.network import AgentNetwork
    from p2pcache.agent.parts import Parts
    from p2pcache.agent.pulls import Watch
    from p2pcache.content.proof import Challenge
    from p2pcache.sources.port import Credentials
    from p2pcache.store.store import Hold
    from p2pcache.transfer.progress import Progress
    from p2pcache.transfer.want import PullReport

_log = logging.getLogger(__name__)

FIRST_ROUND_S = 0.25  # for the members to say what they hold, before an origin is asked (DESIGN 6)
BARE_S = 3.0  # for anybody to say that it has a name: members answer at once, the DHT in 0.5 s
OPEN_S = 2.0  # for a network that is being opened: the agent may have started just for this pull
CLOSE_S = 5.0  # to take back what was shared of blobs that did not finish


@asynccontextmanager
async def peers_of(
    opened: AgentNetwork,
    manifest: bytes | None,
    names: Sequence[bytes],
    prover: Callable[[Challenge], Awaitable[bytes | None]] | None,
    *,
    wait: bool = True,
) -> AsyncIterator[Peers]:
    """Peers for the time of one pull. Enters when the members have told what they hold, or after
    FIRST_ROUND_S; at once without `wait`. What did not finish is taken back at the end.
    """
    quiet = False
    if manifest is not None:
        opened.sharing.prove_with(manifest, prover)
        quiet = not opened.intend(manifest)
    with plain_errors():
        async with (
            opened.network.swarm(manifest, names, quiet=quiet) as net_swarm,
            trio.open_nursery() as nursery,
        ):
            swarm = PullSwarm(opened, net_swarm)
            sharing = PullSharing(opened, manifest)
            nursery.start_soon(swarm.run)
            told, began = trio.Event(), trio.current_time()
            looked_up = manifest or (names[0] if len(names) == 1 else None)
            nursery.start_soon(_first_round, swarm, None if quiet else looked_up, told)
            try:
                if wait:
                    await told.wait()
                told_s = trio.current_time() - began if swarm.first_round.is_set() else None
                yield Peers(swarm, sharing, opened.identity, told_s)
            finally:
                nursery.cancel_scope.cancel()
                if manifest is not None:
                    opened.sharing.prove_with(manifest, None)
                with trio.CancelScope(deadline=trio.current_time() + CLOSE_S, shield=True):
                    await sharing.take_back()


async def _first_round(swarm: PullSwarm, looked_up: bytes | None, told: trio.Event) -> None:
    """Hear the members, for a bounded time; where none of them holds anything ask the DHT."""
    with trio.move_on_after(FIRST_ROUND_S):
        await swarm.first_round.wait()
    told.set()
    if looked_up is not None and not swarm.somebody_holds:
        await swarm.look_up(looked_up)


@asynccontextmanager
async def maybe_peers(
    parts: Parts, resolution: Resolution, files: Sequence[ListedFile], credentials: Credentials
) -> AsyncIterator[Peers | PeersLater | None]:
    """The peers of a pull, None when there is nothing that they could be asked for. Where there is
    no network yet, they are those of the first one that opens while the pull runs.
    """
    names = [file.name for file in files if file.name is not None]
    if resolution.manifest is None and len(names) > 1:  # a ticket is of a manifest, or of one blob
        names = [f.name for f in files if f.name is not None and (f.size or 0) > BLOCK_BYTES]
    if not names or not parts.network.settings.enabled:
        yield None
        return
    manifest = None if resolution.manifest is None else resolution.manifest.cid()
    prover = _prover(parts, resolution, credentials) if resolution.listing.gated else None

    @asynccontextmanager
    async def later() -> AsyncIterator[Peers]:
        opened = await parts.network.wait_any()
        async with peers_of(opened, manifest, names, prover) as peers:
            yield peers

    opened = await parts.network.wait_open(OPEN_S)
    if opened is None:
        yield later
        return
    async with peers_of(opened, manifest, names, prover) as peers:
        yield peers


def _prover(
    parts: Parts, resolution: Resolution, credentials: Credentials
) -> Callable[[Challenge], Awaitable[bytes | None]] | None:
    """Fetches what a challenge is about from the origin, with the caller's credential."""
    listing = resolution.listing
    try:
        source = parts.resolver.source_for(resolution.ref)
    except P2PCacheError:
        return None

    async def prove(challenge: Challenge) -> bytes | None:
        key = next((f.key for f in listing.files if f.digest == challenge.digest), None)
        if key is None or listing.source == OTHERS:
            return None
        try:
            location = await source.locate(listing, key, credentials)
            return await parts.workers.call(
                peek, location, challenge.start, challenge.end, parts.context.limits
            )
        except P2PCacheError as exc:
            _log.info("no proof of access: %s", exc.message)
            return None

    return prove


def count_received(parts: Parts, report: PullReport) -> None:
    """What a pull, over or failed, got from each peer; `peers` shows the sums."""
    opened = parts.network.current
    if opened is not None:
        for source in report.statistics.sources:
            if source.kind is SourceKind.PEER:
                opened.received[parse_peer_id(source.name)] += source.kept_bytes


async def tell_complete(parts: Parts, resolution: Resolution) -> None:
    """Say to others that a manifest's blobs are all here, if they are, and others may know. What
    they may not know yet is looked into (`agent.openings`).
    """
    parts.openings.wake()
    if resolution.manifest is not None:
        await tell_of(parts, [resolution.manifest.cid()])


async def tell_of(parts: Parts, manifests: Sequence[bytes]) -> None:
    """As `tell_complete`, of manifests by their CIDs."""
    opened = parts.network.current
    for cid in manifests if opened is not None else ():
        assert opened is not None
        if await trio.to_thread.run_sync(parts.store.is_complete, cid):
            opened.possess([cid])


async def bring_named(
    parts: Parts,
    ref: DigestRef | CidRef,
    emit: Callable[[Progress], Awaitable[None]],
    rate_bytes_per_s: float | None,
    hold: Hold,
    note: Callable[[PullReport], None],
    *,
    told_s: float = BARE_S,
) -> PullReport | None:
    """A manifest or blob that is known by its name alone, from peers; None: it was a manifest.

    `note` gets what was done so far, also when it fails. `told_s`: for anybody to say that it has
    it. Raises NotFound when nobody has it.
    """
    opened = await with_somebody(parts.network)
    name = ref.digest if isinstance(ref, DigestRef) else ref.cid
    missing = NotFound(
        f"nobody that this agent may ask has `{as_typed(ref)}`",
        hint="give a ref with an origin (hf://, https://), or `p2pcache push` it somewhere",
    )
    if opened is None:
        raise missing
    if isinstance(ref, CidRef) and cids.codec(ref.cid) == cids.DAG_CBOR:
        manifest = await parts.names.manifest(ref.cid)
        if manifest is None:
            raise missing
        await trio.to_thread.run_sync(parts.store.put_manifest, manifest)
        return None
    asked = bare_name(name)

    async def start(watch: Watch, held: Hold) -> PullReport:
        async with peers_of(opened, None, [asked], None, wait=False) as peers:
            return await pull_bare(
                parts.context, asked, peers,
                timeout_s=told_s, rate_bytes_per_s=rate_bytes_per_s,
                watch=watch, note=note, hold=held,
            )  # fmt: skip

    try:
        report = await parts.pulls.wait_pulled(("bare", asked), canonical(ref), start, emit, hold)
    finally:
        parts.naming.wake()
    (blob,) = report.blobs.values()
    return replace(report, blobs={path_of(ref, blob): blob})


async def told_by_peers(parts: Parts, ref: DigestRef) -> Resolution | None:
    """What other agents say of a blob that is not here: its size and its root, unproven."""
    opened = await with_somebody(parts.network)
    if opened is None:
        return None
    async with peers_of(opened, None, [ref.digest], None, wait=False) as peers:
        told = await told_root(ref.digest, peers, timeout_s=BARE_S)
    if told is None:
        return None
    who = ", ".join(sorted(map(format_peer_id, told.signers)))
    name = raw(ref.digest).hex()
    listing = Listing(
        OTHERS, who, canonical(ref), False,
        (ListedFile(name, told.size, ref.digest, "", root=told.root),),
        notes=(f"it is not here; its size and its root are the word of peer {who}",),
    )  # fmt: skip
    return Resolution(ref, canonical(ref), listing, manifest_of(listing), parts.now(), False)
