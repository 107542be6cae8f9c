"""Every setting: its key, unit, default and reason; read from the environment and config.toml.

A key `store.capacity` is `[store] capacity` in `config.toml` and `P2PCACHE_STORE_CAPACITY` in the
environment; the environment wins. No other module reads either.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2pcache.config.adopt import AdoptOptions
from p2pcache.config.clouds import azure_endpoint, azure_options, gcs_endpoint, gcs_options
from p2pcache.config.environment import ENVIRONMENT
from p2pcache.config.ipfs import (
    IpfsSettings,
    kubo,
    kubo_gateway,
    listen_at,
    public,
    public_listen,
    where_kubo,
)
from p2pcache.config.limits import LimitSettings, format_night, night, total_rate
from p2pcache.config.network import (
    DEFAULT_PORT,
    NetworkSettings,
    announce,
    bootstrap,
    format_trust,
    hosts,
    place,
    port,
    trust,
    words,
)
from p2pcache.config.origins import (
    MAX_BUDGETS,
    Budgets,
    Prices,
    budgets,
    format_budgets,
    format_prices,
    prices,
)
from p2pcache.config.preload import PreloadSettings, format_labels, labels, who
from p2pcache.config.registries import registry_hosts
from p2pcache.config.s3 import buckets, endpoint, format_buckets, region, s3_options, style, valid
from p2pcache.config.setting import (
    Setting,
)
from p2pcache.config.setting import budget as _budget
from p2pcache.config.setting import number as _number
from p2pcache.config.setting import optional as _optional
from p2pcache.config.setting import some_time as _some_time
from p2pcache.config.setting import streams as _streams
from p2pcache.config.setting import yes as _yes
from p2pcache.errors import UsageError
from p2pcache.lanes.orders import FetchLimits
from p2pcache.sources.azure.options import PUBLIC_AZURE, AzureOptions
from p2pcache.sources.gcs.options import PUBLIC_GCS, GcsOptions
from p2pcache.sources.oci.challenge import LOOPBACK
from p2pcache.sources.s3.options import S3Options
from p2pcache.store.layout import StoreOptions
from p2pcache.transfer.names import NameOptions
from p2pcache.transfer.policy import TransferOptions
from p2pcache.transfer.resolve import ResolveOptions
from p2pcache.transfer.timetable import Rates
from p2pcache.transfer.workers import WorkerOptions
from p2pcache.units import parse_bytes, parse_duration, parse_rate

if TYPE_CHECKING:
    from collections.abc import Mapping

# A Service that is called p2pcache puts such variables into every pod of its namespace.
_OF_KUBERNETES = re.compile(r"P2PCACHE_(SERVICE_(HOST|PORT)|PORT($|_))")

_STORE, _FETCH, _PULL = StoreOptions(), FetchLimits(), TransferOptions()
_NETWORK, _NAMES = NetworkSettings(), NameOptions()
_RESOLVE, _WORKERS = ResolveOptions(), WorkerOptions()
_PRELOAD, _IPFS, _S3, _AZURE = PreloadSettings(), IpfsSettings(), S3Options(), AzureOptions()
_ADOPT = AdoptOptions()

SETTINGS: tuple[Setting, ...] = (
    Setting("store.path", _optional(str), None, "where blobs lie; default: the home directory"),
    Setting(
        "store.capacity",
        _optional(_budget),
        _STORE.capacity_bytes,
        "byte budget of the store; none: what the disk has",
    ),
    Setting(
        "store.reserve", parse_bytes, _STORE.reserve_bytes, "bytes left free on the file system"
    ),
    Setting(
        "fetch.limit_rate",
        _optional(parse_rate),
        _FETCH.rate_bytes_per_s,
        "bytes/s of all downloads of one pull together",
    ),
    Setting(
        "fetch.connect_timeout",
        _some_time,
        _FETCH.connect_timeout_s,
        "how long a connection may take",
    ),
    Setting(
        "fetch.no_progress",
        _some_time,
        _FETCH.no_progress_s,
        "a source that sends nothing for this long is cut off",
    ),
    Setting(
        "fetch.patience",
        _some_time,
        _PULL.patience_s,
        "a pull without one new byte for this long fails",
    ),
    Setting(
        "fetch.peer_return",
        parse_duration,
        _PULL.return_s,
        "how long a pull without an origin waits for a lost peer that held the rest",
    ),
    Setting("fetch.max_streams", _streams, _PULL.max_streams, "requests in flight at most"),
    Setting(
        "resolve.ttl",
        parse_duration,
        _RESOLVE.ttl_s,
        "a branch resolved this recently is not asked again",
    ),
    Setting(
        "origins.budgets",
        budgets,
        (),
        "what all agents of the network together may ask of an origin",
        format_budgets,
    ),
    Setting(
        "origins.prices",
        prices,
        (),
        "what origins charge, for `status --origins`: HOST gb=0.09 requests=0.40 USD",
        format_prices,
    ),
    Setting("resolve.timeout", _some_time, _RESOLVE.timeout_s, "how long a listing may take"),
    Setting(
        "s3.endpoint", _optional(endpoint), None, "URL of another S3 than Amazon's: MinIO, R2, B2"
    ),
    Setting("s3.region", _optional(region), None, "region of buckets, before it is found out"),
    Setting("s3.profile", _optional(str.strip), None, "the login of ~/.aws that is used"),
    Setting(
        "s3.style",
        style,
        "auto",
        "where the bucket's name is: path, virtual (in the host); auto: virtual at Amazon",
    ),
    Setting("s3.anonymous", _yes, False, "sign no request, whatever login there is"),
    Setting("s3.requester_pays", _yes, False, "agree to pay for what is read"),
    Setting(
        "s3.public", _yes, False, "give what was read with a login to every agent of the network"
    ),
    Setting("s3.url_valid", valid, float(_S3.url_valid_s), "how long a signed address holds"),
    Setting(
        "s3.buckets", buckets, (), "the same settings for one bucket, before these", format_buckets
    ),
    Setting(
        "limits.up",
        _optional(total_rate),
        None,
        "bytes/s that all other agents together get from this one",
    ),
    Setting("limits.down", _optional(total_rate), None, "bytes/s of all downloads together"),
    Setting(
        "limits.night",
        night,
        (),
        "other limits at hours of the day: 22:00-06:00 up=none down=none",
        format_night,
    ),
    Setting("gcs.endpoint", gcs_endpoint, PUBLIC_GCS, "where Google's buckets are"),
    Setting("gcs.anonymous", _yes, False, "send no login, whatever there is"),
    Setting(
        "gcs.public", _yes, False, "give what was read with a login to every agent of the network"
    ),
    Setting("azure.endpoint", azure_endpoint, PUBLIC_AZURE, "where the accounts of Azure are"),
    Setting("azure.anonymous", _yes, False, "send no login, whatever there is"),
    Setting(
        "azure.public", _yes, False, "give what was read with a login to every agent of the network"
    ),
    Setting("azure.url_valid", valid, float(_AZURE.url_valid_s), "how long a signed address holds"),
    Setting("tls.ca_file", _optional(str), None, "certificate authorities of private origins"),
    Setting(
        "oci.insecure",
        registry_hosts,
        frozenset({LOOPBACK}),
        "registries that are asked over plain HTTP: hosts; loopback: every one on this machine",
        sorted,
    ),
    Setting(
        "oci.realms",
        registry_hosts,
        frozenset(),
        "hosts that may see logins of registries beside the registries' own",
        sorted,
    ),
    Setting("adopt.every", _some_time, _ADOPT.every_s, "time between two looks at adopted folders"),
    Setting(
        "adopt.limit_rate",
        _optional(parse_rate),
        _ADOPT.rate_bytes_per_s,
        "bytes/s that are read of adopted folders to hash them",
    ),
    Setting("workers.idle", parse_duration, _WORKERS.idle_s, "how long unused workers stay"),
    Setting("materialise.links", _yes, True, "link files out of the store instead of copying"),
    Setting("network.enabled", _yes, True, "talk to other agents when there is a network key"),
    Setting("network.hosts", hosts, _NETWORK.hosts, "IP addresses of this machine to listen on"),
    Setting(
        "network.port",
        _optional(port),
        _NETWORK.port,
        f"TCP port; none: {DEFAULT_PORT} if it is free, else any",
    ),
    Setting(
        "network.announce", announce, _NETWORK.announce, "multiaddrs told to others instead of ours"
    ),
    Setting(
        "network.bootstrap", bootstrap, _NETWORK.bootstrap, "multiaddrs of agents to begin with"
    ),
    Setting("network.dns", words, _NETWORK.dns, "name:port of a headless service of agents"),
    Setting("network.mdns", _yes, _NETWORK.mdns, "find agents of this network on the LAN"),
    Setting("network.dht", _yes, _NETWORK.dht, "announce and look up content in the DHT"),
    Setting(
        "network.zone",
        place,
        _NETWORK.zone,
        "where this agent is: one copy of a model crosses from zone to zone",
        lambda value: value or "none",
    ),
    Setting(
        "network.rack",
        place,
        _NETWORK.rack,
        "where in its zone: agents of the same rack are asked first",
        lambda value: value or "none",
    ),
    Setting(
        "network.full_mesh",
        _number,
        _NETWORK.full_mesh,
        "members up to which each agent is linked with all others",
    ),
    Setting(
        "lanes.tls", _yes, _NETWORK.lane_tls, "off: bytes between agents are checked, not hidden"
    ),
    Setting("lanes.port", port, _NETWORK.lane_port, "TCP port that bytes are served on; 0: any"),
    Setting(
        "lanes.limit_up",
        _optional(parse_rate),
        _NETWORK.limit_up_bytes_per_s,
        "bytes/s that all other agents together get from this one",
    ),
    Setting(
        "names.trust",
        trust,
        _NAMES.trust,
        "whose word on a name counts offline: any, none, or peer ids",
        format_trust,
    ),
    Setting(
        "names.max_age",
        _optional(parse_duration),
        _NAMES.max_age_s,
        "older words of other agents on a name do not count",
    ),
    Setting(
        "ipfs.gateway",
        _optional(listen_at),
        None,
        "loopback address and port of an IPFS gateway, such as 127.0.0.1:8080; none: there is none",
        lambda value: None if value is None else str(value),
    ),
    Setting(
        "ipfs.rpc",
        _optional(listen_at),
        None,
        "loopback address and port of Kubo's RPC, such as 127.0.0.1:5001; none: there is none",
        lambda value: None if value is None else str(value),
    ),
    Setting(
        "ipfs.kubo",
        _optional(kubo),
        None,
        "a Kubo that is asked for CIDs before origins: its RPC's URL, its folder, or auto",
    ),
    Setting(
        "ipfs.kubo_gateway",
        _optional(kubo_gateway),
        None,
        "URL of that Kubo's gateway; none: as its own configuration says",
    ),
    Setting(
        "ipfs.bitswap",
        _yes,
        _IPFS.bitswap,
        "trade blocks with Kubo and Helia in this network, and tell Kubo's DHT what is here",
    ),
    Setting(
        "ipfs.public",
        public,
        _IPFS.public,
        "the public IPFS network: off; fetch: CIDs are asked of it; share: what is published, too",
        lambda value: value.value,
    ),
    Setting(
        "ipfs.public_listen",
        public_listen,
        _IPFS.public_listen,
        "multiaddrs that strangers can dial; none: with share port 4802, else there are none",
    ),
    Setting(
        "ipfs.public_announce",
        announce,
        _IPFS.public_announce,
        "multiaddrs told to the public network instead of ours",
    ),
    Setting(
        "ipfs.public_bootstrap",
        bootstrap,
        _IPFS.public_bootstrap,
        "multiaddrs of nodes of the public network to begin with",
    ),
    Setting(
        "ipfs.public_limit_up",
        _optional(parse_rate),
        _IPFS.public_limit_up_bytes_per_s,
        "bytes/s that the public network gets from this agent",
    ),
    Setting(
        "agent.labels",
        labels,
        _PRELOAD.labels,
        "what this agent is, for `preload --nodes LABEL`: gpu=h100, rack=4",
        lambda value: format_labels(value) or "none",
    ),
    Setting(
        "preload.from",
        who,
        _PRELOAD.who,
        "whose preloads this agent takes part in: members, admin, nobody",
        lambda value: value.value,
    ),
)


@dataclass(frozen=True, slots=True)
class Config:
    """Parsed settings of one agent. `origins` says where each value came from; `unknown` names
    variables that begin like a setting's and are none.
    """

    home: Path
    store_path: Path
    store: StoreOptions
    fetch: FetchLimits
    transfer: TransferOptions
    resolve: ResolveOptions
    workers: WorkerOptions
    ca_file: str | None
    links: bool
    network: NetworkSettings
    preload: PreloadSettings
    ipfs: IpfsSettings
    s3: S3Options
    adopt: AdoptOptions
    limits: LimitSettings
    gcs: GcsOptions
    azure: AzureOptions
    budgets: Budgets
    prices: Prices
    insecure_registries: frozenset[str]
    token_realms: frozenset[str]
    values: Mapping[str, Any]
    origins: Mapping[str, str]
    unknown: tuple[str, ...] = ()

    def show(self) -> dict[str, dict[str, Any]]:
        """What `p2pcache config show` prints."""
        return {
            s.key: {
                "value": s.show(self.values[s.key]),
                "text": s.text(s.show(self.values[s.key])),
                "source": self.origins[s.key],
                "variable": s.variable,
                "help": s.help,
            }
            for s in SETTINGS
        }


def load(home: Path, environment: Mapping[str, str]) -> Config:
    """The settings of the agent at `home`. Raises UsageError that names the bad key."""
    file = home / "config.toml"
    written = _flat(file)
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for setting in SETTINGS:
        key = setting.key
        values[key], origins[key] = setting.default, "default"
        for text, where in (
            (written.pop(key, None), str(file)),
            (environment.get(setting.variable), setting.variable),
        ):
            if text is None:
                continue
            try:
                values[key], origins[key] = setting.parse(text), where
            except ValueError as exc:
                raise UsageError(f"{where}: {key}: {exc}") from exc
    if written:
        raise _no_setting(file, next(iter(written)))
    config = _build(home, values, origins, environment)
    ipfs = replace(config.ipfs, kubo=where_kubo(config.ipfs.kubo, environment))
    return replace(config, ipfs=ipfs, unknown=_unknown(environment))


def _no_setting(file: Path, key: str) -> UsageError:
    import difflib  # 5 ms, in this case alone

    near = difflib.get_close_matches(key, [s.key for s in SETTINGS], 1)
    hint = "`p2pcache config show`, without it there, lists all"
    if near:
        hint = f"did you mean `{near[0]}`?"
    return UsageError(f"{file}: unknown setting `{key[:80]}`", hint=hint)


def _unknown(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Variables that look like settings and are none: mistyped, they would do nothing."""
    known = {name for name, _ in ENVIRONMENT} | {s.variable for s in SETTINGS}
    return tuple(
        name
        for name in sorted(environment)
        if name.startswith("P2PCACHE_") and name not in known and not _OF_KUBERNETES.match(name)
    )


