"""The port of destinations: what `push` gives content to.

A destination is asked what it lacks before a byte goes out, so that a push can be repeated: what
arrived before a crash is not sent again. Bulk bytes are sent by workers. It raises only `errors`
types, and says that it succeeded when the other side said so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class ContentFile:
    """A complete blob here. `root`: its UnixFS root, a binary CID; `hashes`: the sha2-256 of each
    block, joined (of an empty file that of nothing).
    """

    path: str
    size: int
    root: bytes
    hashes: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Content:
    """One file or folder. `root`: the CID of all; `files`: each blob once; `nodes`: CID and block
    of each folder, children first.
    """

    root: bytes
    files: tuple[ContentFile, ...]
    nodes: tuple[tuple[bytes, bytes], ...] = field(repr=False)

    @property
    def total_bytes(self) -> int:
        """Of the files."""
        return sum(file.size for file in self.files)


@dataclass(frozen=True, slots=True)
class Amount:
    """Blocks, and the bytes in them."""

    blocks: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Pushed:
    """What became of a push. `root`: what the place holds now, in its own word and equal to ours.
    `provided`: whether others are told where it is. `notes`: honest remarks for the user.
    """

    sent: Amount
    root: bytes
    provided: bool
    notes: tuple[str, ...] = ()


Plan = TypeVar("Plan")


class Destination(Protocol, Generic[Plan]):
    """One place. `name`: the word for its kind; `where`: its address."""

    name: str
    where: str

    async def plan(self, content: Content) -> Plan:
        """Find out what it lacks; changes nothing there. Raises Unavailable, Denied, Untrusted."""
        ...

    def missing(self, plan: Plan) -> Amount:
        """What would be sent; all that is there already is not."""
        ...

    async def send(self, content: Content, plan: Plan, watch: Callable[[int], None]) -> Pushed:
        """Send that, and have it kept. `watch` hears how many bytes went out. Not retried, and safe
        to repeat; if cancelled, what arrived stays there. Raises as `plan`, and LocalFault.
        """
        ...
