"""Where a Kubo is: typed as a URL, a multiaddr or its repository's folder, or told by itself."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

AUTO = "auto"  # the repository of this user: $IPFS_PATH or ~/.ipfs
MAX_ADDRESS_BYTES = 1024  # of the file `api` in a repository


@dataclass(frozen=True, slots=True)
class KuboPlace:
    """`api`: URL of its RPC, without a path. `gateway`: URL; None: as its configuration says."""

    api: str
    gateway: str | None = None


def parse_kubo(text: str) -> str:
    """A URL of an RPC, the absolute path of a repository, or `auto`. Raises ValueError."""
    word = text.strip()
    if word == AUTO:
        return word
    if (from_multiaddr := http_url(word)) is not None:
        return from_multiaddr
    return os.path.normpath(word) if word.startswith("/") else parse_url(word)


def parse_url(text: str) -> str:
    """Scheme, host and port of an address. Raises ValueError."""
    word = text.strip()
    url = urlsplit(word if "//" in word else f"http://{word}")
    if url.scheme not in ("http", "https") or not url.hostname or "@" in url.netloc:
        raise ValueError(f"`{text}` is not like http://127.0.0.1:5001")
    if url.path.strip("/") or url.query or url.fragment:
        raise ValueError(f"`{text}` has more than a host and a port")
    _ = url.port  # raises for one that is no number
    return f"{url.scheme}://{_host(url.netloc)}"


def find_kubo(said: str, gateway: str | None = None) -> KuboPlace | None:
    """The place of what `parse_kubo` gave, but `auto`. None: no daemon runs on that repository.
    Blocking: reads two small files.
    """
    if not said.startswith("/"):
        return KuboPlace(said, gateway)
    api = http_url(_first_line(Path(said) / "api"))
    if api is None:
        return None
    if gateway is None:
        try:  # where it listens now, also on a port that the system chose
            gateway = parse_url(_first_line(Path(said) / "gateway"))
        except ValueError:
            gateway = None
    return KuboPlace(api, gateway)


def gateway_url(value: object, api: str) -> str | None:
    """`Addresses.Gateway` of a Kubo's configuration as a URL, of several the first that can be one.
    `api` tells its host where the gateway listens on all addresses.
    """
    host = urlsplit(api).hostname or "127.0.0.1"
    urls = (http_url(address, host) for address in (value if isinstance(value, list) else [value]))
    return next((url for url in urls if url is not None), None)


def http_url(address: object, host: str = "127.0.0.1") -> str | None:
    """A multiaddr such as `/ip4/127.0.0.1/tcp/8080` as a URL; None for any other text. `host`: for
    who listens on all addresses.
    """
    parts = address.split("/") if isinstance(address, str) else []
    if len(parts) not in (5, 6) or parts[0] or parts[3] != "tcp":
        return None
    if not parts[4].isdecimal() or parts[4] == "0" or parts[5:] not in ([], ["http"], ["https"]):
        return None
    if parts[1] not in ("ip4", "ip6", "dns", "dns4", "dns6"):
        return None
    where = host if parts[2] in ("0.0.0.0", "::") else parts[2]
    where = f"[{where}]" if ":" in where else where
    return f"{(parts[5:] or ['http'])[0]}://{_host(f'{where}:{parts[4]}')}"


def _host(netloc: str) -> str:
    """Under the name `localhost` a Kubo's gateway redirects every path to a subdomain."""
    name, colon, port = netloc.partition(":")
    return f"127.0.0.1{colon}{port}" if name.lower() == "localhost" else netloc


def _first_line(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(MAX_ADDRESS_BYTES).decode("ascii", "replace").strip()
    except OSError:
        return ""
