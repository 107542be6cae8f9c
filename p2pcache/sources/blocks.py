"""Blocks as a source: a CID whose blocks are here, or that those who speak blocks (a Kubo, bitswap)
bring one by one.

A listing is made of the DAG's own nodes, as of a Kubo. Whatever its shape, each file is put
together of its blocks (`read`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import trio
import trio.from_thread

from p2pcache.content import cid as cids
from p2pcache.content.dag import files as dag_files
from p2pcache.content.dag import listing
from p2pcache.content.dag.hashes import KNOWN
from p2pcache.content.dag.walk import stream
from p2pcache.content.refs import CidRef, canonical
from p2pcache.errors import NotFound, Unavailable, UsageError
from p2pcache.sources.dag_files import listed_files
from p2pcache.sources.port import BLOCKS, FETCHED, Listing, SourceKind

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Protocol

    from p2pcache.content.refs import Ref
    from p2pcache.sources.port import Credentials

    class LocalBlocks(Protocol):
        """What is here, for threads; see `transfer.blocks`."""

        def read(self, cid: bytes) -> bytes | None:
            """The block, verified just now; None when it is not here."""
            ...

        def length(self, cid: bytes) -> int | None:
            """Its bytes; None when it is not here."""
            ...

        def file_of(self, cid: bytes) -> object | None:
            """The blob that a CID names; None when there is none."""
            ...


MAX_THREADS = 16  # of its own: they wait for blocks, and who brings those needs the common ones
PRESENT_S = 5.0  # for somebody to bring the root: bitswap asks its peers, and a table after 1 s


class BlocksSource:
    """Of one agent. `fetch` brings a block that is not here (cancelled, it leaves nothing behind);
    without it nobody is asked. `shown`: what of `local` everybody may read; whatever is made of the
    rest is listed as gated.
    """

    kind = SourceKind.KUBO

    def __init__(
        self,
        local: LocalBlocks,
        shown: LocalBlocks,
        fetch: Callable[[bytes], Awaitable[bytes]] | None = None,
    ) -> None:
        self._local = local
        self._shown = shown
        self._fetch = fetch
        self.is_here = fetch is None
        self.threads = trio.CapacityLimiter(MAX_THREADS)
        self.name = BLOCKS if fetch is None else FETCHED

    def accepts(self, ref: Ref) -> bool:
        """Whether the ref is a CID of UnixFS content with a hash that we know."""
        if not isinstance(ref, CidRef):
            return False
        parts = cids.parts(ref.cid)
        return parts.codec in (cids.RAW, cids.DAG_PB) and parts.hash_code in KNOWN

    def endpoint(self, ref: Ref, credentials: Credentials) -> str:
        """It has none."""
        return ""

    async def list(self, ref: Ref, credentials: Credentials) -> Listing:
        """The files below a CID; where nobody is asked, only if all their blocks are here.

        Raises NotFound, Unavailable, Untrusted (blocks that make no files), UsageError (a symlink).
        """
        if not isinstance(ref, CidRef) or not self.accepts(ref):
            raise UsageError(f"not a CID of files: {ref}")
        await self._begin(ref)
        found, gated = await trio.to_thread.run_sync(self._listed, ref, limiter=self.threads)
        return Listing(
            source=self.name,
            endpoint="",
            immutable=canonical(ref),
            mutable=False,
            files=listed_files(found, whole=False),
            gated=gated,
            notes=found.notes,
            nodes=found.nodes,
        )

    async def gives(self, ref: Ref, immutable: str | None, credentials: Credentials) -> bool:
        """Whether its root comes; a CID means one thing for ever."""
        assert isinstance(ref, CidRef), "`accepts` said so"
        await self._begin(ref)
        return immutable in (None, canonical(ref))

    async def locate(self, source_listing: Listing, key: str, credentials: Credentials) -> NoReturn:
        """There is no URL of a block: `read` gives it."""
        raise UsageError("blocks have no address")

    async def aclose(self) -> None:
        """Nothing is open."""

    def read(self, cid: bytes) -> bytes:
        """One block, verified; for worker threads of trio. Raises NotFound, Unavailable."""
        trio.from_thread.check_cancelled()
        data = self._local.read(cid)
        if data is not None:
            return data
        if self._fetch is None:
            raise NotFound(f"the block {cids.format_cid(cid)} is not here")
        return trio.from_thread.run(self._fetch, cid)

    async def _begin(self, ref: CidRef) -> None:
        """Have the root here, or learn soon that nobody gives it."""
        if await trio.to_thread.run_sync(self._local.length, ref.cid) is not None:
            return
        if self._fetch is None:
            raise NotFound("its root is not here")
        with trio.move_on_after(PRESENT_S):
            await self._fetch(ref.cid)
            return
        raise Unavailable(f"nobody brought its root by blocks within {PRESENT_S:g} s")

    def _listed(self, ref: CidRef) -> tuple[listing.Listed, bool]:
        """What is below, and whether not everybody may read all of that."""
        target = ref.cid if ref.path is None else listing.below(self.read, ref.cid, ref.path)
        found = listing.listed(self.read, target, ref.path)
        found.correct({cid: self._size(cid) for cid in found.believed})
        if self._fetch is None:
            for cid in {file.cid for file in found.files}:
                self._check(cid)
        asked = {ref.cid, target, *(file.cid for file in found.files)}
        return found, any(map(self._is_hidden, asked))

    def _is_hidden(self, cid: bytes) -> bool:
        return self._shown.length(cid) is None and self._local.length(cid) is not None

    def _size(self, cid: bytes) -> int:
        known = self._local.length(cid)
        return len(self.read(cid)) if known is None else known

    def _check(self, cid: bytes) -> None:
        """Raise NotFound unless all of a file is here."""
        if self._local.file_of(cid) is not None:
            return
        for leaf in stream(dag_files.leaves(cid), self.read):
            if leaf.data is None and self._local.length(leaf.cid) is None:
                raise NotFound(f"a part of it is here: {cids.format_cid(leaf.cid)} is missing")
