"""What goes wrong while a folder of a bucket is pulled, whichever store it is in: one table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pcache import errors
from tests.support.blobs import MIB
from tests.support.partial_files import some_bytes
from tests.support.s3_proxy import Ask, Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from tests.support.agents import Agent


def model(name: str, large: int = 6 * MIB + 5) -> dict[str, bytes]:
    """A folder whose bytes no other test has."""
    return {
        "config.json": b'{"name": "%s"}' % name.encode(),
        "sub/tokens.json": some_bytes(70_000, name.encode() + b"t"),
        "model-1.bin": some_bytes(large, name.encode() + b"1"),
        "model-2.bin": some_bytes(3 * MIB, name.encode() + b"2"),
    }


def shown(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def unfinished(agent: Agent) -> list[str]:
    """What waits for more bytes, or was found to be wrong."""
    folders = [agent.home / "partial-v1", agent.home / "quarantine-v1"]
    return [path.name for folder in folders for path in folder.iterdir()]


def bad_range(ask: Ask) -> bool:
    """Of the first large file, behind its first block."""
    return ask.reads and "model-1" in ask.path and not ask.headers.get("range", "=0-").count("=0-")


def large(ask: Ask) -> bool:
    return ask.reads and "model-1" in ask.path


def small(ask: Ask) -> bool:
    return ask.reads and "config.json" in ask.path


Fault = tuple["Callable[[Ask], bool]", Reply, type[errors.P2PCacheError], str]
FAULTS: Mapping[str, Fault] = {
    "403": (large, Reply(403, "AccessDenied"), errors.Denied, "AccessDenied"),
    "403 small": (small, Reply(403, "AccessDenied"), errors.Denied, "AccessDenied"),
    "expired login": (large, Reply(400, "ExpiredToken"), errors.Denied, "login has expired"),
    "clock": (large, Reply(403, "RequestTimeTooSkewed"), errors.LocalFault, "clock"),
    "gone": (large, Reply(404, "NoSuchKey"), errors.NotFound, "NoSuchKey"),
    "gone small": (small, Reply(404, "NoSuchKey"), errors.NotFound, "NoSuchKey"),
    "archived": (large, Reply(403, "InvalidObjectState"), errors.Denied, "archive"),
    "500": (large, Reply(500, "InternalError"), errors.Unavailable, "InternalError"),
    "slow down": (large, Reply(503, "SlowDown"), errors.Unavailable, "SlowDown"),
    "429": (small, Reply(429), errors.Unavailable, "limiting"),
    "cut": (large, Reply(cut_after=100_000), errors.Unavailable, ""),
    "silent": (large, Reply(wait_s=4.0), errors.Unavailable, "no progress"),
    "other bytes": (large, Reply(200, body=b"x"), errors.Untrusted, ""),
}
