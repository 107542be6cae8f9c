"""A Kubo as a source: what it has of a CID, without a search in the network, proven before a byte.

A listing is made of the DAG's own nodes: each is fetched as a block and verified, from the root
down, so that the hashes of a file's blocks are proven before its bytes are asked for. The bytes are
ranged GETs of its gateway, like everybody's; each block is checked as it arrives.

Whether Kubo has all of it is asked first, for its gateway looks for what is missing in the network
for 30 s, and cuts a partial file short: a recursive pin is complete, of anything else Kubo walks
its own blocks (`files/stat`, offline). Kubo 0.43 does that at 0.2 s a GiB.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple, Unpack

import trio
import trio.from_thread

from p2pcache.content import cid as cids
from p2pcache.content import digests
from p2pcache.content.refs import CidRef, canonical
from p2pcache.content.unixfs_read import leaf_hashes, parse_node, sized_files_below
from p2pcache.errors import NotFound, Unavailable, UsageError, plain_errors
from p2pcache.lanes.orders import Location
from p2pcache.sources.kubo_calls import KuboCalls
from p2pcache.sources.kubo_place import gateway_url
from p2pcache.sources.port import KUBO, ListedFile, Listing, SourceKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from p2pcache.content.refs import Ref
    from p2pcache.content.unixfs_read import Get
    from p2pcache.sources.kubo_place import KuboPlace
    from p2pcache.sources.port import Credentials

R = TypeVar("R")
A = TypeVarTuple("A")

MAX_ENTRIES = 200_000  # of one folder with all below; a listing holds one value for each
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
        """Whether the ref is a CID of UnixFS content."""
        return isinstance(ref, CidRef) and (
            len(ref.cid) == 36
            and cids.codec(ref.cid) in (cids.RAW, cids.DAG_PB)
            and digests.is_sha256(cids.multihash(ref.cid))
        )

    def endpoint(self, ref: Ref, credentials: Credentials) -> str:
        """The address of its RPC."""
        self._cid_ref(ref)
        return self._api

    async def list(self, ref: Ref, credentials: Credentials) -> Listing:
        """The files below a CID, all of which this Kubo has, with the proven hashes of blocks.

        Raises NotFound when it has not, or only a part (no search is made), Unavailable, Denied,
        Untrusted (nodes that do not verify or parse, a shape that is not supported), UsageError.
        """
        asked = self._cid_ref(ref)
        pinned = await self._has_root(asked.cid)
        gateway = await self._gateway()
        nodes = _Nodes(self._calls, gateway)
        target = asked.cid
        if asked.path is not None:
            target = await nodes.read(_below, asked.cid, asked.path)
        if not pinned:
            await self._has_all(target)
        size = None
        if target == asked.cid and cids.codec(target) == cids.RAW:
            size = await self._block_bytes(target)
        files = await nodes.read(_files, target, asked.path, f"{gateway}/ipfs/", size)
        return Listing(
            source=self.name,
            endpoint=self._api,
            immutable=canonical(asked),
            mutable=False,
            files=tuple(files),
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
        """The gateway's URL of a file. Pure. What Kubo lost since is no search, but a 412."""
        return Location(key, (("Cache-Control", "only-if-cached"),), direct=True)

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
        path, calls = f"/ipfs/{cids.format_cid(cid)}", self._calls
        with trio.move_on_after(self._options.walk_s) as patience:
            told = await calls.rpc("files/stat", path, offline="true")
            all_bytes = _number(told, "CumulativeSize")
            patience.deadline += self._options.walk_s * all_bytes / (1 << 30)
            walked = await calls.rpc("files/stat", path, offline="true", with_local="true")
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

    async def _block_bytes(self, cid: bytes) -> int:
        told = await self._calls.rpc("block/stat", cids.format_cid(cid), offline="true")
        return _number(told, "Size")

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

    async def read(self, work: Callable[[Get, Unpack[A]], R], *args: *A) -> R:
        """Run `work(get, *args)` in a thread. Raises what it or `get` raises."""
        return await trio.to_thread.run_sync(lambda: work(self._get, *args))

    def _get(self, cid: bytes) -> bytes:
        known = self._kept.get(cid)
        if known is not None:
            return known
        data: bytes = trio.from_thread.run(self._calls.block, self._gateway, cid)
        if self._kept_bytes < MAX_MEMORY_BYTES:
            self._kept[cid] = data
            self._kept_bytes += len(data)
        return data


def _below(get: Get, root: bytes, path: str) -> bytes:
    """The CID at a path. Raises NotFound, Untrusted."""
    here = root
    for part in path.split("/"):
        node = None if cids.codec(here) == cids.RAW else parse_node(get(here))
        links = () if node is None or node.size is not None else node.links
        found = next((link.cid for link in links if link.name == part.encode()), None)
        if found is None:
            raise NotFound(f"`{path}` is not in `{cids.format_cid(root)}`")
        here = found
    return here


def _files(
    get: Get, root: bytes, prefix: str | None, base: str, size: int | None
) -> list[ListedFile]:
    """Every file below a root, with the hashes of its blocks. `size`: of a root that is a block."""
    return [
        _listed(get, _path(prefix, path, cid), cid, size if told is None else told, base)
        for path, cid, told in sized_files_below(root, get, MAX_ENTRIES)
    ]


def _path(prefix: str | None, path: str, cid: bytes) -> str:
    """Below a folder that was asked for, its path; of a file alone the name it goes by here."""
    if prefix is not None:
        return f"{prefix}/{path}" if path else prefix
    is_raw = cids.codec(cid) == cids.RAW
    return path or (digests.raw(cids.multihash(cid)).hex() if is_raw else cids.format_cid(cid))


def _listed(get: Get, path: str, cid: bytes, size: int | None, base: str) -> ListedFile:
    key = base + cids.format_cid(cid)
    if cids.codec(cid) == cids.RAW:
        return ListedFile(path, size, cids.multihash(cid), key)
    assert size is not None, "a node tells its file's size"
    return ListedFile(path, size, None, key, root=cid, block_map=leaf_hashes(cid, size, get))


def _number(told: dict[str, object], name: str) -> int:
    value = told.get(name)
    return value if isinstance(value, int) and value >= 0 else 0
