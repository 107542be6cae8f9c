"""The balanced layout of a file: a tree of leaves in order, all at one depth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from p2pcache.content import varint
from p2pcache.content.dag.build.profile import Root, forget, make_node
from p2pcache.content.dag.fsdata import Kind

if TYPE_CHECKING:
    from p2pcache.content.dag.build.profile import Keep, Profile

_FILE_HEAD = bytes([0x08, Kind.FILE, 0x18])  # type, then the key of the size
_BLOCK_SIZE = b"\x20"


class Layout(Protocol):
    """Takes the leaves of a file in order and makes its tree."""

    def add(self, leaf: Root) -> None:
        """The next leaf."""

    def finish(self) -> Root | None:
        """The root; None if there was no leaf."""


def file_node(profile: Profile, children: list[Root], keep: Keep = forget) -> Root:
    """The node of a file above these children. As `fsdata.encode`, for each of many nodes."""
    size = sum(child.size for child in children)
    sizes = [_BLOCK_SIZE + varint.encode(child.size) for child in children]
    data = _FILE_HEAD + varint.encode(size) + b"".join(sizes)
    return make_node(profile, ((b"", child) for child in children), data, size, keep)[0]


class Balanced:
    """All leaves at one depth; memory is `max_links` entries a level."""

    def __init__(self, profile: Profile, keep: Keep = forget) -> None:
        self._levels: list[list[Root]] = [[]]
        self._profile = profile
        self._keep = keep

    def add(self, leaf: Root) -> None:
        """The next leaf."""
        self._add(0, leaf)

    def _add(self, level: int, child: Root) -> None:
        if level == len(self._levels):
            self._levels.append([])
        row = self._levels[level]
        if len(row) == self._profile.max_links:  # full: only now that one more comes
            self._levels[level] = [child]  # does it need a parent
            self._add(level + 1, file_node(self._profile, row, self._keep))
        else:
            row.append(child)

    def finish(self) -> Root | None:
        """The root: a single leaf is one itself. None if there was no leaf."""
        level = 0
        while True:
            row = self._levels[level]
            if level + 1 == len(self._levels):
                if len(row) < 2:
                    return row[0] if row else None
                return file_node(self._profile, row, self._keep)
            self._add(level + 1, file_node(self._profile, row, self._keep))
            level += 1
