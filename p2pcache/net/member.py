"""A member as the layers above see it, and its coming and going."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from p2pcache.content.peerid import PeerId
    from p2pcache.net.sync.driver import Link
    from p2pcache.net.sync.wire import LaneInfo, Load


@dataclass(frozen=True, slots=True)
class Member:
    """A live member. `since` on trio's clock; `rtt_s` of the last ping, None before it."""

    peer: PeerId
    generation: bytes
    agent: str
    version: tuple[int, int]
    addresses: tuple[str, ...]
    lane: LaneInfo
    load: Load
    rtt_s: float | None
    since: float
    opened_by_us: bool


@dataclass(frozen=True, slots=True)
class MemberUp:
    """Somebody can be talked to. A member that restarted comes up again, with no MemberDown."""

    member: Member


@dataclass(frozen=True, slots=True)
class MemberDown:
    """The link ended."""

    peer: PeerId
    reason: str


def member_of(link: Link) -> Member:
    """What its link tells."""
    hello = link.hello
    return Member(
        peer=link.peer,
        generation=hello.generation,
        agent=hello.agent,
        version=(hello.major, hello.minor),
        addresses=hello.addresses,
        lane=hello.lane,
        load=link.talk.load,
        rtt_s=link.talk.rtt_s,
        since=link.up_at or 0.0,
        opened_by_us=link.opened_by_us,
    )
