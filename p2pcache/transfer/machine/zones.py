"""How far members are from each other: one copy of a unit crosses the border of a zone.

A zone is where links are fast and free (a data centre, a cloud's availability zone); a rack is a
part of one. What anybody in our zone has, is asked of there alone. What only others have is brought
across by one member of the zone: the first of the unit's rank among those of the zone that take
part (`Owners`, with the same lease as for origins); the others wait for it. So far peers are to a
zone what an origin is to the whole swarm. Where nobody else of the zone takes part, or no zone is
told, there is no such rule. A place is a member's own word: a lie costs time, nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

SAME_RACK, SAME_ZONE, FAR = range(3)


@dataclass(frozen=True, slots=True)
class Place:
    """Names as the operator or Kubernetes gives them; "" where none is known."""

    zone: str = ""
    rack: str = ""


def distance(mine: Place, theirs: Place) -> int:
    """Who tells no zone is as near as one of ours: it is treated as without zones."""
    if mine.zone and theirs.zone and mine.zone != theirs.zone:
        return FAR
    return SAME_ZONE if mine.rack and mine.rack != theirs.rack else SAME_RACK
