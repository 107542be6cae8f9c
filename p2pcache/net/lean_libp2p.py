"""libp2p without the parts that an agent never uses: 21 of the 41 MB that importing it takes.

py-libp2p 0.8.1 imports all that it can do with its first module: QUIC, WebSocket, TLS, relays,
pubsub, bitswap, UPnP, ACME, and through them aioquic, dnspython, requests, httpx, rich and many
more. An agent would carry them for its whole life. `install()` puts a hollow module in the place of
each of those: whatever name is taken from one is a class that can be named in an annotation, a
base, an `isinstance` or an `except`, and that raises when it is called.

tests/real/test_lean_libp2p.py fails when a name of `HOLLOW` is no longer imported by libp2p, when
one of `SPARED` is loaded all the same, and when a hollow part is used.
"""

from __future__ import annotations

import abc
import sys
from importlib.machinery import ModuleSpec
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

HOLLOW: Final = (
    "libp2p.bitswap",
    "libp2p.discovery",
    "libp2p.peer.persistent",
    "libp2p.pubsub",
    "libp2p.rcmgr.prometheus_exporter",
    "libp2p.relay",
    "libp2p.security.secio",
    "libp2p.security.tls",
    "libp2p.transport.quic",
    "libp2p.transport.websocket",
    "multiaddr.resolvers",
)
SPARED: Final = (  # what these would have imported
    "OpenSSL",
    "aioquic",
    "dns",
    "fastecdsa",
    "httpx",
    "miniupnpc",
    "netaddr",
    "requests",
    "rich",
    "trio_websocket",
)
INERT: Final = (("multiaddr.resolvers", "DNSResolver"),)  # every swarm makes one; none asks it


class _Kind(abc.ABCMeta):
    """Classes of hollow modules have whatever attribute is asked for; ABCMeta: so do their kin."""

    def __getattr__(cls, name: str) -> type:
        if name.startswith("_"):
            raise AttributeError(name)
        return _absent(cls.__module__, name)


class Absent(Exception, metaclass=_Kind):
    """In the place of what is not loaded."""

    def __init__(self, *_: object, **__: object) -> None:
        what = f"{type(self).__module__}.{type(self).__name__}"
        raise NotImplementedError(f"{what} is not loaded (p2pcache.net.lean_libp2p)")


def _absent(module: str, name: str) -> type:
    if (module, name) in INERT:
        return type(name, (), {"__module__": module})
    return _Kind(name, (Absent,), {"__module__": module})


class _Finder:
    """Finds the hollow modules and all that would be in them; also their loader."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See importlib.abc.MetaPathFinder."""
        if any(name == hollow or name.startswith(hollow + ".") for hollow in HOLLOW):
            return ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]
        return None

    def create_module(self, spec: ModuleSpec) -> None:
        """See importlib.abc.Loader: the usual module."""

    def exec_module(self, module: ModuleType) -> None:
        """See importlib.abc.Loader."""
        names: dict[str, Any] = vars(module)

        def take(name: str) -> type:
            if name.startswith("__"):
                raise AttributeError(name)
            made: type = names.setdefault(name, _absent(module.__name__, name))
            return made

        names["__getattr__"] = take


def install() -> None:
    """Before libp2p is imported; where somebody did that already, it stays whole."""
    if "libp2p" not in sys.modules and not any(type(f) is _Finder for f in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
