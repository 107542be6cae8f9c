"""A Kubo as a source: what it has of a CID, without a search in the network, proven before a byte.

A listing is made of the DAG's own nodes: each is fetched as a block and verified, from the root
down. Of files as our profile writes them the hashes of all blocks are proven so before a byte is
asked for: they come by ranged GETs of its gateway, like everybody's, each block checked as it
arrives. Files of another shape (other chunks, wrapped leaves, CIDv0) come block by block
(`lanes.dag`).

Whether Kubo has all of it is asked first, for its gateway looks for what is missing in the network
for 30 s, and cuts a partial file short: a recursive pin is complete, of anything else Kubo walks
its own blocks (`files/stat`, offline). Kubo 0.43 does that at 0.2 s a GiB.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import trio
import trio.from_thread

from p2pcache.content import cid as cids
from p2pcache.content.dag import listing
from p2pcache.content.dag.hashes import KNOWN
from p2pcache.content.refs import CidRef, canonical
from p2pcache.errors import Denied, NotFound, Unavailable, UsageError, plain_errors
from p2pcache.lanes.orders import Location
from p2pcache.sources.dag_files import listed_files
from p2pcache.sources.kubo_calls import KuboCalls
from p2pcache.sources.kubo_place import gateway_url
from p2pcache.sources.port import KUBO, Listing, SourceKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from p2pcache.content.dag.walk import Get
    from p2pcache.content.refs import Ref
    from p2pcache.sources.kubo_place import KuboPlace
    from p2pcache.sources.port import Credentials

R = TypeVar("R")

AT_ONCE = 100  # blocks whose sizes are one question; its line has 6 KB then
MAX_NUMBER = (1 << 63) - 1  # of bytes, as Kubo counts; JSON has longer ones, which no float holds
MAX_MEMORY_BYTES = 32 << 20  # of nodes that one listing keeps for its second look at them


@dataclass(frozen=True, slots=True)
class KuboOptions:
    """How long it is waited for."""

    present_s: float = 0.25  # for "do you have it?"; Kubo takes 1 ms. Then the next source
    walk_s: float = 5.0  # for "all of it?", and as long again for each GiB: its disk may be slow
    timeout_s: float = 10.0  # for each further answer: nodes of some KB out of its store


class KuboSource:
    """The Kubo adapter: one Kubo. It holds nothing open."""

    name = KUBO
    kind = SourceKind.KUBO

    def __init__(self, place: KuboPlace, options: KuboOptions = KuboOptions()) -> None:
        self._api = place.api
        self._options = options
        self._calls = KuboCalls(place.api, options.timeout_s)
        self._gateway_found = place.gateway

    def accepts(self, ref: Ref) -> bool:
        """Whether the ref is a CID of UnixFS content with a hash that we know."""
        if not isinstance(ref, CidRef):
            return False
        parts = cids.parts(ref.cid)
        return parts.codec in (cids.RAW, cids.DAG_PB) and parts.hash_code in KNOWN

    def endpoint(self, ref: Ref, credentials: Credentials) -> str:
        """The address of its RPC."""
        self._cid_ref(ref)
        return self._api

    async def list(self, ref: Ref, credentials: Credentials) -> Listing:
        """The files below a CID, all of which this Kubo has, with the proven hashes of blocks.

        Raises NotFound when it has not, or only a part (no search is made), Unavailable, Denied,
        Untrusted (nodes that do not verify or parse), UsageError.
        """
        asked = self._cid_ref(ref)
        pinned = await self._has_root(asked.cid)
        nodes = _Nodes(self._calls, await self._gateway())
        target = asked.cid
        if asked.path is not None:
            target = await nodes.read(listing.below, asked.cid, asked.path)
        if not pinned:
            await self._has_all(target)
        found = await nodes.read(listing.listed, target, asked.path)
        believed = {cids.format_cid(cid): cid for cid in found.believed}
        sizes = await self._sizes(believed)
        found.correct({believed[key]: size for key, size in sizes.items() if key in believed})
        return Listing(
            source=self.name,
            endpoint=self._api,
            immutable=canonical(asked),
            mutable=False,
            files=listed_files(found),
            notes=found.notes,
            nodes=found.nodes,
        )

    async def gives(self, ref: Ref, immutable: str | None, credentials: Credentials) -> bool:
        """Whether it has all of it; a CID means one thing for ever. Raises NotFound as `list`."""
        asked = self._cid_ref(ref)
        if immutable not in (None, canonical(asked)):
            return False
        if not await self._has_root(asked.cid):
            await self._has_all(asked.cid)
        return True

    async def locate(self, listing: Listing, key: str, credentials: Credentials) -> Location:
        """The gateway's URL of a file. What Kubo lost since costs no search, but is a 412."""
        url = f"{await self._gateway()}/ipfs/{key}"
        return Location(url, (("Cache-Control", "only-if-cached"),), direct=True)

    def join(self, keys: Sequence[str]) -> Location:
        """See `Joins`: its `cat`, which looks for none of them in the network."""
        asked = "&".join(f"arg={key}" for key in keys)
        url = f"{self._api}/api/v0/cat?offline=true&progress=false&{asked}"
        return Location(url, direct=True)

    async def block(self, cid: bytes) -> bytes:
        """One block that it has, verified; it searches for none. Raises as `list`."""
        return await self._calls.block(await self._gateway(), cid)

    async def has_block(self, cid: bytes) -> bool:
        """Whether it has one block; it searches for none. Raises Unavailable, Denied, Untrusted."""
        try:
            await self._calls.rpc("block/stat", cids.format_cid(cid), offline="true")
        except NotFound:
            return False
        return True

    async def about(self) -> str:
        """Its version and where it is, for people. Raises as `list`."""
        told = await self._calls.rpc("version")
        return f"Kubo {str(told.get('Version'))[:40]} at {self._api}"

    async def aclose(self) -> None:
        """Nothing is open between two calls."""

    # -- what it has ------------------------------------------------------------------------------

    async def _has_root(self, cid: bytes) -> bool:
        """Whether it is pinned with all below. Raises NotFound when not even its block is there."""
        calls, text, pinned = self._calls, cids.format_cid(cid), False

        async def ask_pin() -> None:
            nonlocal pinned
            try:
                await calls.rpc("pin/ls", text, type="recursive")
                pinned = True
            except NotFound:
                pass

        try:
            with trio.fail_after(self._options.present_s), plain_errors():
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(ask_pin)
                    await calls.rpc("block/stat", text, offline="true")
        except trio.TooSlowError as exc:
            raise Unavailable(
                f"Kubo at {self._api} did not say within {self._options.present_s:g} s "
                "whether it has it"
            ) from exc
        return pinned

    async def _has_all(self, cid: bytes) -> None:
        """Raise NotFound when it has only a part of what is below."""
        where, calls = f"/ipfs/{cids.format_cid(cid)}", self._calls
        with trio.move_on_after(self._options.walk_s) as patience:
            told = await calls.rpc("files/stat", where, offline="true")
            all_bytes = _number(told, "CumulativeSize")
            patience.deadline += self._options.walk_s * all_bytes / (1 << 30)
            walked = await calls.rpc("files/stat", where, offline="true", with_local="true")
        if patience.cancelled_caught:
            raise Unavailable(
                f"Kubo at {self._api} did not say in time whether it has all of it",
                hint="pin it there: what is pinned is complete",
            )
        if walked.get("Local") is not True:
            raise NotFound(
                f"Kubo at {self._api} has {_number(walked, 'SizeLocal')} of the "
                f"{all_bytes} bytes, and the rest it would have to search"
            )

    async def _sizes(self, keys: Iterable[str]) -> dict[str, int]:
        """How long blocks are, by their CIDs as text. Empty where Kubo does not let us ask for
        several at once, as an old one.
        """
        sizes, left = dict[str, int](), list(keys)
        for at in range(0, len(left), AT_ONCE):
            some = left[at : at + AT_ONCE]
            try:
                told = await self._calls.rpc("dag/stat", *some, offline="true", progress="false")
            except Denied:
                return {}
            sizes |= _block_sizes(told.get("DagStats"))
        return sizes

    async def _gateway(self) -> str:
        """Where it serves bytes, by its own configuration where none is set."""
        if self._gateway_found is None:
            told = await self._calls.rpc("config", "Addresses.Gateway")
            self._gateway_found = gateway_url(told.get("Value"), self._api)
        if self._gateway_found is None:
            raise Unavailable(
                f"Kubo at {self._api} tells no address of its gateway",
                hint="set `Addresses.Gateway` there, or `ipfs.kubo_gateway` here",
            )
        return self._gateway_found

    def _cid_ref(self, ref: Ref) -> CidRef:
        if not isinstance(ref, CidRef) or not self.accepts(ref):
            raise UsageError(f"not a CID of files: {ref}")
        return ref


