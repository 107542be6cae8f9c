"""The trickle layout: leaves near the root first, for whoever reads a file from its beginning.

A node has `max_links` leaves, then subtrees: four of depth 1, four of depth 2, and so on (boxo,
importer/trickle); the root has as many as it takes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from p2pcache.content.dag.build.layout import file_node
from p2pcache.content.dag.build.profile import Root, forget

if TYPE_CHECKING:
    from p2pcache.content.dag.build.profile import Keep, Profile

REPEAT = 4  # depthRepeat in boxo


@dataclass(slots=True)
class _Growing:
    """A node that takes children. `most`: subtrees have a depth less than that; None: no limit."""

    most: int | None
    children: list[Root] = field(default_factory=list)
    subtrees: int = 0

    @property
    def depth(self) -> int:
        """Of the subtree that comes next."""
        return 1 + self.subtrees // REPEAT


class Trickle:
    """Takes the leaves of a file in order; memory is a node a level."""

    def __init__(self, profile: Profile, keep: Keep = forget) -> None:
        self._profile = profile
        self._keep = keep
        self._open = [_Growing(None)]

    def add(self, leaf: Root) -> None:
        """The next leaf."""
        while True:
            here = self._open[-1]
            if len(here.children) < self._profile.max_links:
                here.children.append(leaf)
                return
            if here.most is None or here.depth < here.most:
                self._open.append(_Growing(here.depth))
            else:
                self._close()

    def _close(self) -> None:
        done = self._open.pop()
        above = self._open[-1]
        above.children.append(file_node(self._profile, done.children, self._keep))
        above.subtrees += 1

    def finish(self) -> Root:
        """The root, which is a node also above one leaf and above none."""
        while len(self._open) > 1:
            self._close()
        return file_node(self._profile, self._open[0].children, self._keep)
