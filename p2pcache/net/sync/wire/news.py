"""What members tell unasked: what they have or begin to get, who is there, who may read what."""

from __future__ import annotations

import enum
import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from p2pcache.net.sync.fields import Many, Raw, Real, Record
from p2pcache.net.sync.wire.parts import (
    ADDRESSES,
    NAME,
    PEER,
    REF,
    SIGNATURE,
    Codecs,
    plain_tuple,
    record,
)

if TYPE_CHECKING:
    from p2pcache.content.peerid import PeerId

MAX_MANIFESTS = 1024  # in one announcement
MAX_PEERS = 64  # in one peer exchange
MAX_GRANTS = 64  # in one message
ANNOUNCEMENT_BYTES = 16


class Said(enum.Enum):
    """What an announcement says of its manifests."""

    INTENT = "intent"
    POSSESS = "possess"
    WITHDRAWN = "withdrawn"


@dataclass(frozen=True, slots=True)
class Announce:
    """`origin` begins to download, possesses, or no longer has these manifests.

    `id` is random: in networks too large for a link to everyone, announcements are passed on, and
    each is acted on once.
    """

    said: Said
    id: bytes
    origin: PeerId
    manifests: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Contact:
    """Where a peer can be dialled."""

    peer: PeerId
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Peers:
    """Members that the sender has a link to."""

    contacts: tuple[Contact, ...]


@dataclass(frozen=True, slots=True)
class Permits:
    """Grants of the network's admin, `Grant.to_wire` as tuples: they travel to every member."""

    grants: tuple[tuple[Any, ...], ...]


_GRANT = plain_tuple(REF, PEER, Real(1e11), PEER, SIGNATURE)
_ANNOUNCE = (Raw(ANNOUNCEMENT_BYTES, ANNOUNCEMENT_BYTES), PEER, Many(NAME, MAX_MANIFESTS, 1))


def _announce(said: Said) -> Record[Announce]:
    return Record(
        lambda *values: Announce(said, *values),
        _ANNOUNCE,
        operator.attrgetter("id", "origin", "manifests"),
    )


CODECS: Codecs = {
    10: (Said.INTENT, _announce(Said.INTENT)),
    11: (Said.POSSESS, _announce(Said.POSSESS)),
    12: (Said.WITHDRAWN, _announce(Said.WITHDRAWN)),
    22: (Peers, record(Peers, Many(record(Contact, PEER, ADDRESSES), MAX_PEERS))),
    25: (Permits, record(Permits, Many(_GRANT, MAX_GRANTS, 1))),
}
