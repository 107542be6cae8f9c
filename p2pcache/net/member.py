"""A member as the layers above see it, its coming and going, and who hears of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from p2pcache.content.peerid import PeerId
    from p2pcache.net.sync import preloads, spending
    from p2pcache.net.sync.driver import Link
    from p2pcache.net.sync.machine import Ended, WantRefused
    from p2pcache.net.sync.wants import Knowledge, LookUp
    from p2pcache.net.sync.wire import Announce, Answer, Ask, Held, LaneInfo, Load


@dataclass(frozen=True, slots=True)
class Member:
    """A live member. `since` on trio's clock; `rtt_s` of the last ping, None before it.

    `addresses`: where it can be dialled, at first hand: by a dial of ours, or in its own word.
    """

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
    zone: str = ""  # in its own word, as `rack`
    rack: str = ""


@dataclass(frozen=True, slots=True)
class MemberUp:
    """Somebody can be talked to. A member that restarted comes up again, with no MemberDown."""

    member: Member


@dataclass(frozen=True, slots=True)
class MemberDown:
    """The link ended."""

    peer: PeerId
    reason: str


class MembersOwner(Protocol):
    """What the layer above does with members. Nothing may raise but `serve` and `look_up`."""

    def member_up(self, link: Link) -> None:
        """A member can be talked to."""
        ...

    def member_down(self, link: Link, ended: Ended) -> None:
        """The link of a member ended; another may follow."""
        ...

    def distrusted(self, peer: PeerId, reason: str) -> None:
        """A peer broke the rules; its link ends."""
        ...

    def announced(self, link: Link, news: Announce) -> None:
        """A member began to download, possesses or no longer has manifests, says this link."""
        ...

    def loaded(self, link: Link, load: Load) -> None:
        """How busy a member's byte server is."""
        ...

    def permitted(self, link: Link, grants: tuple[tuple[Any, ...], ...]) -> None:
        """Somebody tells grants of the admin, unchecked."""
        ...

    def preload_news(self, link: Link, news: preloads.Message) -> None:
        """Somebody says something of preloads, unchecked."""
        ...

    def spends(self, link: Link, news: spending.Message) -> None:
        """A member says what it fetched of origins."""
        ...

    def knows(self, link: Link, known: Knowledge | WantRefused) -> None:
        """News of a want."""
        ...

    async def serve(self, link: Link, ask: Ask) -> Answer:
        """Answer a request. Raises errors.py's."""
        ...

    async def look_up(self, link: Link, looked: LookUp) -> Sequence[Held]:
        """What a member may be told. Raises Denied."""
        ...


def member_of(link: Link, addresses: tuple[str, ...]) -> Member:
    """What its link tells, and where it is (`Mesh.contact`)."""
    hello = link.hello
    return Member(
        peer=link.peer,
        generation=hello.generation,
        agent=hello.agent,
        version=(hello.major, hello.minor),
        addresses=addresses,
        lane=hello.lane,
        load=link.talk.load,
        rtt_s=link.talk.rtt_s,
        since=link.up_at or 0.0,
        opened_by_us=link.opened_by_us,
        zone=hello.zone,
        rack=hello.rack,
    )
