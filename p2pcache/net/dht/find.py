"""One search for the providers of a name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from p2pcache.errors import Untrusted
from p2pcache.net.dht.lookup import Lookup
from p2pcache.net.dht.walk import walk
from p2pcache.net.dht.wire import Answer, Somebody, ask_providers, parse_answer

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import TracebackType

    from p2pcache.content.peerid import PeerId
    from p2pcache.net.dht.asking import Asker
    from p2pcache.net.dht.dht import DhtOptions

MAX_CHECKED = 64  # providers asked whether it is true; more are a liar's list
MAX_CHECKING = 16  # at once: frozen ones do not hold up the others
MAX_FINDS = 8  # at once; more would only make each other late. The others wait their turn


class Finding:
    """An async iterator of (peer, addresses), and a context manager that ends the search."""

    def __init__(
        self,
        name: bytes,
        me: PeerId,
        asker: Asker,
        options: DhtOptions,
        turns: trio.CapacityLimiter,
        *,
        loopback: bool,
    ) -> None:
        self._name = name
        self._me = me
        self._asker = asker
        self._options = options
        self._turns = turns
        self._loopback = loopback
        self._scope = trio.CancelScope()
        self._send, self._receive = trio.open_memory_channel[Somebody](options.max_found)
        self._checked: set[PeerId] = set()
        self._checking = trio.CapacityLimiter(MAX_CHECKING)
        self._found_count = 0

    def start(
        self, nursery: trio.Nursery, servers: Iterable[Somebody], records: Sequence[Somebody]
    ) -> None:
        """Search, from the servers we know and the records that others left with us."""
        nursery.start_soon(self._run, tuple(servers), records)

    def __aiter__(self) -> Finding:
        return self

    async def __anext__(self) -> Somebody:
        try:
            return await self._receive.receive()
        except (trio.EndOfChannel, trio.ClosedResourceError):
            raise StopAsyncIteration from None

    async def __aenter__(self) -> Finding:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._receive.close()
        self._scope.cancel()

    async def _run(self, servers: tuple[Somebody, ...], records: Sequence[Somebody]) -> None:
        lookup = Lookup(self._name, self._me, width=self._options.replicas)
        lookup.add(servers)
        frame = ask_providers(self._name)
        with self._send, self._scope:
            async with self._turns, trio.open_nursery() as nursery:
                self._scope.deadline = trio.current_time() + self._options.find_s

                def note(_peer: PeerId, answer: Answer) -> None:
                    for provider, addresses in answer.providers:
                        self._check_soon(nursery, provider, addresses)

                for provider, addresses in records:
                    self._check_soon(nursery, provider, addresses)
                await walk(
                    lookup, self._asker, frame, note,
                    slow_s=self._options.slow_s, loopback=self._loopback,
                )  # fmt: skip

    def _check_soon(
        self, nursery: trio.Nursery, provider: PeerId, addresses: tuple[str, ...]
    ) -> None:
        if provider == self._me or provider in self._checked or self._asker.shuns(provider):
            return
        if len(self._checked) < MAX_CHECKED:
            self._checked.add(provider)
            if self._options.of_agents:
                nursery.start_soon(self._check, provider, addresses)
            else:
                self._tell(provider, addresses)

    async def _check(self, provider: PeerId, addresses: tuple[str, ...]) -> None:
        """Records may be old: the provider itself has the last word, and where it is."""
        async with self._checking:
            question = self._asker.ask(provider, addresses, ask_providers(self._name))
            await question.wait(self._asker.query_s)
        if not question.answers:
            return
        try:
            answer = parse_answer(question.answers[0], loopback=self._loopback)
        except Untrusted:
            return
        said = dict(answer.providers)
        if provider not in said:
            return
        self._tell(provider, said[provider] or addresses)

    def _tell(self, provider: PeerId, addresses: tuple[str, ...]) -> None:
        try:
            self._send.send_nowait((provider, addresses))
        except (trio.WouldBlock, trio.BrokenResourceError):
            self._scope.cancel()  # nobody listens, or enough was found
            return
        self._found_count += 1
        if self._found_count >= self._options.max_found:
            self._scope.cancel()
