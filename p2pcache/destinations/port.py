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

    from p2pcache.content.manifest import Manifest
    from p2pcache.sources.port import Credentials


@dataclass(frozen=True, slots=True)
class ContentFile:
    """A complete blob here, at `path` on the disk. `root`: its UnixFS root, a binary CID; `hashes`:
    the sha2-256 of each block, joined (of an empty file that of nothing).
    """

    path: str
    size: int
    sha256: bytes
    root: bytes
    hashes: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Content:
    """One file or folder. `root`: the CID of all; `files`: each blob once; `nodes`: CID and block
    of each folder, children first.

    `ref`: what it goes by here, canonical; `places`: the blob of each path of the manifest, by
    path; `single`: it is one file, and no folder with one file.
    """

    ref: str
    manifest: Manifest
    single: bool
    root: bytes
    files: tuple[ContentFile, ...]
    places: dict[str, ContentFile] = field(repr=False)
    nodes: tuple[tuple[bytes, bytes], ...] = field(repr=False)

    @property
    def total_bytes(self) -> int:
        """Of the files."""
        return sum(file.size for file in self.files)


@dataclass(frozen=True, slots=True)
class Amount:
    """What goes over: `bytes`, in so many `blocks` (where a place takes those) or `objects`."""

    blocks: int = 0
    bytes: int = 0
    objects: int = 0


@dataclass(frozen=True, slots=True)
class Waiting:
    """Another push to the same place has its turn: `who`, in words; bytes as it says, 0 of 0 where
    it says nothing.
    """

    who: str
    done_bytes: int = 0
    total_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Pushed:
    """What became of a push. `root`: what the place holds now, in its own word and equal to ours.
    `pinned`, `provided`: whether an IPFS node keeps it, and tells others where it is. `ref`: what
    `get` brings it back by. `notes`: honest remarks for the user. `resumed_bytes`: what was there
    of uploads that had broken off, and did not go out again.
    """

    sent: Amount
    root: bytes
    pinned: bool = False
    provided: bool = False
    ref: str | None = None
    notes: tuple[str, ...] = ()
    resumed_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Place:
    """Where a push goes to, as the caller says it: `dest` is the text (`ipfs`,
    `s3://bucket/folder`), `kubo` and `replicas` are options of some kinds.
    """

    dest: str
    credentials: Credentials
    kubo: str | None = None
    replicas: int | None = None
    rate_bytes_per_s: float | None = None

    @property
    def scheme(self) -> str:
        """The word for its kind: what stands before `://`, or all of it."""
        return self.dest.partition("://")[0].lower()


Plan = TypeVar("Plan")


class Destination(Protocol, Generic[Plan]):
    """One place. `name`: the word for its kind; `where`: its address, without secrets; `endpoint`:
    the URL that the bytes go to, under which they are counted, None where it is not one.
    """

    name: str
    where: str
    endpoint: str | None

    async def plan(self, content: Content) -> Plan:
        """Find out what it lacks; changes nothing there. Raises Unavailable, Denied, Untrusted."""
        ...

    def missing(self, plan: Plan) -> Amount:
        """What would be sent; all that is there already is not."""
        ...

    async def send(
        self, content: Content, plan: Plan, watch: Callable[[int | Waiting], None]
    ) -> Pushed:
        """Send that, and have it kept. `watch` hears how many of its bytes are there now, those of
        an upload that broke off too, or who is waited for. Safe to repeat; if
        cancelled, what arrived stays there. Raises as `plan`, Conflict, and LocalFault.
        """
        ...

    async def aclose(self) -> None:
        """Close connections, and forget what signs."""
        ...
