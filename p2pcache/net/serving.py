"""Answers to what members ask of us. Raises what the shelf raises: the asker is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pcache.errors import NotFound
from p2pcache.net.sync.wire import (
    MAX_PART_BYTES,
    Answer,
    Ask,
    ManifestAsk,
    ManifestPart,
    Map,
    MapAsk,
    NameAsk,
    Names,
    Ticket,
    TicketAsk,
)

if TYPE_CHECKING:
    from p2pcache.net.shelf import Shelf
    from p2pcache.net.sync.driver import Link


async def answer(shelf: Shelf, link: Link, ask: Ask) -> Answer:
    """One answer, from what the shelf says that this peer may have."""
    peer = link.peer
    match ask:
        case MapAsk(number, name, first, count):
            found = await shelf.block_map(peer, name, first, count)
            if found is None:
                return Map(number, name, 0, first, None, ())
            words = tuple(tuple(one.to_wire()) for one in found.attestations)
            return Map(number, name, found.size, first, found.hashes, words)
        case TicketAsk(number, scope, proof):
            made = await shelf.ticket(peer, scope, proof)
            link.recheck(scope)
            return Ticket(number, made.token, made.expires_s)
        case ManifestAsk(number, cid, offset):
            part = await shelf.manifest(peer, cid, offset, MAX_PART_BYTES)
            if part is None:
                raise NotFound("no such manifest here")
            return ManifestPart(number, part[0], offset, part[1])
        case NameAsk(number, canonical):
            known = await shelf.resolutions(peer, canonical)
            return Names(number, tuple(tuple(one.to_wire()) for one in known))
