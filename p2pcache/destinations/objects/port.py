"""The port of object stores: what `push` needs of S3, Google Cloud Storage, Azure and their like.

A store is opened at one folder of one bucket, with one login: keys here are relative to it. What a
key holds is replaced as a whole, and nothing of an upload is visible before it is complete.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from p2pcache.destinations.uploads import Count

MAX_OBJECTS = 1_000_000  # that a folder may list, as a manifest


@dataclass(frozen=True, slots=True)
class Absent:
    """The condition that there is no object of that key."""


@dataclass(frozen=True, slots=True)
class Same:
    """The condition that the object is still this version."""

    version: str


Condition = Absent | Same | None
"""What must hold for a write; None: whatever is there is replaced."""


@dataclass(frozen=True, slots=True)
class Stored:
    """An object as a list or a look tells it. `version`: what is another one after each write (an
    ETag, a generation), and no hash of anything. `sha256`: of all its bytes, where the store has a
    checksum of that kind, or our own metadata says so; a list mostly does not tell.
    """

    key: str
    size: int
    version: str
    sha256: bytes | None = None


@dataclass(frozen=True, slots=True)
class Upload:
    """A file on the disk that becomes an object. `hashes`: the sha2-256 of each 1 MiB, joined, or
    empty: then what is read from the disk is not checked before it goes out.
    """

    key: str
    path: str
    size: int
    sha256: bytes
    condition: Condition
    hashes: bytes = field(default=b"", repr=False)


class ObjectStore(Protocol):
    """One folder of one bucket. `name`: the word for its kind (`s3`); `where`: the address of the
    folder as `get` takes it, with a slash at its end; `endpoint`: who serves it.

    `conditional`: whether the store kept to the conditions so far. One that knows none of that kind
    writes without, and it is False from then on: two pushes at once could overwrite each other.

    Errors by the table of each adapter: NotFound (no such bucket), Denied, Unavailable, Untrusted,
    UsageError, LocalFault. Nothing is retried inside: the push does that. All calls are safe to
    repeat; if cancelled, what was under way may have happened.
    """

    name: str
    where: str
    endpoint: str

    @property
    def conditional(self) -> bool:
        """See above."""
        ...

    async def list(self) -> list[Stored]:
        """All objects below the folder, ours in `.p2pcache/` too; empty where there is none."""
        ...

    async def look(self, keys: Sequence[str]) -> dict[str, Stored]:
        """What only a look at each object tells; keys that are gone are left out."""
        ...

    async def get_small(self, key: str, most_bytes: int) -> tuple[bytes, str] | None:
        """A small object and its version; None where there is none. A longer one is Untrusted."""
        ...

    async def put_small(self, key: str, data: bytes, condition: Condition) -> str:
        """Write a small object at once; its version. Raises Conflict where the condition fails."""
        ...

    async def put(self, upload: Upload, count: Count) -> str:
        """Write a file, its sha256 in the metadata `p2pcache-sha256`; its version.

        In parts, several at once, each with a checksum that the store verifies. Parts that are
        there of an upload that broke off are not sent again, whoever sent them. Raises Conflict
        as `put_small`; bytes that are damaged on our disk are a LocalFault, and do not go out.
        """
        ...

    async def delete(self, key: str) -> None:
        """Remove an object; it is no error where there is none."""
        ...

    async def aclose(self) -> None:
        """Close connections, and forget what signs."""
        ...


class ReadsMany(ObjectStore, Protocol):
    """A store that reads many small objects for little more than one."""

    async def get_many(self, keys: Sequence[str], most_bytes: int) -> dict[str, tuple[bytes, str]]:
        """As `get_small`, of each; those that are gone are left out. All are in memory at once."""
        ...
