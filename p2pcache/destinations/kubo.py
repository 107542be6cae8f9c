"""A Kubo as a destination: it gets the blocks that it lacks as CARs, pins the root, provides it.

What it has is asked without a search in its network: a recursive pin is complete; of a file it
walks its own blocks; of any other block it is asked one by one (0.4 ms each). That a push succeeded
is what it says itself afterwards: the root is listed as pinned, and is ours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import trio

from p2pcache.content import cid as cids
from p2pcache.content import unixfs
from p2pcache.content.unixfs import LEAF_BYTES
from p2pcache.destinations.faults import AGAIN, error_of
from p2pcache.destinations.port import Amount, Pushed
from p2pcache.destinations.uploads import Sent, counted
from p2pcache.errors import NotFound, P2PCacheError, Unavailable, Untrusted, plain_errors
from p2pcache.lanes.send_car import HASH_BYTES, SendOrder, SentFile, split
from p2pcache.sources.kubo_calls import KuboCalls

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from p2pcache.destinations.port import Content, ContentFile
    from p2pcache.lanes.odometer import Odometer
    from p2pcache.lanes.send_car import SendReport

AT_ONCE = 8  # questions; Kubo answers each out of its own store

NOTHING = Amount()


@dataclass(frozen=True, slots=True)
class KuboOptions:
    """How long it is waited for."""

    answer_s: float = 10.0  # for a word on one block: it takes 1 ms
    walk_s: float = 300.0  # for a word on a whole file: 0.2 s a GiB from memory, a disk is slower
    pin_s: float = 60.0  # to pin the root, and as long as `pin_s_per_gib` for each GiB below it
    pin_s_per_gib: float = 10.0
    provide_s: float = 10.0  # a table of a local network answers in 5 ms


@dataclass(frozen=True, slots=True)
class KuboPlan:
    """`files` and `nodes`: what it lacks, those alone that lack something."""

    pinned: bool
    files: tuple[SentFile, ...] = ()
    nodes: tuple[tuple[bytes, bytes], ...] = ()
    missing: Amount = NOTHING


class KuboDestination:
    """One Kubo, by the URL of its RPC. `send_car` runs in a worker."""

    name = "ipfs"

    def __init__(
        self,
        api: str,
        send_car: Callable[[SendOrder], Awaitable[SendReport]],
        odometer: Odometer | None,
        rate_bytes_per_s: float | None = None,
        options: KuboOptions = KuboOptions(),
    ) -> None:
        self.where = api
        self.endpoint: str | None = api
        self._send_car = send_car
        self._odometer = odometer
        self._rate = rate_bytes_per_s
        self._options = options
        self._calls = KuboCalls(api, options.answer_s)
        self._walks = KuboCalls(api, options.walk_s)
        self._provides = KuboCalls(api, options.provide_s)

    async def plan(self, content: Content) -> KuboPlan:
        """See the port."""
        if await self._is_pinned(content.root):
            return KuboPlan(pinned=True)
        files = [one async for one in self._files(content)]
        nodes = [node for node in content.nodes if not await self._has(node[0])]
        amounts = [_amount(file) for file in files]
        missing = Amount(
            sum(one.blocks for one in amounts) + len(nodes),
            sum(one.bytes for one in amounts) + sum(len(block) for _, block in nodes),
        )
        return KuboPlan(False, tuple(files), tuple(nodes), missing)

    def missing(self, plan: KuboPlan) -> Amount:
        """See the port."""
        return plan.missing

    async def send(self, content: Content, plan: KuboPlan, watch: Callable[[int], None]) -> Pushed:
        """See the port."""
        sent = NOTHING
        if not plan.pinned:
            if plan.missing.blocks:
                report = await self._import(content, plan, watch)
                if report.fault is not None:
                    raise error_of(report.fault, "is this a Kubo's RPC, and may this user call it?")
                sent = Amount(report.sent_blocks, report.sent_bytes)
            await self._pin(content)
            if not await self._is_pinned(content.root):
                raise Unavailable(
                    f"Kubo at {self.where} took all blocks, and does not list "
                    f"{cids.format_cid(content.root)} as pinned",
                    hint=AGAIN,
                )
        note = await self._provide(content.root)
        notes = () if note is None else (note,)
        return Pushed(sent, content.root, pinned=True, provided=note is None, notes=notes)

    async def aclose(self) -> None:
        """See the port: each question has a connection of its own."""

    # -- what it has ------------------------------------------------------------------------------

    async def _is_pinned(self, cid: bytes) -> bool:
        text = cids.format_cid(cid)
        try:
            told = await self._calls.rpc("pin/ls", text, type="recursive")
        except NotFound:
            return False
        keys = told.get("Keys")
        rows = keys.items() if isinstance(keys, dict) else ()
        if not any(_same(key, cid) and _type(row) == "recursive" for key, row in rows):
            raise Untrusted(f"Kubo at {self.where} tells other pins than that of {text}")
        return True

    async def _has(self, cid: bytes) -> bool:
        try:
            await self._calls.rpc("block/stat", cids.format_cid(cid), offline="true")
        except NotFound:
            return False
        return True

    async def _has_file(self, file: ContentFile) -> bool:
        where = f"/ipfs/{cids.format_cid(file.root)}"
        told = await self._walks.rpc("files/stat", where, offline="true", with_local="true")
        return told.get("Local") is True

    async def _files(self, content: Content) -> AsyncIterator[SentFile]:
        for file in content.files:
            if await self._has(file.root) and (
                len(file.hashes) == HASH_BYTES or await self._has_file(file)
            ):
                continue
            lacks = await self._lacks(file)
            if any(lacks.leaves) or lacks.nodes:
                yield lacks

    async def _lacks(self, file: ContentFile) -> SentFile:
        """Which blocks of a file it has not."""
        leaves = bytearray(len(file.hashes) // HASH_BYTES)
        nodes: list[bytes] = []
        unixfs_nodes = _node_cids(file)
        absent: set[bytes] = set()
        todo: Iterator[tuple[int, bytes]] = iter(
            [
                *((at, cids.raw_cid(digest)) for at, digest in enumerate(split(file.hashes))),
                *((-1, cid) for cid in unixfs_nodes),
            ]
        )

        async def ask() -> None:
            for at, cid in todo:
                if await self._has(cid):
                    continue
                if at < 0:
                    nodes.append(cid)
                elif cid not in absent:  # equal blocks are sent once
                    absent.add(cid)
                    leaves[at] = 1

        with plain_errors():
            async with trio.open_nursery() as nursery:
                for _ in range(AT_ONCE):
                    nursery.start_soon(ask)
        return SentFile(file.path, file.size, file.hashes, bytes(leaves), frozenset(nodes))

    # -- what it gets -----------------------------------------------------------------------------

    async def _import(
        self, content: Content, plan: KuboPlan, watch: Callable[[int], None]
    ) -> SendReport:
        order = SendOrder(
            f"{self.where}/api/v0/dag/import?pin-roots=false&stats=true",
            content.root,
            plan.files,
            plan.nodes,
        )
        limits = replace(order.limits, rate_bytes_per_s=self._rate)
        return await counted(
            lambda bound: self._send_car(replace(order, limits=bound)),
            limits,
            self._odometer,
            Sent(watch).count,
        )

    async def _pin(self, content: Content) -> None:
        """Have it pin the root, and say that it is ours. Raises Unavailable, Untrusted."""
        options, gib = self._options, content.total_bytes / (1 << 30)
        calls = KuboCalls(self.where, options.pin_s + gib * options.pin_s_per_gib)
        root = cids.format_cid(content.root)
        try:
            told = await calls.rpc("pin/add", root)
        except (NotFound, Unavailable) as exc:
            raise Unavailable(
                f"Kubo at {self.where} has all blocks, and did not pin the root: {exc.message}",
                hint=exc.hint or AGAIN,
            ) from exc
        pins = told.get("Pins")
        if not isinstance(pins, list) or [_same(pin, content.root) for pin in pins] != [True]:
            raise Untrusted(
                f"Kubo at {self.where} was told to pin {root}, and says that it pinned "
                f"{str(pins)[:200]}"
            )

    async def _provide(self, root: bytes) -> str | None:
        """Have it tell its network; why not, where it does not."""
        try:
            await self._provides.ask("routing/provide", cids.format_cid(root))
        except P2PCacheError as exc:
            return f"it is pinned there, but not announced now: {exc.message}"
        return None


def _node_cids(file: ContentFile) -> list[bytes]:
    if len(file.hashes) == HASH_BYTES:
        return []
    made: list[bytes] = []
    unixfs.file_root(split(file.hashes), file.size, lambda cid, block: made.append(cid))
    return made


def _amount(file: SentFile) -> Amount:
    sizes = [
        min(LEAF_BYTES, file.size - at * LEAF_BYTES)
        for at, wanted in enumerate(file.leaves)
        if wanted
    ]
    nodes: list[int] = []
    if file.nodes:

        def note(cid: bytes, block: bytes) -> None:
            if cid in file.nodes:
                nodes.append(len(block))

        unixfs.file_root(split(file.hashes), file.size, note)
    return Amount(len(sizes) + len(nodes), sum(sizes) + sum(nodes))


def _same(text: object, cid: bytes) -> bool:
    try:
        return cids.as_v1(cids.parse_cid(str(text))) == cid
    except P2PCacheError:
        return False


def _type(row: object) -> object:
    return row.get("Type") if isinstance(row, dict) else None
