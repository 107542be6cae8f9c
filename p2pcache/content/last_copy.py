"""Whether a copy may go for room, or is the last one that anybody can give. Pure.

What its origin still gives may always go. Anything else may go only while another agent has it,
and, since agents may look at the same moment, while one has it that ranks higher for this content:
of agents that rely on each other's word no two can both evict, so the highest of the holders keeps
its copy, whatever the others do.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from p2pcache.content.preload import score

if TYPE_CHECKING:
    from collections.abc import Collection

    from p2pcache.content.peerid import PeerId


class Copy(enum.Enum):
    """What ours is."""

    SPARE = "spare"  # its origin gives it, or somebody who will keep it has it
    RELIED_ON = "relied on"  # others have it, and any of them may evict theirs because of ours
    LAST = "last"  # nobody else is known to have it


def copy_of(
    content: bytes, me: PeerId | None, holders: Collection[PeerId], *, origin: bool
) -> Copy:
    """What our copy of `content` (a manifest's CID) is. `holders`: others that say they have all of
    it, now; `origin`: an origin of it can be asked; `me`: None while there is no network.
    """
    others = [peer for peer in holders if peer != me]
    if origin:
        return Copy.SPARE
    if me is None or not others:
        return Copy.LAST
    mine = score(content, me)
    return Copy.SPARE if any(score(content, peer) > mine for peer in others) else Copy.RELIED_ON


def least(copies: Collection[Copy]) -> Copy:
    """A blob is in several manifests: it is as spare as the most spare of them. None at all: what
    no manifest names was asked for by its own name, and is spare.
    """
    return min(copies, key=_ORDER.index, default=Copy.SPARE)


_ORDER = (Copy.SPARE, Copy.RELIED_ON, Copy.LAST)
