"""Bounds of requests to a store's own API: plain values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RestOptions:
    """Bounds of requests to one store."""

    ca_file: str | None = None
    request_timeout_s: float = 10.0  # connect, and each read
    deadline_s: float = 120.0  # of all requests of one question; 1e6 keys are 1000 pages of 0.1 s
    max_reply_bytes: int = 32 << 20  # a page of 5000 names of 1 KiB, with metadata
