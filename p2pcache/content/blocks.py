"""The ports over blocks: who shows, fetches or serves IPFS content asks one of these and knows no
store and no network.

A CID here is binary: CIDv1, or a CIDv0 (the bare sha2-256 multihash). Blocks go by their multihash:
the same bytes under another codec are the same block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractContextManager

MAX_BLOCK_BYTES = 2 << 20  # what bitswap carries; larger ones are neither taken nor made


class Blocks(Protocol):
    """Blocks by CID: those that are here, and those that others can bring.

    Safe to call from many tasks; calls for one missing CID share one fetch. Whatever is given was
    verified against its CID just now or when it came in. Every method may raise LocalFault (our
    disk); none blames a remote by an error, that is done where the remote is known.
    Cancelled, a call leaves nothing behind; a fetch that others wait for goes on.
    """

    async def get(self, cid: bytes, *, local: bool = False) -> bytes:
        """The block; at most MAX_BLOCK_BYTES. `local`: only from this machine, at once.

        Else it may take as long as the fetchers do: put your own deadline around it. Raises
        NotFound (not here, or everybody asked says no), Unavailable (somebody did not answer),
        Denied, UsageError (a hash function or a length that we do not know).
        """
        ...

    async def has(self, cid: bytes) -> bool:
        """Whether `get(local=True)` would give it; asks nobody. Some 0.1 ms."""
        ...

    async def length(self, cid: bytes) -> int | None:
        """Bytes of a local block, None where it is not here; asks nobody."""
        ...

    async def put(self, cid: bytes, data: bytes) -> None:
        """Keep a block, as a loose one that may be evicted. It is checked at this door.

        Idempotent. Raises Untrusted (the bytes are not of this CID), UsageError (over
        MAX_BLOCK_BYTES, unknown hash function), DiskFull. Survives a kill; a power cut only once
        it is pinned.
        """
        ...

    def watch(self, tell: Callable[[bytes | None], None]) -> Callable[[], None]:
        """Have `tell` called in the trio thread when a block came in: its multihash, or None for
        many at once (a blob is complete): look again then. Gives what ends it.
        """
        ...


class Fetcher(Protocol):
    """Somebody who may bring a block that is not here: a Kubo, a bitswap session, the swarm."""

    async def fetch(self, cid: bytes) -> bytes | None:
        """The bytes, unverified; None: it has it not. Bounded in time by itself.

        Raises Unavailable when it did not answer; NotFound is taken as None.
        """
        ...

    def lied(self, cid: bytes) -> None:
        """What it gave for this CID did not verify: it is not to be asked again soon."""
        ...


class Pins(Protocol):
    """DAGs that stay. A pin goes by its root; CIDs as above."""

    async def pin(self, root: bytes, *, recursive: bool = True) -> None:
        """Keep the root, and all below it unless `recursive` is False. Fetches what is missing.

        What is pinned is on disk when this returns, also after a power cut. Idempotent. Raises as
        `Blocks.get`, and Untrusted for a DAG that is none.
        """
        ...

    def holding(self) -> AbstractContextManager[Callable[[Iterable[bytes]], None]]:
        """While open, blocks (multihashes) given to what it yields are not removed."""
        ...

    async def unpin(self, root: bytes) -> bool:
        """Whether it was pinned."""
        ...

    async def pins(self) -> dict[bytes, bool]:
        """Every pinned root, and whether it is recursive."""
        ...

    async def pinned_below(self) -> set[bytes]:
        """Multihashes of all blocks that recursive pins keep, roots among them."""
        ...

    async def remove(self, cid: bytes) -> bool:
        """Forget a loose block; whether it was one. Raises Denied when it is pinned."""
        ...
