"""What the agent answers on preloads. Sizes in bytes; moments are unix times."""

from __future__ import annotations

from typing import NotRequired, TypedDict


class PreloadAnswer(TypedDict):
    """A preload as its signer wished it. `limit_rate`: bytes/s of each agent, None: as it can.

    `nodes`: "all", a number of agents, or labels; `mine`: this agent signed it; `state`: its own;
    `chosen`: it is selected.
    """

    id: str
    ref: str
    revision: str | None
    manifest: str
    nodes: str
    replicas: int
    limit_rate: int | None
    signer: str
    mine: bool
    issued_at: float
    start_at: float
    deadline_at: float
    expires_at: float
    cancelled: bool
    notes: NotRequired[list[str]]
    totals: NotRequired[PreloadTotals]
    state: NotRequired[str]
    chosen: NotRequired[bool]


class PreloadTotals(TypedDict):
    """Sums over the selected agents. `origin_copies`: what origins sent, in sizes of the content;
    None while the size is not known.
    """

    agents: int
    complete: int
    size_bytes: int
    done_bytes: int
    total_bytes: int
    bytes_per_s: float
    eta_s: float | None
    origin_bytes: int
    origin_copies: float | None


class PreloadLine(TypedDict):
    """One agent's own word on a preload. `state`: idle, waiting, pulling, complete, refused, failed
    or cancelled; `code`: why; `here`: it is connected now; `heard_s`: how old its word is.
    """

    peer: str
    self: bool
    here: bool
    chosen: bool
    state: str
    code: str | None
    done_bytes: int
    total_bytes: int
    origin_bytes: int
    bytes_per_s: float
    labels: str
    heard_s: float


class PreloadStateAnswer(PreloadAnswer):
    """How far every agent is. `over`: nothing more is to be expected."""

    agents: list[PreloadLine]
    over: bool
