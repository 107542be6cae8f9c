"""What the agent answers, as typed maps. Sizes in bytes, times in seconds (moments: unix time).

Maps rather than classes: `--json` prints them as they came, and an older client passes on the
fields of a newer agent. Digests and CIDs are text (hex, base32).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

if TYPE_CHECKING:
    from p2pcache.agent.localapi.adopted import AdoptedAnswer


class FileAnswer(TypedDict):
    """One file of a manifest."""

    path: str
    size: int
    sha256: str | None
    git_sha1: str | None
    root: str | None
    present: bool


class ResolveAnswer(TypedDict):
    """What a ref means now. `files` is put together from the streamed items."""

    ref: str
    canonical: str
    manifest: str
    immutable: str | None
    mutable: bool
    source: str
    endpoint: str
    resolved_at: float
    from_record: bool
    gated: bool
    total_bytes: int
    file_count: int
    notes: list[str]
    files: list[FileAnswer]


class Progress(TypedDict):
    """How far a `get`, `push` or `verify` is. Any field may be missing early on. `waiting_for`: in
    the phase `waiting`, who pushes to the same place: the bytes are theirs then, as they say.
    """

    phase: NotRequired[str]
    waiting_for: NotRequired[str | None]
    file: NotRequired[str | None]
    done_bytes: NotRequired[int]
    total_bytes: NotRequired[int]
    bytes_per_s: NotRequired[float]
    sources: NotRequired[dict[str, int]]
    eta_s: NotRequired[float | None]
    files_done: NotRequired[int]
    files_total: NotRequired[int]


class Missing(TypedDict):
    """What a dry run would fetch. `missing_files` is put together from the streamed items."""

    missing_files: list[str]
    missing_bytes: int


class GetAnswer(TypedDict):
    """A finished `get`. `path`: snapshot folder, `--to` folder or file; None: only in the store.

    `made`: files by the way they came to `path`; `link_kind`: the worst of these ways. `sha256`,
    `root`: the names of a single file, as far as they are known.
    """

    ref: str
    manifest: str
    immutable: str | None
    path: str | None
    files: int
    total_bytes: int
    fetched_bytes: int
    reused_bytes: int
    sha256: NotRequired[str | None]
    root: NotRequired[str | None]
    seconds: float
    link_kind: str | None
    made: NotRequired[dict[str, int]]
    pull: str
    notes: list[str]
    dry_run: NotRequired[Missing | None]


class PushedTo(TypedDict):
    """What a destination lacked, and got. `destination`: its kind; `where`: its address.

    `missing_*`: before anything was sent, in blocks of an IPFS node or objects of a store;
    `skipped_bytes`: of the files, that it had; `resumed_bytes`: of `missing_bytes`, what was there
    of an upload that had broken off, and was not sent again. `pinned`: it keeps the root, as it
    says itself; `provided`: it announces it. `ref`: what `get` takes to bring it back from there.
    """

    destination: str
    where: str
    dry_run: bool
    missing_blocks: int
    missing_objects: int
    missing_bytes: int
    sent_blocks: int
    sent_objects: int
    sent_bytes: int
    skipped_bytes: int
    resumed_bytes: int
    pinned: bool
    provided: bool
    ref: str | None
    notes: list[str]


class BptrAnswer(TypedDict):
    """What pointer files named is here. `folders`: where the files are; `made`: as of `get`;
    `pulls`: the receipts, one for each ref that bytes were asked of.
    """

    folders: list[str]
    files: int
    total_bytes: int
    fetched_bytes: int
    reused_bytes: int
    seconds: float
    made: dict[str, int]
    pulls: list[str]
    notes: list[str]


class PushAnswer(TypedDict):
    """Names of what was put into the store; `sha256` for a single file; `to`: what another place
    got, if it was given to one.
    """

    manifest: str
    root: str
    sha256: str | None
    files: int
    total_bytes: int
    to: NotRequired[PushedTo | None]


class LsAnswer(TypedDict):
    """One manifest that the store knows; or, where that is None, a blob or a pinned DAG of no
    manifest, which goes by `ref`. `kept`: why no eviction takes it, where something keeps it; `gc`
    asks anew.
    """

    ref: str | None
    manifest: str | None
    immutable: str | None
    files: int
    total_bytes: int
    present_bytes: int
    pinned: bool
    kept: str | None
    last_used: float | None
    resolved_at: float | None
    source: str | None
    sha256: NotRequired[str | None]
    root: NotRequired[str | None]


class PublishAnswer(TypedDict):
    """What `publish` made public: a UnixFS root, or another CID, and so many blocks."""

    root: str
    blocks: int
    notes: list[str]


class PublishedAnswer(TypedDict):
    """A public root, and what means it here. `shared`: strangers get it now."""

    root: str
    refs: list[str]
    shared: bool


class UnpublishAnswer(TypedDict):
    """What is given to no stranger any more: a UnixFS root, or another CID."""

    root: str


class PinAnswer(TypedDict):
    """What is pinned, or not any more, by its names as far as there are such."""

    manifest: str | None
    sha256: str | None
    root: str | None


class RmAnswer(TypedDict):
    """What `rm` freed, and why not more."""

    freed_bytes: int
    notes: list[str]


class GcAnswer(TypedDict):
    """What `gc` freed; `kept` counts bytes by the reason they stayed."""

    freed_bytes: int
    evicted: int
    kept: dict[str, int]


class BadBlob(TypedDict):
    """A damaged blob. `bad_blocks`: how many of its blocks, None when it could not be taken out;
    `reason`: why it is not repaired. `linked`: other names on this disk (a Hugging Face cache, a
    folder) that show the damaged bytes until they are placed again. `sha256` is None where the
    UnixFS root was asked for and is all that is known yet.
    """

    sha256: str | None
    root: str | None
    path: str
    problem: str
    bad_blocks: int | None
    linked: int
    repaired: bool
    reason: str | None


class UnreadBlob(TypedDict):
    """A blob that could not be read, by a fault of this machine; it was left alone."""

    sha256: str | None
    root: str | None
    path: str
    problem: str


class VerifyAnswer(TypedDict):
    """What `verify` hashed, what was bad, how much of that was repaired, what it could not read.

    `bad` and `unread` are put together from the streamed items. `incomplete`: the refs of which
    only a part is here, and pinned ones that lack anything.
    """

    checked: int
    checked_bytes: int
    bad: list[BadBlob]
    repaired: int
    unread: list[UnreadBlob]
    incomplete: list[str]


class LanesStatus(TypedDict):
    """The byte server. Counts since it started; None: it did not answer in time."""

    port: int
    tls: bool
    limit_up_bytes_per_s: float | None
    connections: int | None
    sent_bytes: int | None


class NetworkStatus(TypedDict):
    """The network now. `state`: "on", "opening", "off" (see `why`) or "none" (no network key)."""

    state: str
    why: str | None
    network: NotRequired[str]
    peer: NotRequired[str]
    addresses: NotRequired[list[str]]
    members: NotRequired[int]
    dht: NotRequired[dict[str, int] | None]
    lanes: NotRequired[LanesStatus]


class PublicStatus(TypedDict):
    """The public IPFS network. `why`: why this agent is not in it; then the rest is not there.
    `published`: roots that are given to it; `dht`, `lan_dht`, `bitswap`: counts.
    """

    mode: str
    why: str | None
    published: int
    peer: NotRequired[str]
    addresses: NotRequired[list[str]]
    peers: NotRequired[int]
    dht: NotRequired[dict[str, int]]
    lan_dht: NotRequired[dict[str, int]]
    bitswap: NotRequired[dict[str, int]]


class IpfsStatus(TypedDict):
    """What speaks IPFS. `gateway`, `rpc`: URLs, None where there is none; `why`: what is in their
    way; `bitswap`: counts, None where it is off or no network is open; `waits`: it is on, and
    there is no network; `public`: None where it is off.
    """

    gateway: str | None
    rpc: str | None
    why: str | None
    bitswap: NotRequired[dict[str, Any] | None]
    public: NotRequired[PublicStatus | None]
    waits: NotRequired[bool]


class LimitStatus(TypedDict):
    """The rates that hold now, None: no limit. `by_the_hour`: others hold at other hours."""

    up_bytes_per_s: float | None
    down_bytes_per_s: float | None
    by_the_hour: bool


class StatusAnswer(TypedDict):
    """The agent now."""

    version: str
    pid: int
    uptime_s: float
    home: str
    store: dict[str, Any]
    pulls: list[dict[str, Any]]
    clients: int
    rss_bytes: int
    network: NotRequired[NetworkStatus]
    ipfs: NotRequired[IpfsStatus]
    adopted: NotRequired[list[AdoptedAnswer]]
    limits: NotRequired[LimitStatus]


class NetworkAnswer(TypedDict):
    """The network that this agent is in. `admin`: whose grants count, None: nobody's."""

    network: str
    peer: str
    admin: str | None
    addresses: list[str]
    made: bool


