"""What the agent answers, as typed maps. Sizes in bytes, times in seconds (moments: unix time).

Maps rather than classes: `--json` prints them as they came, and an older client passes on the
fields of a newer agent. Digests and CIDs are text (hex, base32).
"""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict


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
    """How far a `get` or `verify` is. Any field may be missing early on."""

    phase: NotRequired[str]
    file: NotRequired[str | None]
    done_bytes: NotRequired[int]
    total_bytes: NotRequired[int]
    bytes_per_s: NotRequired[float]
    sources: NotRequired[dict[str, int]]
    eta_s: NotRequired[float | None]
    files_done: NotRequired[int]
    files_total: NotRequired[int]


class GetAnswer(TypedDict):
    """A finished `get`. `path`: snapshot folder, `--to` folder or file; None: only in the store.

    `made`: files by the way they came to `path`; `link_kind`: the worst of these ways.
    """

    ref: str
    manifest: str
    immutable: str | None
    path: str | None
    files: int
    total_bytes: int
    fetched_bytes: int
    reused_bytes: int
    seconds: float
    link_kind: str | None
    made: NotRequired[dict[str, int]]
    pull: str
    notes: list[str]
    dry_run: NotRequired[dict[str, Any]]


class PushAnswer(TypedDict):
    """Names of what was put into the store; `sha256` for a single file."""

    manifest: str
    root: str
    sha256: str | None
    files: int
    total_bytes: int


class LsAnswer(TypedDict):
    """One manifest that the store knows."""

    ref: str | None
    manifest: str
    immutable: str | None
    files: int
    total_bytes: int
    present_bytes: int
    pinned: bool
    last_used: float | None
    resolved_at: float | None
    source: str | None


class RmAnswer(TypedDict):
    """What `rm` freed, and why not more."""

    freed_bytes: int
    notes: list[str]


class GcAnswer(TypedDict):
    """What `gc` freed; `kept` counts bytes by the reason they stayed."""

    freed_bytes: int
    evicted: int
    kept: dict[str, int]


class VerifyAnswer(TypedDict):
    """What `verify` hashed, what was bad, and how much of that was repaired."""

    checked: int
    bad: list[dict[str, Any]]
    repaired: int


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


class CheckAnswer(TypedDict):
    """One of doctor's checks."""

    check: str
    ok: bool
    detail: str
    hint: str | None


class GetOptions(TypedDict, total=False):
    """Keyword arguments of `get`.

    revision: branch, tag or commit. include, exclude: fnmatch patterns of paths. to: materialise
    into this folder. hf_cache: True (the default) for the user's own Hugging Face cache, a folder
    for another one, False for none; only Hugging Face refs are put there, and with `to` nothing is
    unless asked. links: allow links into the store. limit_rate: bytes per second. offline: ask
    nobody. refresh: do not trust the recorded resolution. credentials: keys hf_token and
    hf_endpoint (default: from the environment, as huggingface_hub finds them).
    """

    revision: str | None
    include: list[str]
    exclude: list[str]
    to: str | None
    hf_cache: bool | str
    links: bool
    dry_run: bool
    offline: bool
    refresh: bool
    limit_rate: int | None
    credentials: dict[str, str] | None