def _flat(file: Path) -> dict[str, str]:
    """`[store] capacity = "10 GiB"` as {"store.capacity": "10 GiB"}."""
    try:
        tables = tomllib.loads(file.read_text())
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as exc:
        raise UsageError(f"{file} cannot be read: {exc}") from exc
    flat = {}
    for table, entries in tables.items():
        if not isinstance(entries, dict):
            raise UsageError(f"{file}: `{table}` is not a section", hint="write `[section]` first")
        for key, value in entries.items():
            if isinstance(value, bool):
                flat[f"{table}.{key}"] = str(value).lower()  # as it is written there
            elif isinstance(value, int | float | str):
                flat[f"{table}.{key}"] = str(value)
            else:
                raise UsageError(
                    f"{file}: `{table}.{key}` is not a plain value",
                    hint=f'several values are one text with commas: {key} = "a, b"',
                )
    return flat


def _told(limited: Budgets, priced: Prices) -> Prices:
    """Members tell each other of all of these in one message."""
    if len({host for host, _ in (*limited, *priced)}) > MAX_BUDGETS:
        raise UsageError(
            f"more than {MAX_BUDGETS} hosts have a budget or a price",
            hint="keep the most important in `origins.budgets` and `origins.prices`",
        )
    return priced


def _build(
    home: Path,
    values: dict[str, Any],
    origins: dict[str, str],
    environment: Mapping[str, str],
) -> Config:
    path, ca_file = values["store.path"], values["tls.ca_file"]
    ca_file = None if ca_file is None else str(home / Path(ca_file).expanduser())
    return Config(
        home=home,
        # Not from the working directory: a store must not depend on where a command was typed.
        store_path=home if path is None else home / Path(path).expanduser(),
        store=StoreOptions(
            capacity_bytes=values["store.capacity"], reserve_bytes=values["store.reserve"]
        ),
        fetch=FetchLimits(
            connect_timeout_s=values["fetch.connect_timeout"],
            no_progress_s=values["fetch.no_progress"],
            rate_bytes_per_s=values["fetch.limit_rate"],
        ),
        transfer=TransferOptions(
            patience_s=values["fetch.patience"],
            return_s=values["fetch.peer_return"],
            max_streams=values["fetch.max_streams"],
        ),
        resolve=ResolveOptions(
            ttl_s=values["resolve.ttl"],
            timeout_s=values["resolve.timeout"],
            names=NameOptions(values["names.max_age"], values["names.trust"]),
        ),
        workers=WorkerOptions(idle_s=values["workers.idle"]),
        ca_file=ca_file,
        links=values["materialise.links"],
        network=NetworkSettings(
            enabled=values["network.enabled"],
            hosts=values["network.hosts"],
            port=values["network.port"],
            announce=values["network.announce"],
            bootstrap=values["network.bootstrap"],
            dns=values["network.dns"],
            mdns=values["network.mdns"],
            dht=values["network.dht"],
            zone=values["network.zone"],
            rack=values["network.rack"],
            full_mesh=values["network.full_mesh"],
            lane_tls=values["lanes.tls"],
            lane_port=values["lanes.port"],
            limit_up_bytes_per_s=min(
                (r for r in (values["lanes.limit_up"], values["limits.up"]) if r is not None),
                default=None,
            ),
        ),
        preload=PreloadSettings(values["preload.from"], values["agent.labels"]),
        ipfs=IpfsSettings(
            gateway=values["ipfs.gateway"],
            rpc=values["ipfs.rpc"],
            kubo=values["ipfs.kubo"],
            kubo_gateway=values["ipfs.kubo_gateway"],
            bitswap=values["ipfs.bitswap"],
            public=values["ipfs.public"],
            public_listen=values["ipfs.public_listen"],
            public_announce=values["ipfs.public_announce"],
            public_bootstrap=values["ipfs.public_bootstrap"],
            public_limit_up_bytes_per_s=values["ipfs.public_limit_up"],
        ),
        s3=replace(s3_options(values, environment), ca_file=ca_file),
        limits=LimitSettings(
            Rates(values["limits.up"], values["limits.down"]), values["limits.night"]
        ),
        adopt=AdoptOptions(values["adopt.every"], values["adopt.limit_rate"]),
        gcs=gcs_options(values, ca_file),
        azure=azure_options(values, ca_file),
        budgets=values["origins.budgets"],
        prices=_told(values["origins.budgets"], values["origins.prices"]),
        insecure_registries=values["oci.insecure"],
        token_realms=values["oci.realms"],
        values=values,
        origins=origins,
    )
