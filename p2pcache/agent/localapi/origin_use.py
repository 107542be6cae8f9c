"""What `origins` answers: what the network fetched of each origin in a month, and its cost."""

from __future__ import annotations

from typing import TypedDict


class OriginMember(TypedDict):
    """What one agent fetched of an origin this month. `peer` None: this agent, while it had no
    identity.

    `asks_now`: it has requests there, or wants to; `running`: how many, by its word. `heard`: its
    word counts (see `except=`).
    """

    peer: str | None
    ours: bool
    bytes: int
    requests: int
    asks_now: bool
    running: int
    heard: bool


class ParkedMember(TypedDict):
    """An agent that an origin told to wait, until a unix time."""

    peer: str | None
    ours: bool
    until: float


class OriginCostAnswer(TypedDict):
    """Money, at the price of `origins.prices`."""

    amount: float
    currency: str


class OriginStatus(TypedDict):
    """One origin in this month (UTC), as far as is known here. `limits`: `requests_per_s`,
    `concurrent`, `bytes_per_s` and `month_bytes`, each None where there is none; `renews_at`: unix
    time; `used_up`: nobody asks it any more before that. `members`: those that fetched most.
    `bytes` and `requests` are what was fetched; what pushes sent is none of it.
    Of this agent alone: `errors`, `sent_bytes`, `sent_objects` (objects of buckets, blobs of
    registries or blocks of a Kubo; also by its first name, `sent_requests`), and `content_bytes`,
    of the distinct files of this origin that came here in that month; `copies`: how often their
    bytes left the origin.
    """

    host: str
    month: str
    renews_at: float
    limits: dict[str, float | None]
    bytes: int
    requests: int
    used_up: bool
    errors: int
    sent_bytes: int
    sent_objects: int
    sent_requests: int
    content_bytes: int
    copies: float | None
    cost: OriginCostAnswer | None
    members: list[OriginMember]
    parked: list[ParkedMember]
