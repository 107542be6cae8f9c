"""Walks towards a key: puts the questions that a `Lookup` chooses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from p2pcache.errors import Untrusted
from p2pcache.net.dht.wire import Answer, parse_answer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from p2pcache.content.peerid import PeerId
    from p2pcache.net.dht.asking import Asker
    from p2pcache.net.dht.lookup import Lookup


async def walk(
    lookup: Lookup,
    asker: Asker,
    frame: bytes,
    note: Callable[[PeerId, Answer], None],
    *,
    slow_s: float,
    loopback: bool,
) -> None:
    """Ask until the lookup is done. `note` hears every answer, quickly and in no order.

    Cancel-safe: questions on their way end by themselves. Never raises for what servers do.
    """
    async with trio.open_nursery() as nursery:

        async def ask(peer: PeerId, addresses: Sequence[str]) -> None:
            question = asker.ask(peer, addresses, frame)
            if not await question.wait(slow_s):
                lookup.slow(peer)
                proceed()
                await question.wait(asker.query_s)
            try:
                if not question.answers:
                    raise Untrusted("no answer")
                answer = parse_answer(question.answers[0], loopback=loopback)
            except Untrusted:
                lookup.failed(peer)
            else:
                known = [entry for entry in answer.closer if not asker.shuns(entry[0])]
                lookup.answered(peer, known)
                note(peer, answer)
            proceed()

        def proceed() -> None:
            for peer, addresses in lookup.next():
                nursery.start_soon(ask, peer, addresses)

        proceed()
