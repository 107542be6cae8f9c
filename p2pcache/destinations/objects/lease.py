"""One of many agents pushes; the others wait for it: a lease that is an object of the bucket.

Agents need not know each other. `.p2pcache/pushing` is made under the condition that there is none,
and renewed by its holder every few seconds under the condition that it is still the holder's. Who
finds one watches its version: when that stood still for a while of the watcher's own monotonic
clock, or the holder was a push of this process or another process of this machine, and is gone, it
takes over, under the condition that the version is the one that it watched. No clocks are compared.

The lease saves bytes, and is no lock: that a push cannot undo another's work is due to the
condition of each write.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import trio

from p2pcache.content.push_record import PUSHING_KEY
from p2pcache.destinations.objects.plan import same
from p2pcache.destinations.objects.port import Absent
from p2pcache.destinations.port import Waiting
from p2pcache.errors import Conflict, P2PCacheError, Unavailable, Untrusted, plain_errors
from p2pcache.store.lease import process_started, this_process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from p2pcache.destinations.objects.port import Condition, ObjectStore

MAX_LEASE_BYTES = 4096
MAX_BYTES = 2**62  # that somebody else's push may claim to have
MAX_PID = 2**31 - 1  # what comes from a bucket is looked for among processes
_pushing: set[str] = set()  # owners of this process: who is not among them left its claim behind


@dataclass(frozen=True, slots=True)
class LeaseOptions:
    """In seconds. A holder that is cut off for `stale_s` may find that another one went on."""

    renew_s: float = 5.0
    look_s: float = 1.0  # a GET of 200 bytes by each that waits
    stale_s: float = 20.0  # four renewals: a slow store must not look like a dead holder


@dataclass(frozen=True, slots=True)
class Claim:
    """Who pushes what. `machine` is a hash: host names are nobody's business. `beat` makes each
    renewal other bytes, so that its version is another one. `done_bytes` of `total_bytes`: how far
    it is; 0 of 0 where nothing was said.
    """

    owner: str
    machine: str
    pid: int
    started: str
    manifest: str
    beat: int = 0
    done_bytes: int = 0
    total_bytes: int = 0

    def encode(self) -> bytes:
        """As JSON."""
        names = Claim.__slots__
        return json.dumps({name: getattr(self, name) for name in names}).encode()

    @property
    def is_gone(self) -> bool:
        """Whether it was a process of this machine that ended, or a push of this process that did,
        and whose login did not let it give its claim back.
        """
        us = own_claim("", "")
        if self.machine != us.machine:
            return False
        if (self.pid, self.started) == (us.pid, us.started):
            return self.owner not in _pushing
        started = process_started(self.pid)
        return started is None or bool(self.started and started and started != self.started)


def own_claim(owner: str, manifest: str) -> Claim:
    """For this process. `owner`: new and random for each push."""
    who = this_process()
    told = "\0".join([who.host, who.boot, who.table]).encode()
    machine = hashlib.sha256(told).hexdigest()[:16]
    return Claim(owner, machine, who.pid, who.started, manifest)


def decode_claim(data: bytes) -> Claim | None:
    """None where it does not read as one: then only standing still tells."""
    try:
        told = json.loads(data)
        claim = Claim(
            str(told["owner"]), str(told["machine"]), int(told["pid"]), str(told["started"]),
            str(told["manifest"]), int(told["beat"]),
            *(
                min(max(int(told.get(name, 0)), 0), MAX_BYTES)
                for name in ("done_bytes", "total_bytes")
            ),
        )  # fmt: skip
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    return claim if 0 < claim.pid <= MAX_PID else None


class LeaseLost(Conflict):
    """Another agent took the push over: this one was silent for too long."""


class Lease:
    """One push's hold on a folder. `so_far`: bytes that went out, of all that are to; `watch` hears
    who has it meanwhile.
    """

    def __init__(
        self,
        store: ObjectStore,
        claim: Claim,
        options: LeaseOptions,
        so_far: Callable[[], tuple[int, int]],
        watch: Callable[[Waiting], None],
    ) -> None:
        self._store = store
        self._claim = claim
        self._options = options
        self._so_far = so_far
        self._watch = watch
        self._version = ""
        self.waited = False

    async def take(self) -> bool:
        """Whether it is ours now. Where another push had it we wait, and `waited` says so: what is
        there is another thing than before. False: the other one ended; look again first.
        """
        taken = False
        _pushing.add(self._claim.owner)
        try:
            taken = await self._take()
        finally:
            if not taken:
                _pushing.discard(self._claim.owner)
        return taken

    async def _take(self) -> bool:
        if await self._put(Absent()):
            return True
        seen: str | None = None
        since = trio.current_time()
        while (told := await self._read()) is not None:
            data, version = told
            claim = decode_claim(data)
            if claim is not None and claim.owner == self._claim.owner:
                self._version = version  # the answer to our own write was lost
                return True
            self.waited = True
            self._watch(self._told(claim))
            if version != seen:
                seen, since = version, trio.current_time()
            stale = trio.current_time() - since >= self._options.stale_s
            if (stale or (claim is not None and claim.is_gone)) and await self._put(same(version)):
                return True
            await trio.sleep(self._options.look_s)
        self.waited = True
        return False

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Renew it until the block ends, and give it back. Raises LeaseLost, which cancels the
        block, when another agent took over.
        """
        with plain_errors():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._renew)
                try:
                    yield
                finally:
                    nursery.cancel_scope.cancel()
                    with trio.move_on_after(self._options.renew_s, shield=True):
                        await self._release()
                    _pushing.discard(self._claim.owner)

    async def _renew(self) -> None:
        while True:
            await trio.sleep(self._options.renew_s)
            done, total = self._so_far()
            self._claim = replace(
                self._claim, beat=self._claim.beat + 1, done_bytes=done, total_bytes=total
            )
            try:
                if not self._store.conditional and not await self._is_ours():
                    raise LeaseLost("another agent took this push over")
                if not await self._put(same(self._version)) and not await self._is_ours():
                    raise LeaseLost("another agent took this push over")
            except Unavailable:
                continue  # who waits gives us some more tries

    def _told(self, claim: Claim | None) -> Waiting:
        """What the user hears of a holder."""
        if claim is None:
            return Waiting("another agent, which pushes there")
        of = "of this machine" if claim.machine == self._claim.machine else "elsewhere"
        what = "the same" if claim.manifest == self._claim.manifest else "other content"
        who = f"another agent {of} (process {claim.pid}), which pushes {what} there"
        return Waiting(who, min(claim.done_bytes, claim.total_bytes), claim.total_bytes)

    async def _put(self, condition: Condition) -> bool:
        try:
            version = await self._store.put_small(PUSHING_KEY, self._claim.encode(), condition)
        except Conflict:
            return False
        self._version = version
        return True

    async def _is_ours(self) -> bool:
        told = await self._read()
        claim = None if told is None else decode_claim(told[0])
        if told is None or claim is None or claim.owner != self._claim.owner:
            return False
        self._version = told[1]
        return True

    async def _read(self) -> tuple[bytes, str] | None:
        try:
            return await self._store.get_small(PUSHING_KEY, MAX_LEASE_BYTES)
        except Untrusted:
            return b"", ""

    async def _release(self) -> None:
        """Best effort: whoever comes next waits a while longer where it fails."""
        while True:
            try:
                if await self._is_ours():
                    await self._store.delete(PUSHING_KEY)
                return
            except Unavailable:
                await trio.sleep(self._options.look_s)
            except P2PCacheError:
                return