class _Nodes:
    """The nodes of one listing, read in a thread and verified; some are kept for a second look."""

    def __init__(self, calls: KuboCalls, gateway: str) -> None:
        self._calls = calls
        self._gateway = gateway
        self._kept: dict[bytes, bytes] = {}
        self._kept_bytes = 0

    async def read(
        self, work: Callable[[Get, bytes, str | None], R], root: bytes, below: str | None
    ) -> R:
        """Run `work(get, root, below)` in a thread. Raises what it or `get` raises."""
        return await trio.to_thread.run_sync(work, self._get, root, below)

    def _get(self, cid: bytes) -> bytes:
        known = self._kept.get(cid)
        if known is not None:
            return known
        data: bytes = trio.from_thread.run(self._calls.block, self._gateway, cid)
        if self._kept_bytes < MAX_MEMORY_BYTES:
            self._kept[cid] = data
            self._kept_bytes += len(data)
        return data


def _block_sizes(told: object) -> dict[str, int]:
    """What `dag/stat` says of blocks without links."""
    stats = [one for one in told if isinstance(one, dict)] if isinstance(told, list) else []
    return {key: _number(one, "Size") for one in stats if isinstance(key := one.get("Cid"), str)}


def _number(told: dict[str, object], name: str) -> int:
    value = told.get(name)
    return value if isinstance(value, int) and 0 <= value <= MAX_NUMBER else 0
