"""Files, directories and symlinks as `ipfs add` makes them, under a profile or its options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from p2pcache.content.unixfs import Keep, Root


@dataclass(frozen=True, slots=True)
class Profile:
    """How content is cut and named (IPIP-499). `shard_by`: what is held against `shard_bytes`."""

    chunk_bytes: int = 1 << 20
    max_links: int = 1024
    raw_leaves: bool = True
    cid_version: Literal[0, 1] = 1
    trickle: bool = False
    shard_bytes: int = 262144
    shard_by: Literal["block", "links"] = "block"
    fanout: int = 256


PROFILES: Mapping[str, Profile] = {
    "unixfs-v1-2025": Profile(),
    "unixfs-v0-2015": Profile(
        chunk_bytes=262144, max_links=174, raw_leaves=False, cid_version=0, shard_by="links"
    ),
}


class FileBuilder:
    """A file from its bytes in order, of any length at a time; memory is a chunk, and `max_links`
    entries a level. `keep` gets every block, children before parents, leaves too.
    """

    def __init__(self, profile: Profile, keep: Keep) -> None:
        raise NotImplementedError

    def write(self, data: bytes | memoryview) -> None:
        """The next bytes."""
        raise NotImplementedError

    def finish(self) -> Root:
        """The root, once all is written."""
        raise NotImplementedError


def directory(profile: Profile, entries: Mapping[str, Root], keep: Keep) -> Root:
    """A directory of what `entries` names; sharded when it is larger than the profile allows."""
    raise NotImplementedError


def symlink(profile: Profile, target: str, keep: Keep) -> Root:
    """A symlink. Its `size` is 0, as a file it has no bytes."""
    raise NotImplementedError


def tree(profile: Profile, entries: Mapping[str, Root | None], keep: Keep) -> Root:
    """A folder from `path -> root` of files and symlinks; None is an empty folder."""
    raise NotImplementedError
