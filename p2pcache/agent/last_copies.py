"""Copies that nobody else can give: found before an eviction, by asking origins and members.

The store asks in a worker thread about what it is about to evict, and waits ASK_S at most: for
origins, by each ref, then, for what no origin gives, what members say and, for some, what the DHT
tells. What is not known in time stays. Content that is restricted is announced to
nobody, so without an origin its copies all count as last ones.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from contextlib import nullcontext
from typing import TYPE_CHECKING

import trio

from p2pcache.agent.names import MEMBERS_S
from p2pcache.content import refs
from p2pcache.content.last_copy import Copy, copy_of, least
from p2pcache.errors import Denied, LocalFault, NotFound, P2PCacheError
from p2pcache.sources.gcs.options import PUBLIC_GCS
from p2pcache.sources.port import KUBO, AwsLogin, AzureLogin, Credentials, GcsLogin
from p2pcache.sources.s3.options import PUBLIC_S3
from p2pcache.store.gc import ASK_S
from p2pcache.store.policy import Hold
from p2pcache.transfer.names import OTHERS
from p2pcache.transfer.resolve import hub_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from p2pcache.agent.network import AgentNetwork
    from p2pcache.agent.network_slot import NetworkSlot
    from p2pcache.store.records import Resolution as Row
    from p2pcache.store.store import Store
    from p2pcache.transfer.resolve import Resolver

_log = logging.getLogger(__name__)

ORIGINS_S = 2.5  # of it for the origins: one that is away leaves members the rest
MAX_REFS = 16  # of one server and question: a hub allows an address some hundred in 5 minutes
REFS_AT_ONCE = 4
LOOK_UP_S = 2.0  # in the DHT for who has one manifest, and to be linked with them
LINKED_S = (
    0.5  # after the DHT told: a link takes milliseconds on a LAN, and says at once who has it
)
MAX_LOOK_UPS = 16  # of one question: 8 go at a time, and members were heard of without any
LATELY_S = 300.0  # so long an origin that answered counts as one that does
AGAIN_S = 30.0  # after so long one that did not is asked again
POLL_S = 0.05

HOLDS = {Copy.LAST: Hold.LAST_COPY, Copy.RELIED_ON: Hold.LAST_OF_ALL}


class LastCopies:
    """See the module. `keep` and `copies` are for worker threads of trio, everything else is for
    its own thread. `spared`: manifests of which preloads keep copies, enough of them elsewhere.
    """

    def __init__(
        self,
        store: Store,
        slot: NetworkSlot,
        resolver: Resolver,
        now: Callable[[], float],
        spared: Callable[[], Collection[bytes]],
    ) -> None:
        self._store = store
        self._slot = slot
        self._resolver = resolver
        self._now = now
        self._spared = spared
        self._answers: dict[str, tuple[bool, float]] = {}  # of servers: whether it did, and when
        self._said: dict[str, float] = {}  # refs: when their origin last said whether it has them
        self._gone: dict[str, float] = {}  # refs that their origin lost, and when it said so

    # -- in a worker thread ----------------------------------------------------------------------

    def keep(self, sha256s: Collection[bytes], within_s: float = ASK_S) -> dict[bytes, Hold]:
        """Which of these blobs stay: all, if that cannot be found out, as a pull that only makes
        room for the next must not fail. Raises LocalFault, trio.Cancelled.
        """
        try:
            copies = self.copies(sha256s, within_s)
        except LocalFault:
            raise
        except Exception:  # noqa: BLE001  # the border: a bug in here is not the pull's
            _log.exception("nothing is evicted: which copies are the last ones is not known")
            return dict.fromkeys(sha256s, Hold.LAST_COPY)
        return {sha256: HOLDS[copy] for sha256, copy in copies.items() if copy in HOLDS}

    def copies(self, sha256s: Collection[bytes], within_s: float = ASK_S) -> dict[bytes, Copy]:
        """What our copies of these blobs are, as far as it is known or told `within_s`."""
        listed = self._store.manifests_of_blobs(sha256s)
        manifests = set().union(*listed.values())
        if not manifests:
            return {}
        rows: dict[bytes, list[Row]] = defaultdict(list)
        for row in self._store.resolutions():
            if row.manifest in manifests:
                rows[row.manifest].append(row)
        hubs = hubs_of(row for some in rows.values() for row in some)
        known = trio.from_thread.run(self._ask, manifests, rows, hubs, within_s)
        return {
            sha256: least([known[cid] for cid in cids])  # restricted or not: bytes are bytes
            for sha256, cids in listed.items()
        }

    # -- what is known, for `ls` -----------------------------------------------------------------

    def known(self, manifest: bytes, rows: Iterable[Row], hubs: Mapping[str, str]) -> Copy:
        """What our copy is, as far as it is known without asking: an origin counts until it was
        asked in vain. `hubs`: of those rows, by `hubs_of`.
        """
        origin = any(
            self._believed(server) is not False and row.canonical not in self._gone
            for server, row in self._origins(rows, hubs)
        )
        return self._copy(manifest, origin=origin)

    def _copy(self, manifest: bytes, *, origin: bool) -> Copy:
        opened = self._slot.current
        if manifest in self._spared():  # by ranks of their own, which these would contradict
            return Copy.SPARE
        if opened is None:
            return copy_of(manifest, None, (), origin=origin)
        return copy_of(
            manifest, opened.peer_id, opened.network.possessors(manifest)[0], origin=origin
        )

    # -- questions -------------------------------------------------------------------------------

    async def _ask(
        self, manifests: Collection[bytes], rows: Mapping[bytes, list[Row]],
        hubs: Mapping[str, str], within_s: float = ASK_S,
    ) -> dict[bytes, Copy]:  # fmt: skip
        origins = {cid: list(self._origins(rows.get(cid, ()), hubs)) for cid in manifests}
        with trio.move_on_after(within_s):
            await trio.lowlevel.checkpoint()  # no time, no question
            await self._ask_origins(origins)
            without = [cid for cid in manifests if not self._is_given(origins[cid])]
            await self._ask_members(without)
        return {cid: self._copy(cid, origin=self._is_given(origins[cid])) for cid in manifests}

    def _is_given(self, origins: Iterable[tuple[str, Row]]) -> bool:
        """What a server said it lost it does not give, until it said otherwise of that ref."""
        return any(
            self._believed(server) and row.canonical not in self._gone for server, row in origins
        )

    def _origins(self, rows: Iterable[Row], hubs: Mapping[str, str]) -> Iterable[tuple[str, Row]]:
        """Servers that may be asked for it, and by which ref. A path of this machine is none, nor
        is a web address or a bucket that others alone told: only we may reach it. Of a hub's
        name that others told, our own hub is asked, if it was theirs: at another hub, a mirror or
        a private one, it may mean something else, or nothing.
        """
        for row in rows:
            ref, ours = refs.parse_ref(row.canonical), row.source != OTHERS
            is_kubos = row.source == KUBO and self._resolver.understands(ref)
            is_web = ours and isinstance(ref, refs.Address)
            if not (isinstance(ref, refs.HfRef) or is_web or is_kubos):
                continue
            server = self._resolver.source_for(ref).endpoint(ref, _nobody(row))
            if not ours and hubs.get(row.canonical) != server:
                continue
            if ours:
                self._heard(server if is_kubos else row.endpoint, row.resolved_at)
                self._said[row.canonical] = max(row.resolved_at, self._said.get(row.canonical, 0.0))
                if row.resolved_at > self._gone.get(row.canonical, math.inf):
                    del self._gone[row.canonical]
            yield server, row

    def _heard(self, server: str, at: float) -> None:
        """We resolved something there."""
        if at > self._answers.get(server, (True, 0.0))[1]:
            self._answers[server] = (True, at)

    def _believed(self, server: str) -> bool | None:
        """Whether it answers, by what was seen of late; None: it is not known."""
        did, at = self._answers.get(server, (True, 0.0))
        age_s = self._now() - at
        return did if 0 <= age_s < (LATELY_S if did else AGAIN_S) else None

    async def _ask_origins(self, origins: Mapping[bytes, list[tuple[str, Row]]]) -> None:
        """Of each server that is not known to be away, by each ref that it did not speak of of
        late, MAX_REFS at most. What is not asked or answered is given if its server answers.
        """
        asked: dict[str, dict[str, Row]] = defaultdict(dict)
        for pairs in origins.values():
            for server, row in pairs:
                lately = 0 <= self._now() - self._said.get(row.canonical, 0.0) < LATELY_S
                away = self._believed(server) is False
                if not lately and not away and len(asked[server]) < MAX_REFS:
                    asked[server][row.canonical] = row
        async with trio.open_nursery() as nursery:
            for server, rows in asked.items():
                if rows:
                    nursery.start_soon(self._ask_server, server, list(rows.values()))

    async def _ask_server(self, server: str, rows: list[Row]) -> None:
        """The first question alone tells whether it answers: one that does not gets no other."""
        did = False
        with trio.move_on_after(ORIGINS_S) as scope:
            did = await self._ask_origin(rows[0])
            self._answers[server] = (did, self._now())
            if did:
                limit = trio.CapacityLimiter(REFS_AT_ONCE)
                async with trio.open_nursery() as nursery:
                    for row in rows[1:]:
                        nursery.start_soon(self._ask_origin, row, limit)
        if scope.cancelled_caught and not did:  # not when whoever asks was cancelled
            self._answers[server] = (False, self._now())

    async def _ask_origin(self, row: Row, limit: trio.CapacityLimiter | None = None) -> bool:
        """Whether the server says anything: that shows that it is there. Lost is also what its name
        meant then and means no more, where nothing else names it. Who asks shows no credential, so
        what only some may read can look lost, and counts as given.
        """
        ref = refs.parse_ref(row.canonical)
        async with nullcontext() if limit is None else limit:
            try:
                source = self._resolver.source_for(ref)
                lost = not await source.gives(ref, row.immutable, _nobody(row))
            except Denied:
                lost = False
            except NotFound:  # also `hidden`, as a hub says of all that it does not show to nobody
                lost = not (row.gated or row.credential_used)
            except P2PCacheError:
                return False
        self._said[row.canonical] = self._now()
        if lost:
            self._gone[row.canonical] = self._now()
        else:
            self._gone.pop(row.canonical, None)
        return True

    async def _ask_members(self, manifests: Collection[bytes]) -> None:
        """Until all that may have these were heard, or the time is over. A network that has just
        opened, as that of an agent for one command, is given time to meet its members.
        """
        opened = await self._slot.wait_open(ASK_S) if manifests else None
        if opened is None:
            return
        with trio.move_on_after(max(0.0, MEMBERS_S - self._slot.open_for_s)):
            while self._unsure(manifests):  # noqa: ASYNC110 - no event tells of such words
                await trio.sleep(POLL_S)
        async with trio.open_nursery() as nursery:
            for cid in self._unsure(manifests)[:MAX_LOOK_UPS]:
                nursery.start_soon(self._look_up, opened, cid)

    def _unsure(self, manifests: Collection[bytes]) -> list[bytes]:
        return [cid for cid in manifests if self._copy(cid, origin=False) is not Copy.SPARE]

    async def _look_up(self, opened: AgentNetwork, manifest: bytes) -> None:
        with trio.move_on_after(LOOK_UP_S):
            async with opened.network.swarm(None, (), quiet=True) as swarm:
                for peer in opened.network.possessors(manifest)[1]:
                    swarm.meet(peer)
                await opened.look_up(manifest, swarm)
                with trio.move_on_after(LINKED_S):
                    while swarm.met and (  # noqa: ASYNC110 - no event tells of such words
                        self._copy(manifest, origin=False) is not Copy.SPARE
                    ):
                        await trio.sleep(POLL_S)


def hubs_of(rows: Iterable[Row]) -> dict[str, str]:
    """Whose names those are that others told us, by canonical ref. Blocking: of 100,000 files 0.1 s
    each.
    """
    return {row.canonical: hub_of(row) for row in rows if row.source == OTHERS}


def _nobody(row: Row) -> Credentials:
    """Its own server, without anybody's token."""
    if row.source == "s3" and row.endpoint != PUBLIC_S3:
        return Credentials(aws=AwsLogin(endpoint_url=row.endpoint))
    if row.source == "gcs" and row.endpoint != PUBLIC_GCS:
        return Credentials(gcs=GcsLogin(endpoint_url=row.endpoint))
    if row.source == "azure":
        return Credentials(azure=AzureLogin(endpoint_url=row.endpoint))
    return Credentials(None, row.endpoint if row.source == "hf" else None)
