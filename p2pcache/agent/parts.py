"""What the operations of an agent work with; `agent.wiring` alone builds it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from p2pcache.agent.adoption.adopter import Adopter
    from p2pcache.agent.ipfs import Ipfs
    from p2pcache.agent.kubos import Kubos
    from p2pcache.agent.last_copies import LastCopies
    from p2pcache.agent.names import NetworkNames
    from p2pcache.agent.naming import Naming
    from p2pcache.agent.network_slot import NetworkSlot
    from p2pcache.agent.openings import Openings
    from p2pcache.agent.origins import Origins
    from p2pcache.agent.preload.preloads import Preloads
    from p2pcache.agent.pulls import Pulls
    from p2pcache.agent.rates import HourlyRates
    from p2pcache.config.settings import Config
    from p2pcache.destinations.objects.port import ReadsMany
    from p2pcache.destinations.port import Destination, Place
    from p2pcache.sources.port import Source
    from p2pcache.store.store import Store
    from p2pcache.transfer.pull import PullContext
    from p2pcache.transfer.resolve import Resolver
    from p2pcache.transfer.workers import Workers

Emit = Callable[[Mapping[str, Any]], Awaitable[None]]
"""Sends one `progress` or `item` frame of a call."""

OpenDestination = Callable[["Place"], Awaitable["Destination[Any]"]]
"""Opens a destination of one kind. Raises UsageError, LocalFault, Unavailable."""

OpenObjects = Callable[["Place"], "ReadsMany"]
"""Opens the objects of a bucket, or of a folder of one. Raises UsageError."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The collaborators of every operation. `now`: unix seconds. `here` and `fetched` are the
    sources of what blocks make: those of this store, and those that others bring.
    """

    config: Config
    store: Store
    workers: Workers
    resolver: Resolver
    pulls: Pulls
    context: PullContext
    network: NetworkSlot
    names: NetworkNames
    preloads: Preloads
    last_copies: LastCopies
    naming: Naming
    openings: Openings
    adopter: Adopter
    origins: Origins
    rates: HourlyRates
    ipfs: Ipfs
    kubos: Kubos
    destinations: Mapping[str, OpenDestination]
    objects: OpenObjects
    here: Source
    fetched: Source
    now: Callable[[], float]
    started_at: float
