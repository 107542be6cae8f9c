"""The composition root: the one place that names every source and builds every part. Its second
half, `wiring_destinations`, names the destinations.
"""

from __future__ import annotations

import logging
import random
import time
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import trio

from p2pcache.agent.adopt import hub_adopter, ollama_adopter
from p2pcache.agent.adoption.adopter import Adopter
from p2pcache.agent.adoption.hub_word import HubWord
from p2pcache.agent.bitswap import AgentBitswap
from p2pcache.agent.bucket.source import BucketSource
from p2pcache.agent.ipfs import Ipfs
from p2pcache.agent.kubos import ConfiguredKubo, KuboBlocks, Kubos
from p2pcache.agent.last_copies import LastCopies
from p2pcache.agent.lean import keep_lean
from p2pcache.agent.names import NetworkNames
from p2pcache.agent.naming import Naming
from p2pcache.agent.network_slot import NetworkSlot
from p2pcache.agent.openings import Openings
from p2pcache.agent.origins import Origins
from p2pcache.agent.parts import Parts
from p2pcache.agent.peering import tell_complete, tell_of
from p2pcache.agent.preload.preloads import Preloads
from p2pcache.agent.public import AgentPublic
from p2pcache.agent.pulls import Pulls
from p2pcache.agent.push_peers import open_peers
from p2pcache.agent.rates import HourlyRates
from p2pcache.agent.supervise import keep_running
from p2pcache.agent.unlisted import list_named
from p2pcache.agent.wiring_destinations import objects_of_s3, openers
from p2pcache.config.ipfs import Public
from p2pcache.errors import DiskFull, LocalFault
from p2pcache.lanes.odometer import open_odometer
from p2pcache.lanes.throttle import open_throttle
from p2pcache.sources.azure.source import AzureSource
from p2pcache.sources.blocks import BlocksSource
from p2pcache.sources.certificates import trusting
from p2pcache.sources.file import FileSource
from p2pcache.sources.gcs.source import GcsSource
from p2pcache.sources.hf import HfOptions, HfSource
from p2pcache.sources.http import HttpOptions, HttpSource
from p2pcache.sources.kubo import KuboOptions, KuboSource
from p2pcache.sources.oci.options import OciOptions
from p2pcache.sources.oci.source import OciSource
from p2pcache.sources.s3.source import S3Source
from p2pcache.store.durable import local_faults
from p2pcache.store.store import Store
from p2pcache.transfer.link import Link
from p2pcache.transfer.pull import PullContext
from p2pcache.transfer.resolve import Resolver
from p2pcache.transfer.workers import core_count, open_workers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from p2pcache.config.settings import Config
    from p2pcache.lanes.odometer import Odometer
    from p2pcache.lanes.throttle import Throttle
    from p2pcache.sources.port import Source

_log = logging.getLogger(__name__)
CLOSE_S = 5.0  # for all adapters together; nothing they hold is worth waiting longer for


