"""The calls of ipfs_backend_router, with real CIDs, over a p2pcache agent or over Kubo.

    from p2pcache import ipfs_backend

    cid = ipfs_backend.add_path("model", recursive=True)
    ipfs_backend.get_to_path(cid, output_path="copy")

Change one import and the callers of the router go on. What differs is listed in docs/ipfs.md: CIDs
are those that `ipfs add` gives under the profile unixfs-v1-2025 whatever the backend, everything
that comes is verified, folders work, errors are raised, and the receipt tells the truth. Every
error is a RuntimeError and one of `p2pcache.errors`.

Every function takes `backend=` (a backend or the name of one) and `deps=` (whose `ipfs_backend`,
attribute or key, is used if it has one).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from p2pcache.ipfs_backend.backend import IPFSBackend
from p2pcache.ipfs_backend.failures import as_runtime_errors
from p2pcache.ipfs_backend.select import (
    BackendSelection,
    Selector,
    classify_backend_role,
    describe_backend_capabilities,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

__all__ = [
    "BackendSelection",
    "IPFSBackend",
    "add_bytes",
    "add_path",
    "block_get",
    "block_put",
    "cat",
    "classify_backend_role",
    "dag_export",
    "describe_backend_capabilities",
    "get_backend",
    "get_backend_with_receipt",
    "get_last_backend_selection",
    "get_to_path",
    "ls",
    "pin",
    "register_ipfs_backend",
    "select_backend",
    "set_default_ipfs_backend",
    "unpin",
]

Chosen = IPFSBackend | str | None


def _environment() -> Any:  # noqa: ANN401 - BackendEnvironment, imported late
    from p2pcache.config.environment import backend_environment

    return backend_environment()


def _agent_url() -> str | None:
    """The RPC of this user's running agent. Raises AgentNotRunning."""
    from p2pcache.agent.localapi.client import Client

    with Client() as client:
        status = client.status().get("ipfs")
    return None if status is None else status["rpc"]


_selector = Selector(_environment, _agent_url)


def _of(backend: Chosen, deps: object) -> IPFSBackend:
    if backend is None and deps is not None:
        given = deps.get("ipfs_backend") if isinstance(deps, Mapping) else None
        backend = given or getattr(deps, "ipfs_backend", None)
    if backend is not None and not isinstance(backend, str):
        return backend
    with as_runtime_errors():
        return _selector.choose(backend)[0]


def add_bytes(data: bytes, *, pin: bool = True, backend: Chosen = None, deps: object = None) -> str:
    """The CID of bytes as a file."""
    return _of(backend, deps).add_bytes(data, pin=pin)


def cat(cid: str, *, backend: Chosen = None, deps: object = None) -> bytes:
    """The bytes of a file: `<cid>`, `<cid>/path`, `/ipfs/<cid>/path`."""
    return _of(backend, deps).cat(cid)


def pin(cid: str, *, backend: Chosen = None, deps: object = None) -> None:
    """Keep it, and all below it."""
    _of(backend, deps).pin(cid)


def unpin(cid: str, *, backend: Chosen = None, deps: object = None) -> None:
    """Let it go when room is needed."""
    _of(backend, deps).unpin(cid)


def block_put(
    data: bytes, *, codec: str = "raw", backend: Chosen = None, deps: object = None
) -> str:
    """The CID of a block under a codec: raw, dag-pb, dag-cbor, dag-json."""
    return _of(backend, deps).block_put(data, codec=codec)


def block_get(cid: str, *, backend: Chosen = None, deps: object = None) -> bytes:
    """A block."""
    return _of(backend, deps).block_get(cid)


def add_path(
    path: str | os.PathLike[str],
    *,
    recursive: bool = True,
    pin: bool = True,
    chunker: str | None = None,
    backend: Chosen = None,
    deps: object = None,
) -> str:
    """The CID of a file or a folder; `chunker`: `size-<bytes>`."""
    chosen = _of(backend, deps)
    return chosen.add_path(path, recursive=recursive, pin=pin, chunker=chunker)


def get_to_path(
    cid: str,
    *,
    output_path: str | os.PathLike[str],
    backend: Chosen = None,
    deps: object = None,
) -> None:
    """Write a file or a folder there; it appears when all of it is verified and on disk."""
    _of(backend, deps).get_to_path(cid, output_path=output_path)


def ls(cid: str, *, backend: Chosen = None, deps: object = None) -> list[str]:
    """Names in a folder; none of a file."""
    return _of(backend, deps).ls(cid)


def dag_export(cid: str, *, backend: Chosen = None, deps: object = None) -> bytes:
    """All below it as a CARv1."""
    return _of(backend, deps).dag_export(cid)


def get_backend(name: str | None = None, *, deps: object = None) -> IPFSBackend:
    """The backend of that name, or the one that calls without a name use."""
    return _of(name, deps)


def get_backend_with_receipt(name: str | None = None) -> tuple[IPFSBackend, BackendSelection]:
    """The same, with what was looked at and why."""
    with as_runtime_errors():
        return _selector.choose(name)


def select_backend(name: str | None = None) -> BackendSelection:
    """The receipt alone."""
    return get_backend_with_receipt(name)[1]


def get_last_backend_selection() -> BackendSelection | None:
    """Of the last call that had to choose."""
    return _selector.last


def set_default_ipfs_backend(backend: IPFSBackend | None) -> None:
    """Use it whenever a call names none; None: choose again."""
    with as_runtime_errors():
        _selector.set_default(backend)


def register_ipfs_backend(name: str, factory: Callable[[], IPFSBackend]) -> None:
    """Have a backend of your own under that name."""
    with as_runtime_errors():
        _selector.register(name, factory)
