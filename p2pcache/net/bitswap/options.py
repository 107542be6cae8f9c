"""What bitswap needs of others, and its limits."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

from p2pcache.content.peerid import PeerId
from p2pcache.net.bitswap.machine import WantOptions

Providers = AsyncIterator[tuple[PeerId, tuple[str, ...]]]
Find = Callable[[bytes], AbstractAsyncContextManager[Providers]]


class Served(Protocol):
    """Blocks that are here and that everybody in the network may have: a part of `Blocks`."""

    async def length(self, cid: bytes) -> int | None:
        """Its bytes, None: it is not here. Raises LocalFault."""
        ...

    async def get(self, cid: bytes, *, local: bool = False) -> bytes:
        """It; always asked for with `local`. Raises NotFound, LocalFault."""
        ...


@dataclass(frozen=True, slots=True)
class BitswapOptions:
    """Limits. A message is at most 4 MiB."""

    want: WantOptions = field(default_factory=WantOptions)
    max_gets: int = 256  # of one session at once; the rest waits
    max_streams: int = 8  # inbound, of one peer; it needs one
    open_s: float = 10.0  # to open a stream
    send_s: float = 30.0  # for a peer to take one message
    message_s: float = 60.0  # from the first byte of a message to its last
    read_here_bytes: int = 4 * 1024  # of a message; longer ones are parsed and hashed in a thread
    idle_s: float = 5.0  # our stream is closed when silent for so long; Helia waits 10
    tick_s: float = 0.5
    find_again_s: float = 5.0  # providers of one block are looked up no more often
    max_finds: int = 4  # at once
    max_named: int = 16  # of those that a table names for one block are dialled
    max_dials: int = 4  # of them at once
    dial_s: float = 5.0  # each; on a local network it takes 0.1
    mute_s: float = 600.0  # who broke the rules is not listened to
