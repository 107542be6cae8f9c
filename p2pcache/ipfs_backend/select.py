"""Which backend: by name or by what answers, and a receipt that says what was found.

The order is the agent, then Kubo. Nothing takes the place of a daemon that does not answer: a
cache that others cannot read is no IPFS, and that it was chosen would have to be in small print.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from p2pcache.errors import P2PCacheError, Unavailable, UsageError
from p2pcache.ipfs_backend.backend import IPFSBackend, VerifyingBackend
from p2pcache.ipfs_backend.memory import MemoryBackend
from p2pcache.ipfs_backend.rpc import RpcBackend

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from p2pcache.config.environment import BackendEnvironment

    Factory = Callable[[], IPFSBackend]

AGENT, KUBO, MEMORY = "p2pcache", "kubo", "memory"
INSTEAD = {  # names of the router's own backends, and what each has instead here
    "ipfs_kit": AGENT, "ipfs_kit_py": AGENT, "hf_cache": AGENT, "cache": AGENT,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class BackendSelection:
    """What was chosen, and why. `degraded`: it is not the first that was wanted; each reason says
    what kept one from being chosen.
    """

    selected_name: str
    selected_role: str
    preferred_available: bool
    degraded: bool
    degradation_reasons: tuple[str, ...]
    capabilities: dict[str, bool]
    candidate_order: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "selected_name": self.selected_name,
            "selected_role": self.selected_role,
            "preferred_available": self.preferred_available,
            "degraded": self.degraded,
            "degradation_reasons": list(self.degradation_reasons),
            "capabilities": dict(self.capabilities),
            "candidate_order": list(self.candidate_order),
        }


def classify_backend_role(backend: object) -> str:
    """`p2pcache`, `kubo`, `memory`, or `unknown` for one of somebody else."""
    return backend.role if isinstance(backend, VerifyingBackend) else "unknown"


def describe_backend_capabilities(backend: object) -> dict[str, bool]:
    """What may be relied on. Of a backend of somebody else nothing is known."""
    ours = isinstance(backend, VerifyingBackend)
    return dict.fromkeys(
        (
            "conformant_cid", "supports_raw", "supports_dag_json", "supports_car", "supports_pin",
            "codec_preservation_guaranteed",
        ),
        ours,
    )  # fmt: skip


@dataclass(slots=True)
class Selector:
    """The registry and the choice of one process. Any thread may call."""

    environment: Callable[[], BackendEnvironment]
    agent_url: Callable[[], str | None]
    registry: dict[str, Factory] = field(default_factory=dict)
    default: IPFSBackend | None = None
    last: BackendSelection | None = None
    _cached: tuple[BackendEnvironment, IPFSBackend, BackendSelection] | None = None
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def register(self, name: str, factory: Factory) -> None:
        """Have a backend of that name. Raises UsageError for a name that is taken by ours."""
        if name in (AGENT, KUBO, MEMORY, *INSTEAD) or not name:
            raise UsageError(f"`{name}` is the name of a backend that is here already")
        with self._lock:
            self.registry[name] = factory
            self._cached = None

    def set_default(self, backend: IPFSBackend | None) -> None:
        """Use this one whenever a call names none; None: choose again."""
        if backend is not None and not isinstance(backend, IPFSBackend):
            raise UsageError(f"{type(backend).__name__} has not the calls of a backend")
        with self._lock:
            self.default, self._cached = backend, None

    def choose(self, name: str | None = None) -> tuple[IPFSBackend, BackendSelection]:
        """The backend of that name, else the default, else `IPFS_BACKEND`, else the first that
        answers. Raises UsageError: no such backend; Unavailable: it, or none, answers.
        """
        with self._lock:
            backend, receipt = self._choose(name)
            self.last = receipt
            return backend, receipt

    def _choose(self, name: str | None) -> tuple[IPFSBackend, BackendSelection]:
        if name is None and self.default is not None:
            return self.default, _receipt(self.default, "default", ("default",), (), "default")
        environment = self.environment()
        wanted = name or environment.backend
        if wanted is not None:
            return self._named(wanted)
        if environment.cache and self._cached is not None and self._cached[0] == environment:
            return self._cached[1], self._cached[2]
        backend, receipt = self._first(environment)
        if environment.cache:
            self._cached = environment, backend, receipt
        return backend, receipt

    def _named(self, wanted: str) -> tuple[IPFSBackend, BackendSelection]:
        name = INSTEAD.get(wanted, wanted)
        backend = self._open(name)
        reasons = () if name == wanted else (f"there is no `{wanted}` here: `{name}` stands in",)
        return backend, _receipt(backend, name, (wanted,), reasons, wanted)

    def _first(self, environment: BackendEnvironment) -> tuple[IPFSBackend, BackendSelection]:
        order = (AGENT, KUBO) if environment.agent else (KUBO,)
        reasons: list[str] = []
        if not environment.agent:
            reasons.append(f"`{AGENT}` is switched off in the environment")
        for name in order:
            try:
                backend = self._open(name)
            except P2PCacheError as exc:
                reasons.append(f"`{name}`: {exc.message}")
                continue
            return backend, _receipt(backend, name, order, tuple(reasons), AGENT)
        raise Unavailable(
            "no IPFS backend answers: " + "; ".join(reasons),
            hint="start an agent with `ipfs.rpc` set, or a Kubo",
        )

    def _open(self, name: str) -> IPFSBackend:
        if name in self.registry:
            return self.registry[name]()
        if name == MEMORY:
            return MemoryBackend()
        if name == AGENT:
            url = self.agent_url()
            if url is None:
                raise Unavailable(
                    "the agent has no RPC", hint="set `ipfs.rpc`, such as 127.0.0.1:5001"
                )
        elif name == KUBO:
            url = kubo_url(self.environment().ipfs_path)
        else:
            known = ", ".join(sorted({AGENT, KUBO, MEMORY, *self.registry}))
            raise UsageError(f"there is no backend `{name[:80]}`", hint=f"known: {known}")
        backend = RpcBackend(name, url)
        is_agent = str(backend.version().get("Commit", "")).startswith("p2pcache/")
        if is_agent != (name == AGENT):
            raise Unavailable(f"{url} is {'an agent' if is_agent else 'no agent'}")
        return backend


def kubo_url(repo: Path) -> str:
    """Where the Kubo of that repository listens, as its `api` file says. Raises Unavailable."""
    try:
        text = (repo / "api").read_text().strip()
    except OSError as exc:
        raise Unavailable(f"no Kubo runs in {repo}: it has no `api` file") from exc
    match text.strip("/").split("/"):
        case [_, host, "tcp", port, *_] if port.isdecimal():
            return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    raise Unavailable(f"{repo / 'api'} names no TCP address")


def _receipt(
    backend: IPFSBackend, name: str, order: tuple[str, ...], reasons: tuple[str, ...], wanted: str
) -> BackendSelection:
    return BackendSelection(
        selected_name=name,
        selected_role=classify_backend_role(backend),
        preferred_available=name == wanted,
        degraded=name != wanted,
        degradation_reasons=reasons,
        capabilities=describe_backend_capabilities(backend),
        candidate_order=order,
    )