@asynccontextmanager
async def open_agent(
    config: Config, hub_cache: Path | None = None, ollama_models: Path | None = None
) -> AsyncIterator[Parts]:
    """Everything an agent is, without its socket. Pulls end with the scope; bytes stay.
    `hub_cache`, `ollama_models`: of other programs, where a wanted file may lie already.

    Raises LocalFault for what is wrong with this machine: the store, the authorities' file.
    """
    if config.ca_file is not None:  # once and first, or every origin would be blamed for it
        await trio.to_thread.run_sync(trusting, config.ca_file)
    store = await trio.to_thread.run_sync(Store.open, config.store_path, config.store)
    with ExitStack() as closing:
        closing.callback(store.close)
        spent = await trio.to_thread.run_sync(store.spent.all)
        odometer = _odometer(config.home, closing)
        async with open_workers(config.workers) as workers, trio.open_nursery() as nursery:
            registries = OciOptions(
                ca_file=config.ca_file,
                insecure=config.insecure_registries,
                realms=config.token_realms,
            )
            kubos = Kubos(config.ipfs, lambda place, s: KuboSource(place, KuboOptions(present_s=s)))
            s3_objects = partial(objects_of_s3, config.s3, workers, odometer)
            s3 = S3Source(workers.call, config.s3)
            hf = HfSource(workers.call, HfOptions(ca_file=config.ca_file))
            sources: list[Source] = [
                hf,
                HttpSource(HttpOptions(ca_file=config.ca_file)),
                BucketSource(s3, s3_objects),
                s3,
                GcsSource(workers.call, config.gcs),
                AzureSource(workers.call, config.azure),
                OciSource(registries),
                FileSource(),
                ConfiguredKubo(kubos),
            ]
            nursery.start_soon(keep_running, _keep_leases, store)
            nursery.start_soon(keep_running, keep_lean, store, workers)
            network = NetworkSlot(config.home, config.network, store, time.time)
            most_up = config.values["lanes.limit_up"]
            if config.limits.limits_down:
                workers.downlink = Link(_throttle(config.home, "down", closing))
            if config.limits.limits_up or most_up is not None:
                workers.uplink = Link(_throttle(config.home, "up", closing))
            rates = HourlyRates(
                config.limits, most_up, workers.downlink, workers.uplink, network, time.time
            )
            nursery.start_soon(keep_running, rates.run)
            names = NetworkNames(network, store, time.time)
            nursery.start_soon(keep_running, network.run)
            origins = Origins(
                store,
                network,
                dict(config.budgets),
                time.time,
                odometer,
                spent,
                network.own_id(),
                dict(config.prices),
            )
            closing.callback(origins.close)
            nursery.start_soon(keep_running, origins.run)
            preloads = Preloads(store, network, config.preload, time.time)
            pulls = Pulls(nursery, time.time, store.running)
            naming = Naming(store, workers, pulls.priority)
            try:
                ipfs = Ipfs(store, config.ipfs, nursery, time.time)
                local, shown = ipfs.blocks.local, ipfs.open_blocks.local
                here = BlocksSource(local, shown)
                resolver = Resolver(sources, store, config.resolve, time.time, names, here)
                openings = Openings(store, resolver, workers, config.fetch, origins.spending)
                word = HubWord(hf.is_open, trio.current_time)
                adopter = Adopter(store, workers, pulls, resolver, config.adopt, config.home, word)
                last_copies = LastCopies(
                    store, network, resolver, time.time, lambda: preloads.spared
                )
                store.guard(last_copies.keep, preloads.hand_over)
                if kubos.is_configured:
                    ipfs.fetchers.append(KuboBlocks(kubos))
                if config.ipfs.bitswap:
                    ipfs.bitswap = AgentBitswap(network, store, ipfs.open_blocks)
                    ipfs.fetchers.append(ipfs.bitswap)
                    nursery.start_soon(keep_running, ipfs.bitswap.run)
                if config.ipfs.public is not Public.OFF:  # strangers are asked last
                    ipfs.public = AgentPublic(
                        config.home, config.ipfs, ipfs.blocks.local, ipfs.publisher
                    )
                    ipfs.fetchers.append(ipfs.public)
                    nursery.start_soon(keep_running, ipfs.public.run)
                parts = Parts(
                    config=config,
                    store=store,
                    workers=workers,
                    resolver=resolver,
                    pulls=pulls,
                    context=PullContext(
                        store=store,
                        workers=workers,
                        transfer=config.transfer,
                        limits=config.fetch,
                        cores=core_count(),
                        chance=random.random,
                        adopters=[hub_adopter(hub_cache), ollama_adopter(ollama_models)],
                        spending=origins.spending,
                    ),
                    network=network,
                    names=names,
                    preloads=preloads,
                    last_copies=last_copies,
                    naming=naming,
                    openings=openings,
                    adopter=adopter,
                    origins=origins,
                    rates=rates,
                    ipfs=ipfs,
                    kubos=kubos,
                    destinations=openers(
                        config, registries, kubos, store, workers, odometer, s3_objects
                    ),
                    objects=s3_objects,
                    here=here,
                    fetched=BlocksSource(local, shown, ipfs.blocks.get),
                    now=time.time,
                    started_at=time.time(),
                )
                peers = partial(open_peers, parts)
                parts = replace(parts, destinations={**parts.destinations, "peers": peers})
                nursery.start_soon(keep_running, preloads.run, parts)
                naming.after = partial(list_named, parts)
                nursery.start_soon(keep_running, naming.run)
                openings.opened = partial(tell_of, parts)
                nursery.start_soon(keep_running, openings.run)
                adopter.tell = partial(tell_complete, parts)
                nursery.start_soon(keep_running, adopter.run)
                nursery.start_soon(keep_running, parts.ipfs.run, parts)
                yield parts
            finally:
                nursery.cancel_scope.cancel()
                with trio.CancelScope(deadline=trio.current_time() + CLOSE_S, shield=True):
                    for source in sources:
                        await source.aclose()
                    await kubos.aclose()


def _odometer(home: Path, closing: ExitStack) -> Odometer | None:
    """None on a full disk, where `gc` must run all the same: then reports tell what arrived."""
    try:
        with local_faults("making the file that downloads are counted in"):
            return closing.enter_context(open_odometer(home / "run" / "odometer"))
    except DiskFull as exc:
        _log.warning("downloads are counted at their end only: %s", exc.message)
        return None


def _throttle(home: Path, way: str, closing: ExitStack) -> Throttle:
    """Raises LocalFault, DiskFull: a limit that was set is kept, or the agent does not start."""
    with local_faults("making the file that rates are limited with"):
        return closing.enter_context(open_throttle(home / "run" / f"throttle-{way}"))


async def _keep_leases(store: Store) -> None:
    """Show agents on other hosts that share this store that we live."""
    while True:
        await trio.sleep(store.options.heartbeat_s)
        try:
            await trio.to_thread.run_sync(store.heartbeat)
        except LocalFault as exc:  # a lease that was lost ends its own pull, at the next flush
            _log.warning("a lease was not renewed: %s", exc.message)
