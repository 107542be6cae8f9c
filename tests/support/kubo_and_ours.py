"""Kubo and our RPC side by side, asked the same.

A scenario runs on both, and what each was told is compared step by step. What differs by nature is
not told: ids, ports, sizes of stores, the words of errors that come from Go.
"""

from __future__ import annotations

import contextlib
import io
import random
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.kubo_daemon import kubo_daemon
from tests.support.kubo_rpc import Server
from tests.support.rpc_server import rpc_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

HELLO = "bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq"  # b"hello"
NOBODY_HAS = "bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yea"
MIB = 1 << 20
OLD_CLIENTS = [  # ipfshttpclient uses old words of urllib3
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def random_bytes(count: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(count)


BIG = random_bytes(3 * MIB + 17, 1)
MID = BIG[: MIB + 1000]


@contextlib.contextmanager
def kubo_and_ours(folder: Path) -> Iterator[tuple[Server, Server]]:
    """Ready; their stores are in `folder`."""
    (folder / "kubo").mkdir()
    with (
        kubo_daemon(folder / "kubo", None, profile="unixfs-v1-2025") as kubo,
        rpc_server(folder / "ours") as ours,
    ):
        host, port = kubo.api.split(":")
        yield Server(host, int(port), folder), ours


def same(servers: tuple[Server, Server], scenario: Callable[[Server], Iterator[Any]]) -> list[Any]:
    """What both were told, step by step."""
    kubo, ours = servers
    expected = list(scenario(kubo))
    for step, (theirs, got) in enumerate(zip(expected, scenario(ours), strict=True)):
        assert got == theirs, f"step {step} of {scenario.__name__}"
    return expected


def unpacked(archive: bytes) -> dict[str, Any]:
    """What a tar holds: bytes, a symlink's target, None for a folder."""
    found: dict[str, Any] = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            if member.isfile():
                content = tar.extractfile(member)
                assert content is not None
                found[member.name] = content.read()
            else:
                found[member.name.rstrip("/")] = member.linkname or None
    return found