class InviteAnswer(TypedDict):
    """A token that carries the network key: as secret as a password."""

    token: str
    expires_at: float
    addresses: list[str]


class PeerAnswer(TypedDict):
    """One connected member. Rates in bytes/s; `sent_bytes` and `received_bytes` of our lanes.

    `address`: where it listens, out of all its `addresses`; `connection`: the other end of ours.
    """

    peer: str
    address: str | None
    addresses: list[str]
    connection: str | None
    agent: str
    zone: str
    rack: str
    connected_s: float
    lane: str | None
    round_trip_s: float | None
    queue_s: float
    up_bytes_per_s: float
    intake_bytes_per_s: float
    sent_bytes: int
    received_bytes: int
    holds: int


class BanAnswer(TypedDict):
    """An agent that is not talked to. `reason` names the evidence."""

    peer: str
    reason: str
    banned_at: float


class GrantAnswer(TypedDict):
    """A grant that was signed; it travels to the members by itself. `connected`: who it is for."""

    repo: str
    peer: str
    expires_at: float
    connected: bool


class RevokeAnswer(TypedDict):
    """A grant that was taken back; it would have ended at `expires_at`."""

    repo: str
    peer: str
    expires_at: float


class GrantsAnswer(TypedDict):
    """A grant that has not ended. `revoked`: it was taken back, and counts no more."""

    repo: str
    peer: str
    expires_at: float
    revoked: bool


class SettingAnswer(TypedDict):
    """One setting. `text`: its value as it may be written; `source`: where that was said."""

    value: Any
    text: str
    source: str
    variable: str
    help: str


class CheckAnswer(TypedDict):
    """One of doctor's checks."""

    check: str
    ok: bool
    detail: str
    hint: str | None
