"""The ports of sources: `Source`, which every origin adapter implements, and `Swarm`, the peers.

A source lists and locates; it never moves bytes.

An adapter raises only `errors` types, translated at its edge by a table. It does not retry, with
one exception: a library that it uses may. Every call has a deadline of the caller's.
"""

from __future__ import annotations

import base64
import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import trio

    from p2pcache.content.peerid import PeerId
    from p2pcache.content.ranges import RangeSet
    from p2pcache.content.refs import Ref
    from p2pcache.content.signed import PieceAttestation
    from p2pcache.lanes.orders import Location


KUBO = "kubo"  # the name of that adapter, which lists CIDs and keeps no record of it
BLOCKS = "blocks"  # ... of what is here as blocks
FETCHED = "ipfs"  # ... of what comes block by block from whoever speaks blocks


class SourceKind(enum.IntEnum):
    """The order of preference (DESIGN 6): lower is asked first."""

    PEER = 1
    KUBO = 2
    ORIGIN = 3


@dataclass(frozen=True, slots=True)
class AwsLogin:
    """What the calling user's AWS_* variables say: never logged, never stored, never shown.

    Secret keys are sent nowhere: they sign requests. `endpoint_url`: what they are for.
    """

    access_key_id: str | None = None
    secret_access_key: str | None = None
    session_token: str | None = None
    profile: str | None = None
    region: str | None = None
    endpoint_url: str | None = None

    @property
    def keys(self) -> tuple[str, str, str | None] | None:
        """Both halves of a login and the session's token; None: not both are given."""
        if not self.access_key_id or not self.secret_access_key:
            return None
        return self.access_key_id, self.secret_access_key, self.session_token

    def __repr__(self) -> str:
        return "AwsLogin(...)"


@dataclass(frozen=True, slots=True)
class GcsLogin:
    """What the calling user's environment says about Google's buckets: never logged, stored, shown.

    `account`: the JSON text of a service account, or of a user's own login; `token`: is sent as it
    is. `endpoint_url`: another server, which they are for then.
    """

    account: str | None = None
    token: str | None = None
    endpoint_url: str | None = None

    def __repr__(self) -> str:
        return "GcsLogin(...)"


@dataclass(frozen=True, slots=True)
class AzureLogin:
    """What the calling user's environment says about Azure: never logged, stored, shown.

    `account`: whose the `key` and the `sas` are; None: of any. A key is sent nowhere: it signs
    addresses. `tenant`, `client_id`, `client_secret`: of a service principal. `endpoint_url`: of
    the account, or of any, with `{account}` in it.
    """

    account: str | None = None
    key: str | None = None
    sas: str | None = None
    tenant: str | None = None
    client_id: str | None = None
    client_secret: str | None = None
    endpoint_url: str | None = None

    def __repr__(self) -> str:
        return "AzureLogin(...)"


