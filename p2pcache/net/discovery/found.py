"""What every way of discovery hands over."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from p2pcache.content.peerid import PeerId


class How(enum.Enum):
    """The way by which somebody was found; also the order of trust in its addresses."""

    BOOTSTRAP = "bootstrap"
    PEERBOOK = "peerbook"
    DNS = "dns"
    MDNS = "mdns"


@dataclass(frozen=True, slots=True)
class Found:
    """Somebody may be at these addresses (`/ip4/../tcp/..`, `/dns4/../tcp/..`, without `/p2p/`).

    A claim, never a fact: only the handshake proves who is there. `peer` is None where the way
    knows none (DNS gives addresses alone): who answers with our network key is the peer.
    """

    peer: PeerId | None
    addresses: tuple[str, ...]
    how: How


Report = Callable[[Found], None]  # quick and non-blocking; called in the trio thread
