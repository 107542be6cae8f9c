"""The port that every origin adapter implements. It lists and locates; it never moves bytes.

An adapter raises only `errors` types, translated at its edge by a table. It does not retry, with
one exception: a library that it uses may. Every call has a deadline of the caller's.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from p2pcache.content.refs import Ref
    from p2pcache.lanes.orders import Location


class SourceKind(enum.IntEnum):
    """The order of preference (DESIGN 6): lower is asked first."""

    PEER = 1
    KUBO = 2
    ORIGIN = 3


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the calling user brings: never logged, never stored, never shown by `repr`.

    `hf_token`: from the user's argument or environment; sent to the hub's endpoint and no further.
    """

    hf_token: str | None = None
    hf_endpoint: str | None = None

    def __repr__(self) -> str:
        return "Credentials(...)"


@dataclass(frozen=True, slots=True)
class ListedFile:
    """One file as an origin lists it. `path` has passed `content.names.safe_path`.

    `digest`: a multihash (sha2-256, or sha1 meaning the git blob id), None when the origin has no
    content hash. `size`: bytes, None when the origin does not say. `key`: what `locate` needs.
    `oid`: git id from the origin's tree (of the LFS pointer for LFS files), for HF's `trees/`.
    `validator`: for a file without a digest, what changes when its bytes do (`lanes.orders`);
    None: nothing tells two versions apart. `is_recent`: it changed so shortly before it was listed
    that its validator may be the same after another change; good for one pull, not for a record.
    """

    path: str
    size: int | None
    digest: bytes | None
    key: str
    oid: str | None = None
    xet_hash: str | None = None
    validator: str | None = None
    is_recent: bool = False


@dataclass(frozen=True, slots=True)
class Listing:
    """What a ref means at this moment.

    `immutable`: the revision that was meant (a commit, an ETag, `sha256:<hex>` of a pin or of the
    list of sums), None when there is no such thing. `mutable`: whether the ref can mean something
    else tomorrow. `gated`: the origin said that access is restricted (gated or private);
    `credential_used`: a credential was sent. `notes`: honest remarks for the
    user ("named by what arrived: the origin has no content hash").
    """

    source: str
    endpoint: str
    immutable: str | None
    mutable: bool
    files: tuple[ListedFile, ...]
    gated: bool = False
    credential_used: bool = False
    notes: tuple[str, ...] = ()


class Source(Protocol):
    """One kind of origin."""

    name: str
    kind: SourceKind

    def accepts(self, ref: Ref) -> bool:
        """Whether this adapter understands the ref."""
        ...

    async def list(self, ref: Ref, credentials: Credentials) -> Listing:
        """Resolve the ref now. Raises NotFound, Denied, Unavailable, Untrusted, UsageError."""
        ...

    async def locate(self, listing: Listing, key: str, credentials: Credentials) -> Location:
        """A URL for one file of a listing; cheap (no request where the URL is a pure function).

        May be called again when the location it gave stopped working.
        """
        ...

    async def aclose(self) -> None:
        """Close what is open. Bounded, never raises."""
        ...