@dataclass(frozen=True, slots=True)
class RegistryLogin:
    """What `docker login` keeps for one registry, or Ollama's key: never logged, stored or shown.

    `host`: the registry's, as its ref has it. `identity`: is exchanged for tokens (OAuth2);
    `bearer`: is one. `ollama_key`: text of an OpenSSH private key.
    """

    host: str | None = None
    user: str | None = None
    password: str | None = None
    identity: str | None = None
    bearer: str | None = None
    ollama_key: str | None = None

    @property
    def basic(self) -> str | None:
        """User and password as an Authorization header has them."""
        if self.user is None or self.password is None:
            return None
        return base64.b64encode(f"{self.user}:{self.password}".encode()).decode()

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no message may show."""
        said = (self.password, self.identity, self.bearer, self.basic)
        return tuple(secret for secret in said if secret)

    def __repr__(self) -> str:
        return "RegistryLogin(...)"


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the calling user brings: never logged, never stored, never shown by `repr`.

    `hf_token`: from the user's argument or environment; sent to the hub's endpoint and no further.
    """

    hf_token: str | None = None
    hf_endpoint: str | None = None
    aws: AwsLogin | None = None
    registry: RegistryLogin | None = None
    gcs: GcsLogin | None = None
    azure: AzureLogin | None = None

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
    `root`: the UnixFS root (binary CID), where the origin goes by it, and `block_map` the sha2-256
    of each block, joined, which make that root. `dag`: the CID of a file whose own blocks alone
    can be verified, for it is not cut as ours are: it comes block by block.
    """

    path: str
    size: int | None
    digest: bytes | None
    key: str
    oid: str | None = None
    xet_hash: str | None = None
    validator: str | None = None
    is_recent: bool = False
    root: bytes | None = None
    block_map: bytes | None = field(default=None, repr=False)
    dag: bytes | None = None

    @property
    def name(self) -> bytes | None:
        """What it is called among peers; None when only the arrived bytes can name it."""
        return self.digest or self.root


@dataclass(frozen=True, slots=True)
class Listing:
    """What a ref means at this moment.

    `immutable`: the revision that was meant (a commit, an ETag, `sha256:<hex>` of a pin or of the
    list of sums), None when there is no such thing. `mutable`: whether the ref can mean something
    else tomorrow. `gated`: the origin said that access is restricted (gated or private);
    `credential_used`: a credential was sent. `notes`: honest remarks for the
    user ("named by what arrived: the origin has no content hash"). `asked`: when `endpoint` is
    another agent, whose word this is, the origin that it asked. `nodes`: of the folders and
    symlinks that were listed, where they are a DAG: CIDv1 to verified block, the root's first.
    """

    source: str
    endpoint: str
    immutable: str | None
    mutable: bool
    files: tuple[ListedFile, ...]
    gated: bool = False
    credential_used: bool = False
    notes: tuple[str, ...] = ()
    asked: str = ""
    nodes: Mapping[bytes, bytes] = field(default_factory=dict, repr=False, compare=False)

    @property
    def hub(self) -> str:
        """The origin whose name it is, whoever told us: one name means one thing there."""
        return self.asked or self.endpoint


class Source(Protocol):
    """One kind of origin."""

    name: str
    kind: SourceKind

    def accepts(self, ref: Ref) -> bool:
        """Whether this adapter understands the ref."""
        ...

    def endpoint(self, ref: Ref, credentials: Credentials) -> str:
        """Who would be asked, as `Listing.endpoint` names it. Pure. Raises UsageError."""
        ...

    async def list(self, ref: Ref, credentials: Credentials) -> Listing:
        """Resolve the ref now. Raises NotFound, Denied, Unavailable, Untrusted, UsageError."""
        ...

    async def gives(self, ref: Ref, immutable: str | None, credentials: Credentials) -> bool:
        """Whether it still gives what the ref meant when `Listing.immutable` was this, by as few
        requests as can tell; where that is None nothing tells versions apart. Errors as of `list`:
        NotFound where it has nothing of that name.
        """
        ...

    async def locate(self, listing: Listing, key: str, credentials: Credentials) -> Location:
        """A URL for one file of a listing; cheap (no request where the URL is a pure function).

        May be called again when the location it gave stopped working.
        """
        ...

    async def aclose(self) -> None:
        """Close what is open. Bounded, never raises."""
        ...


@runtime_checkable
class Joins(Protocol):
    """A source that gives several small files with one request."""

    def join(self, keys: Sequence[str]) -> Location:
        """Where a POST is answered by the bytes of these files, one after the other. Pure."""
        ...


@runtime_checkable
class BlockReader(Protocol):
    """A source that has no addresses, but gives blocks. `is_here`: out of our own store. `threads`:
    where `read` is called, for it may wait for others that need threads themselves.
    """

    is_here: bool
    threads: trio.CapacityLimiter

    def read(self, cid: bytes) -> bytes:
        """One block, verified; for worker threads of trio, and may wait for the network there.
        Raises NotFound, Unavailable, LocalFault.
        """
        ...


# -- peers ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PeerHolds:
    """A peer has (more) blocks of a blob; None: all of it. Adds to what it told before.

    `name`: a multihash or a binary CID. `size`: bytes of the whole blob, in its word.
    """

    peer: PeerId
    name: bytes
    size: int
    blocks: RangeSet | None


@dataclass(frozen=True, slots=True)
class PeerLost:
    """A peer has nothing of that blob any more: evicted, or its own source was lost."""

    peer: PeerId
    name: bytes


@dataclass(frozen=True, slots=True)
class PeerGone:
    """A peer is not connected any more, or may not be asked."""

    peer: PeerId
    reason: str


@dataclass(frozen=True, slots=True)
class PeerProof:
    """A peer may tell soon what it holds: it wants a proof of access. `under_way`: it is being
    made; otherwise it came to nothing.
    """

    peer: PeerId
    under_way: bool


@dataclass(frozen=True, slots=True)
class PeerLoad:
    """About how long a new request would wait at a peer, in its word."""

    peer: PeerId
    queue_s: float


@dataclass(frozen=True, slots=True)
class PeerThrottled:
    """An origin told a peer to wait. `origin`: 16 bytes of the sha2-256 of its `host:port`."""

    peer: PeerId
    origin: bytes
    retry_after_s: float


@dataclass(frozen=True, slots=True)
class PeerBrings:
    """A peer takes part, and has these blocks, and no others, on their way from an origin.

    `intake_bytes_per_s`: what arrives at it; None: it has ended its part. `declines`: it is slow,
    or has no origin that it may ask: nothing is to be left to it.
    """

    peer: PeerId
    intake_bytes_per_s: float | None
    declines: bool
    brings: Mapping[bytes, RangeSet]


SwarmEvent = PeerHolds | PeerLost | PeerGone | PeerProof | PeerBrings | PeerLoad | PeerThrottled


@dataclass(frozen=True, slots=True)
class Lane:
    """Where a peer serves bytes, and our ticket for it. `hosts`: the best first.

    `fingerprint`: sha-256 of its DER certificate, 32 bytes; None: no TLS (a closed network).
    `expires_at`: of the ticket, on trio's clock. `client_cert`, `client_key`: PEM files that say
    who we are, which the ticket is bound to.
    """

    hosts: tuple[str, ...]
    port: int
    fingerprint: bytes | None
    token: str = field(repr=False)
    expires_at: float
    client_cert: str | None = None
    client_key: str | None = None


class Swarm(Protocol):
    """The peers that hold or want the blobs of one pull, for as long as its scope is open."""

    @property
    def events(self) -> trio.MemoryReceiveChannel[SwarmEvent]:
        """What changes, from the start: what is held already comes first. Bounded, coalesced."""
        ...

    async def lane(self, peer: PeerId, *, name: bytes | None = None, timeout_s: float) -> Lane:
        """A lane with a valid ticket; cached until shortly before it expires. `name`: the blob
        that is to be read, in a pull of several that no manifest lists.

        Raises Denied, NotFound, Unavailable.
        """
        ...

    def expire_lane(self, peer: PeerId, *, name: bytes | None = None) -> None:
        """The peer's byte server refused the ticket of its lane: get another one next time."""
        ...

    async def block_map(
        self, peer: PeerId, name: bytes, first: int, count: int, *, timeout_s: float
    ) -> bytes | list[PieceAttestation] | None:
        """What a peer knows of the hashes of blocks `[first, first + count)`, count <= 4096.

        Plain hashes are its own word; attestations are signed, their signatures checked. None: it
        knows none. Raises Unavailable, Denied, NotFound, Untrusted.
        """
        ...

    def members(self) -> list[PeerId]:
        """Everybody that may take part, as far as is known now."""
        ...

    def distance(self, peer: PeerId) -> int:
        """How far a member is, as `transfer.machine.zones` has it; 0 where that is not known."""
        ...

    def brings(
        self, intake_bytes_per_s: float, declines: bool, blocks: Mapping[bytes, RangeSet]
    ) -> None:
        """Tell what is on its way here from an origin now, and nothing else is; see PeerBrings."""
        ...

    def throttled(self, origin: bytes, retry_after_s: float) -> None:
        """Tell those who take part that an origin told us to wait; see PeerThrottled."""
        ...

    def grew(self, name: bytes, blocks: RangeSet | None) -> None:
        """Announce verified blocks of ours, beside those announced before; None: all of them."""
        ...

    def lost(self, names: Sequence[bytes]) -> None:
        """Take back what was announced of these."""
        ...
