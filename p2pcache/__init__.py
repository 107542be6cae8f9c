"""p2pcache: a peer-to-peer content-addressed cache for AI models.

    import p2pcache
    with p2pcache.connect(embed=True) as agent:
        folder = agent.get("hf://org/model")["path"]

The map, top down; each layer imports only those below it:

cli        the command line; talks to the agent over its local socket
ipfs_backend  the calls of ipfs_backend_router over an agent or Kubo
truss      truss_transfer's functions over an agent
agent      the process of a node: wiring, daemon, `localapi` (the socket and its clients)
config     settings and environment variables, read in this one place
gateway    what other programs speak to: IPFS gateway, Kubo's RPC
formats    files and stores of other programs: Baseten's pointers, Ollama's store
transfer   refs to manifests, manifests to files: the decisions and the driver
sources    adapters that say where bytes are (Hugging Face, HTTP, files)
store      the only owner of data on disk          lanes   the processes that move bytes
content    pure: digests, CIDs, manifests, refs, names, and the one door for foreign bytes
errors, units, version

Importing p2pcache costs next to nothing: the clients are loaded when they are first named.
"""

from __future__ import annotations

from p2pcache.version import __version__

TYPE_CHECKING = False  # typing.TYPE_CHECKING, without what loading `typing` takes
if TYPE_CHECKING:
    from typing import Any

    from p2pcache import errors
    from p2pcache.agent.localapi.aclient import AsyncClient
    from p2pcache.agent.localapi.client import Client, connect

__all__ = ["AsyncClient", "Client", "__version__", "connect", "errors"]

_LAZY = {
    "AsyncClient": "p2pcache.agent.localapi.aclient",  # needs trio
    "Client": "p2pcache.agent.localapi.client",
    "connect": "p2pcache.agent.localapi.client",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - PEP 562: whatever the name stands for
    import importlib

    if name == "errors":
        return importlib.import_module("p2pcache.errors")
    if name not in _LAZY:
        raise AttributeError(f"module 'p2pcache' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return __all__
