"""A folder of an object store as a destination: each file an object by its own path, and beside
them, in `.p2pcache/`, which content it is.

The files first, then the manifest, then the record `ref`, all under conditions: what another
writer put there since the look is never overwritten. A push that ends anywhere leaves whole objects
only, and the record of the push before, whose rows hold as far as their versions do.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import trio

from p2pcache.content import cid as cids
from p2pcache.content import push_record
from p2pcache.content.push_record import REF_KEY, PushRecord
from p2pcache.destinations.objects.again import putting, same
from p2pcache.destinations.objects.lease import Lease, LeaseLost, LeaseOptions, own_claim
from p2pcache.destinations.objects.plan import (
    Found,
    ObjectsPlan,
    decide,
    record_files,
    unknown,
)
from p2pcache.destinations.objects.port import Absent
from p2pcache.destinations.port import Amount, Pushed
from p2pcache.destinations.uploads import Sent
from p2pcache.errors import Conflict, Unavailable, Untrusted, UsageError, plain_errors

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from p2pcache.destinations.objects.port import ObjectStore, Stored, Upload
    from p2pcache.destinations.port import Content, Waiting

T = TypeVar("T")
UNCONDITIONAL = (
    "{endpoint} has no conditional writes of this kind: two pushes to one folder at once could "
    "overwrite each other there"
)
OTHERS = "{count} other objects are below {where}: `get` of it brings them, too"
ASIDE_BYTES = 256 << 10  # of a record: about a thousand files
ROW_BYTES = 200  # of a record, about
WAITED = "another agent pushed there meanwhile: this one waited for it"


@dataclass(frozen=True, slots=True)
class PushOptions:
    """How a push goes about it."""

    files_at_once: int = 8  # small ones are round trips; bytes have a bound of their own
    looks: int = 500  # objects that one question looks at: some seconds
    tries: int = 6  # of each request that may succeed later: about half a minute in all
    pause_s: float = 0.5  # after the first failure, then twice as long each time
    max_pause_s: float = 60.0  # what a store may ask for
    lease: LeaseOptions = field(default_factory=LeaseOptions)


class ObjectsDestination:
    """One folder of one store. `chance`: in [0, 1), so that pushes that failed together do not
    come again together.
    """

    def __init__(
        self, store: ObjectStore, chance: Callable[[], float], options: PushOptions = PushOptions()
    ) -> None:
        self._store = store
        self._chance = chance
        self._options = options
        self.name = store.name
        self.where = store.where
        self.endpoint: str | None = store.endpoint

    async def plan(self, content: Content) -> ObjectsPlan:
        """See the port."""
        ours = next((path for path in content.places if push_record.is_ours(path)), None)
        if ours is not None:
            raise UsageError(f"`{ours}` cannot be pushed: {push_record.FOLDER} holds the record")
        found = await self._found()
        looked: dict[str, Stored] = {}
        keys = unknown(content.places, found)
        for at in range(0, len(keys), self._options.looks):
            some = keys[at : at + self._options.looks]
            looked |= await self._try(partial(self._store.look, some))
        return decide(content.places, found, looked, cids.format_cid(content.manifest.cid()))

    def missing(self, plan: ObjectsPlan) -> Amount:
        """See the port."""
        return plan.missing

    async def send(
        self, content: Content, plan: ObjectsPlan, watch: Callable[[int | Waiting], None]
    ) -> Pushed:
        """See the port. Of several agents that push to one folder one sends at a time."""
        claim = own_claim(secrets.token_hex(16), cids.format_cid(content.manifest.cid()))
        sent = Sent(watch)

        def so_far() -> tuple[int, int]:
            return sent.bytes + sent.resumed_bytes, plan.missing.bytes

        lease = Lease(self._store, claim, self._options.lease, so_far, watch)
        while not plan.recorded:
            if not await self._try(lease.take):
                plan = await self.plan(content)
                continue
            try:
                async with lease.kept():
                    if lease.waited or await self._is_old(plan):
                        plan = await self.plan(content)
                    if not plan.recorded:
                        await self._send(content, plan, sent)
                    break
            except LeaseLost:
                lease.waited = True  # this agent stood still; what it sent is there
                plan = await self.plan(content)
        return Pushed(
            Amount(bytes=sent.bytes, objects=sent.objects),
            content.root,
            ref=self.where,
            notes=tuple(self._notes(plan, waited=lease.waited)),
            resumed_bytes=sent.resumed_bytes,
        )

    async def aclose(self) -> None:
        """See the port."""
        await self._store.aclose()

    # -- what is there ----------------------------------------------------------------------------

    async def _found(self) -> Found:
        listed = {one.key: one for one in await self._try(self._store.list)}
        if REF_KEY not in listed:
            return Found(listed)
        told = await self._record()
        if told is None:
            return Found(listed)
        try:
            record = await _aside(len(told[0]), push_record.parse, told[0])
            return Found(listed, record, told[1])
        except Untrusted:
            return Found(listed, None, told[1])

    async def _is_old(self, plan: ObjectsPlan) -> bool:
        """Whether another push began and ended between the look and our turn."""
        looked = await self._try(partial(self._store.look, [REF_KEY]))
        now = looked.get(REF_KEY)
        return (None if now is None else now.version) != plan.found.record_version

    async def _record(self) -> tuple[bytes, str] | None:
        return await self._try(
            partial(self._store.get_small, REF_KEY, push_record.MAX_RECORD_BYTES)
        )

    # -- what it gets -----------------------------------------------------------------------------

    async def _send(self, content: Content, plan: ObjectsPlan, sent: Sent) -> None:
        versions = dict(plan.there)
        todo = iter(plan.uploads)

        async def work() -> None:
            for upload in todo:
                versions[upload.key] = await self._file(upload, sent)

        manifest = cids.format_cid(content.manifest.cid())
        with plain_errors():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write_manifest, manifest, content, plan.found)
                for _ in range(min(self._options.files_at_once, len(plan.uploads))):
                    nursery.start_soon(work)
        files = record_files(content.places, versions)
        ref = manifest if content.ref.startswith("file:") else content.ref
        await self._write_record(PushRecord(manifest, ref, files), plan.found)

    async def _write_manifest(self, cid: str, content: Content, found: Found) -> None:
        key = push_record.manifest_key(cid)
        if key not in found.objects:
            put = partial(self._store.put_small, key, content.manifest.encode(), Absent())
            with suppress(Conflict):  # its name is its content
                await self._try(put)

    async def _file(self, upload: Upload, sent: Sent) -> str:
        """Its version, also where somebody else put just these bytes there."""
        try:
            version = await self._try(putting(self._store, upload, sent.of_file()))
        except Conflict:
            there = await self._try(partial(same, self._store, upload))
            if there is None:
                raise
            return there
        sent.objects += 1
        return version

    async def _write_record(self, record: PushRecord, found: Found) -> None:
        data = await _aside(len(record.files) * ROW_BYTES, record.encode)
        write = partial(self._store.put_small, REF_KEY, data, found.record_condition)
        try:
            await self._try(write)
        except Conflict:
            told = await self._record()
            if told is None or told[0] != data:  # else the answer to our own write was lost
                raise

    # -- when it fails ----------------------------------------------------------------------------

    async def _try(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Again and again where it may succeed later; then the last Unavailable."""
        pause_s = self._options.pause_s
        for _ in range(self._options.tries - 1):
            try:
                return await ask()
            except Unavailable as exc:
                wait_s = max(pause_s * (0.5 + self._chance()), exc.retry_after_s or 0.0)
            await trio.sleep(min(wait_s, self._options.max_pause_s))
            pause_s *= 2
        return await ask()

    def _notes(self, plan: ObjectsPlan, *, waited: bool) -> list[str]:
        notes = []
        if not self._store.conditional:
            notes.append(UNCONDITIONAL.format(endpoint=self._store.endpoint))
        if plan.others:
            notes.append(OTHERS.format(count=plan.others, where=self.where))
        if waited:
            notes.append(WAITED)
        return notes


async def _aside(size_bytes: int, call: Callable[..., T], *args: object) -> T:
    """In a thread, where it takes long: 30 ms of the event loop a MiB."""
    if size_bytes < ASIDE_BYTES:
        return call(*args)
    return await trio.to_thread.run_sync(call, *args)
