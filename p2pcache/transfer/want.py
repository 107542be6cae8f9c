"""What a pull is asked to bring, and from whom: the plain values that the driver starts from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    import trio

    from p2pcache.lanes.orders import Location
    from p2pcache.sources.port import BlockReader, SourceKind
    from p2pcache.store.rooted import AnyBlob
    from p2pcache.transfer.account import Tally
    from p2pcache.transfer.machine import Statistics


@dataclass(frozen=True, slots=True)
class Wanted:
    """One file. `digest`: a multihash, or None when only the arrived bytes can name it.

    `key`: what the origin needs to locate it. `path` has passed `content.names`. `root`: the UnixFS
    root (binary CID) that was asked for, where it was; `block_map`: hashes that make this root.
    `validator`: the version that was listed, when there is no digest. `dag`: see `ListedFile`.
    """

    path: str
    size_bytes: int
    digest: bytes | None
    key: str
    root: bytes | None = None
    block_map: bytes | None = None
    validator: str | None = None
    dag: bytes | None = None

    @property
    def name(self) -> bytes | None:
        """What it is called among peers; None when only the arrived bytes can name it."""
        return self.digest or self.root

    @property
    def whole(self) -> bool:
        """Whether ranges of it may belong to different versions: it comes in one stream."""
        return self.name is None and self.validator is None


@dataclass(frozen=True, slots=True)
class Origin:
    """A source as one pull sees it: bound to its listing and the caller's credentials.

    `locate` may raise any of our errors; it is called again when its answer stopped working.
    `holds`: the keys that it has; None: all, for whoever wants them is to ask it for them. `join`:
    where several small files come as one body, in that order; None: each comes by itself. `more`:
    keys that it turns out to have while the pull runs. `maps`: by key, the hashes of the blocks
    that it must send for the name that it has the file by; they bind nobody else.
    `blocks`: where it has no address to locate, but gives blocks.
    """

    name: str
    kind: SourceKind
    streams: int
    locate: Callable[[str], Awaitable[Location]]
    holds: frozenset[str] | None = None
    join: Callable[[Sequence[str]], Location] | None = None
    more: trio.MemoryReceiveChannel[str] | None = None
    maps: Mapping[str, bytes] = field(default_factory=dict)
    blocks: BlockReader | None = None


if TYPE_CHECKING:
    Helper = Callable[[Sequence[Wanted], bool], AbstractAsyncContextManager[Origin | None]]
    """Who else may have what is missing, for the time of one pull; None: nobody. The flag: there is
    an origin, so that it is not waited for long.
    """


@dataclass(frozen=True, slots=True)
class PullReport:
    """What a pull did. `blobs`: for each wanted path, the stored blob. Seconds are wall time.

    `hosts`: `host:port` of each peer that was asked, by its name in the statistics. `tally`: where
    `fetch_s` went; None when nothing was missing.
    """

    blobs: dict[str, AnyBlob]
    statistics: Statistics
    reused_bytes: int
    adopted_bytes: int
    adopt_s: float
    fetch_s: float
    verify_s: float
    best_bytes_per_s: float
    hosts: Mapping[str, str] = field(default_factory=dict)
    tally: Tally | None = None
