"""A Kubo beside the origin of a pull: it is asked for the missing files whose root is known here.

A file of one block has the root that its digest is; of a larger one the root is known where it was
here before (`store.pairs`). All are asked about at once, within PRESENT_S, while nothing is
fetched; what takes longer is told while the pull runs: a file of 5 GiB that no pin of its own keeps
is walked in a second. Nothing is searched for.
"""

from __future__ import annotations

import math
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import trio

from p2pcache.agent.kubos import PRESENT_S
from p2pcache.content import cid as cids
from p2pcache.content import digests
from p2pcache.content.refs import CidRef
from p2pcache.errors import NotFound, P2PCacheError, plain_errors
from p2pcache.lanes.orders import BLOCK_BYTES
from p2pcache.sources.port import KUBO, Credentials, Listing, SourceKind
from p2pcache.transfer.pull import KUBO_STREAMS
from p2pcache.transfer.want import Origin

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from p2pcache.agent.kubos import OpenKubo
    from p2pcache.agent.parts import Parts
    from p2pcache.lanes.orders import Location
    from p2pcache.store.store import Store
    from p2pcache.transfer.want import Helper, Wanted

MAX_ASKED = 256  # files of one pull, the largest: the rest is little
AT_ONCE = 8  # questions; each is a connection of its own


def kubo_helper(parts: Parts, kubo: OpenKubo | None) -> Helper | None:
    """What a pull asks; None where there is no Kubo."""
    return None if kubo is None else partial(_kubo_beside, parts.store, kubo)


@asynccontextmanager
async def _kubo_beside(
    store: Store, kubo: OpenKubo, missing: Sequence[Wanted], has_origin: bool
) -> AsyncIterator[Origin | None]:
    """See `transfer.want.Helper`. Without an origin its answers are waited for."""
    roots = await trio.to_thread.run_sync(_roots, store, missing)
    if not roots:
        yield None
        return
    with plain_errors():
        async with trio.open_nursery() as nursery:
            asking = _Asking(kubo, roots)
            nursery.start_soon(asking.run)
            with trio.move_on_after(PRESENT_S if has_origin else math.inf):
                await asking.over.wait()
            found = asking.take()
            yield None if not found and asking.over.is_set() else Origin(
                KUBO, SourceKind.KUBO, KUBO_STREAMS, asking.locate, found,
                more=asking.more, maps=asking.maps,
            )  # fmt: skip
            nursery.cancel_scope.cancel()


def _roots(store: Store, missing: Sequence[Wanted]) -> dict[str, tuple[bytes, Wanted]]:
    """The root of each file, by its key, where it is known; the largest files first."""
    named = {w.digest: w for w in missing if w.digest is not None and digests.is_sha256(w.digest)}
    large = [digests.raw(digest) for digest, w in named.items() if w.size_bytes > BLOCK_BYTES]
    pairs = store.pairs.of_sha256s(large)
    roots: dict[str, tuple[bytes, Wanted]] = {}
    for digest, wanted in sorted(named.items(), key=lambda one: -one[1].size_bytes):
        sha256 = digests.raw(digest)
        if wanted.size_bytes <= BLOCK_BYTES:
            roots[wanted.key] = cids.raw_cid(sha256), wanted
        elif (pair := pairs.get(sha256)) is not None and pair.size == wanted.size_bytes:
            roots[wanted.key] = pair.root, wanted
        if len(roots) == MAX_ASKED:
            break
    return roots


class _Asking:
    """Which of these files the Kubo has, all of each. `maps`: hashes of their blocks, proven."""

    def __init__(self, kubo: OpenKubo, roots: Mapping[str, tuple[bytes, Wanted]]) -> None:
        self._kubo = kubo
        self._roots = roots
        self._send, self.more = trio.open_memory_channel[str](len(roots))
        self._listing = Listing(KUBO, "", None, False, ())
        self.over = trio.Event()
        self.maps: dict[str, bytes] = {}

    async def run(self) -> None:
        """Ask about all of them. A Kubo that fails is asked no more."""
        limit = trio.CapacityLimiter(AT_ONCE)
        async with self._send, trio.open_nursery() as nursery:

            async def ask(key: str, root: bytes, wanted: Wanted) -> None:
                async with limit:
                    try:
                        has = await self._has(key, root, wanted)
                    except P2PCacheError:  # it says so itself where it alone is asked
                        nursery.cancel_scope.cancel()
                        return
                if has:
                    self._send.send_nowait(key)

            for key, (root, wanted) in self._roots.items():
                nursery.start_soon(ask, key, root, wanted)
        self.over.set()

    async def _has(self, key: str, root: bytes, wanted: Wanted) -> bool:
        if cids.codec(root) == cids.RAW:
            return await self._kubo.has_block(root)
        try:
            (file,) = (await self._kubo.list(CidRef(root), Credentials())).files
        except NotFound:
            return False
        if file.block_map is None or file.size != wanted.size_bytes:
            return False
        self.maps[key] = file.block_map
        return True

    def take(self) -> frozenset[str]:
        """What it was found to have so far; `more` has what comes after that."""
        found = set()
        while True:
            try:
                found.add(self.more.receive_nowait())
            except (trio.WouldBlock, trio.EndOfChannel):
                return frozenset(found)

    async def locate(self, key: str) -> Location:
        """See `Origin`."""
        text = cids.format_cid(self._roots[key][0])
        return await self._kubo.locate(self._listing, text, Credentials())
