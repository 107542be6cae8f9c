"""Whether somebody who is connected speaks a protocol, by what libp2p's identify says of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStoreError

if TYPE_CHECKING:
    from p2pcache.content.peerid import PeerId
    from p2pcache.net.host import Libp2pHost

IDENTIFIED_S = (0.05, 0.2, 1.0, 4.0)  # looks at whether identify has said something


async def speaks(host: Libp2pHost, peer: PeerId, protocol: str) -> bool:
    """Identify comes soon after a connection; who says nothing for some seconds does not.

    Cancel-safe.
    """
    for pause_s in IDENTIFIED_S:
        try:
            known = host.libp2p.get_peerstore().get_protocols(ID(peer))
        except PeerStoreError:
            known = []
        if known:
            return protocol in known
        await trio.sleep(pause_s)
    return False
