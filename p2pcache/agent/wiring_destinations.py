"""The composition root's second half: what opens the destinations of a push, by their scheme."""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING, Any

from p2pcache.content.cloud_refs import parse_azure, parse_gcs
from p2pcache.content.refs import parse_ref
from p2pcache.content.registry_refs import OciRef, OllamaRef
from p2pcache.content.s3_refs import parse_s3
from p2pcache.destinations.kubo import KuboDestination
from p2pcache.destinations.objects.azure import AzureStore
from p2pcache.destinations.objects.gcs import GcsStore
from p2pcache.destinations.objects.push import ObjectsDestination
from p2pcache.destinations.objects.s3 import S3Store
from p2pcache.destinations.sessions import Sessions
from p2pcache.destinations.uploads import Uploads, uploads_at_once
from p2pcache.errors import UsageError
from p2pcache.sources.oci.options import login_for, registry_url
from p2pcache.transfer.workers import Workers, core_count

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from p2pcache.agent.kubos import Kubos
    from p2pcache.config.settings import Config
    from p2pcache.destinations.port import Destination, Place
    from p2pcache.destinations.registry.destination import RegistryDestination
    from p2pcache.lanes.odometer import Odometer
    from p2pcache.sources.azure.options import AzureOptions
    from p2pcache.sources.gcs.options import GcsOptions
    from p2pcache.sources.oci.options import OciOptions
    from p2pcache.sources.s3.options import S3Options
    from p2pcache.store.store import Store

_NO_VERSION = "a push is to a folder of a bucket, not to a version of an object"


def openers(
    config: Config, registries: OciOptions, kubos: Kubos, store: Store, workers: Workers,
    odometer: Odometer | None, s3_objects: Callable[[Place], S3Store],
) -> dict[str, Callable[[Place], Awaitable[Destination[Any]]]]:  # fmt: skip
    """By the scheme of a place; each raises UsageError for a place that is none."""
    sessions = Sessions(config.home / "uploads")
    azure = partial(_azure, config.azure, workers, odometer)
    gcs = partial(_gcs, config.gcs, sessions, workers, odometer)
    registry = partial(_registry, registries, sessions, store, workers, odometer)
    return {
        **dict.fromkeys(("az", "azure"), azure),
        **dict.fromkeys(("gs", "gcs"), gcs),
        **dict.fromkeys(("oci", "ollama"), registry),
        "ipfs": partial(_ipfs, kubos, workers, odometer),
        "s3": partial(_s3, s3_objects),
    }


async def _ipfs(
    kubos: Kubos, workers: Workers, odometer: Odometer | None, to: Place
) -> KuboDestination:
    """The configured Kubo, or the one that a caller names."""
    place = await kubos.needed_place(to.kubo)
    return KuboDestination(place.api, workers.send_car, odometer, to.rate_bytes_per_s)


def objects_of_s3(
    options: S3Options, workers: Workers, odometer: Odometer | None, to: Place
) -> S3Store:
    """The objects of a bucket, or of a folder of one."""
    ref = parse_s3(to.dest.partition(":")[2], to.dest)
    if ref.version is not None:
        raise UsageError(_NO_VERSION)
    uploads = _uploads(workers, odometer, to)
    return S3Store(ref, options, to.credentials.aws, workers.call, uploads)


async def _s3(objects: Callable[[Place], S3Store], to: Place) -> ObjectsDestination:
    """A folder of a bucket."""
    return ObjectsDestination(objects(to), random.random)


async def _registry(
    options: OciOptions,
    sessions: Sessions,
    store: Store,
    workers: Workers,
    odometer: Odometer | None,
    to: Place,
) -> RegistryDestination:
    """The repository of a registry, or of one of Ollama's, that a caller names."""
    from p2pcache.destinations.registry.destination import RegistryDestination  # brings httpx
    from p2pcache.destinations.registry.upload import UploadOptions
    from p2pcache.sources.oci.pushing import Pushing
    from p2pcache.sources.oci.registry import Place as Repository
    from p2pcache.sources.oci.registry import Registries

    ref = parse_ref(to.dest)
    assert isinstance(ref, OciRef | OllamaRef), "its scheme says so"
    repository = Repository(registry_url(ref.registry, options), ref.repository)
    login = login_for(ref.registry, to.credentials)
    asked = Registries(options)
    return RegistryDestination(
        ref,
        repository.registry,
        lambda others: Pushing(asked, repository, login, others),
        _uploads(workers, odometer, to),
        sessions,
        store.names_of,
        UploadOptions(ca_file=options.ca_file),
        asked.aclose,
    )


async def _gcs(
    options: GcsOptions, sessions: Sessions, workers: Workers, odometer: Odometer | None, to: Place
) -> ObjectsDestination:
    """A folder of a bucket of Google's."""
    ref = parse_gcs(to.dest.partition(":")[2], to.dest)
    if ref.generation is not None:
        raise UsageError(_NO_VERSION)
    uploads = _uploads(workers, odometer, to)
    store = GcsStore(ref, options, to.credentials.gcs, workers.call, uploads, sessions)
    return ObjectsDestination(store, random.random)


async def _azure(
    options: AzureOptions, workers: Workers, odometer: Odometer | None, to: Place
) -> ObjectsDestination:
    """A folder of a container of Azure's."""
    ref = parse_azure(to.dest.partition(":")[2], to.dest)
    uploads = _uploads(workers, odometer, to)
    store = AzureStore(ref, options, to.credentials.azure, workers.call, uploads)
    return ObjectsDestination(store, random.random)


def _uploads(workers: Workers, odometer: Odometer | None, to: Place) -> Uploads:
    at_once = uploads_at_once(core_count())
    return Uploads(
        workers.send_part, odometer, at_once, to.rate_bytes_per_s, lambda: workers.uplink.is_limited
    )
