"""What the byte server is told of scopes, and when that is taken back."""

from __future__ import annotations

import trio

from p2pcache.agent.sharing import TICKET_S, Sharing
from tests.support.swarms import Key

READER = Key(1).peer_id


class Server:
    """Writes down which scopes there are."""

    def __init__(self) -> None:
        self.scopes: set[bytes] = set()

    async def scope(self, scope, entries) -> None:
        self.scopes.add(scope)  # in the order of the calls
        await trio.lowlevel.checkpoint()

    async def drop_scope(self, scope) -> None:
        self.scopes.remove(scope)
        await trio.lowlevel.checkpoint()

    def issue(self, reader, scope, binding, lifetime_s) -> str:
        return "token"


async def test_the_byte_server_forgets_a_scope_when_its_tickets_have_ended(mock_clock, monkeypatch):
    async def entries(self, peer, scope, names):
        return dict.fromkeys(names, "an entry")

    async def admit(peer):
        return b"binding"

    monkeypatch.setattr(Sharing, "_entries", entries)
    server = Server()
    sharing = Sharing(None, None, Key(2), server, admit, trio.current_time)
    first, second, third = (bytes([0x12, 0x20, n]) * 10 for n in range(3))
    for name in (first, second):
        await sharing.ticket(READER, name, None)
    mock_clock.jump(TICKET_S - 1)
    await sharing.ticket(READER, first, None)
    assert server.scopes == {first, second}
    mock_clock.jump(TICKET_S - 1)
    await sharing.ticket(READER, third, None)
    assert server.scopes == {first, third}, "a ticket for the first one still holds"
    mock_clock.jump(TICKET_S + 100)
    async with trio.open_nursery() as nursery:  # each begins while the others drop old ones
        for name in (first, second, third):
            nursery.start_soon(sharing.ticket, READER, name, None)
    assert server.scopes == {first, second, third}
