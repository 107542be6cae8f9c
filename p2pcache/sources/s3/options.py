"""How buckets are asked: for all of them, and for one. Plain values; `config` reads them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from p2pcache.content.s3_refs import split_bucket

if TYPE_CHECKING:
    from collections.abc import Mapping

Style = Literal["auto", "path", "virtual"]

PUBLIC_S3 = "https://s3.amazonaws.com"  # Amazon's, whatever the region
DEFAULT_REGION = "us-east-1"  # what most stores that know no regions call theirs


@dataclass(frozen=True, slots=True)
class BucketOptions:
    """What is said of one bucket, or of all that nothing is said of; None: not said.

    `style` auto: the bucket is in the host's name at Amazon, in the path elsewhere.
    `anonymous`: requests are not signed, whatever login there is. `requester_pays`: who asks
    agrees to pay. `public`: what was read with a login is not kept from other agents.
    """

    endpoint: str | None = None
    region: str | None = None
    profile: str | None = None
    style: Style | None = None
    anonymous: bool | None = None
    requester_pays: bool | None = None
    public: bool | None = None


@dataclass(frozen=True, slots=True)
class S3Options:
    """All buckets, and what differs for some."""

    common: BucketOptions = BucketOptions()
    buckets: Mapping[str, BucketOptions] = field(default_factory=dict)
    url_valid_s: int = 3600  # of a signed address; a pull that takes longer gets fresh ones
    ca_file: str | None = None  # a private authority, instead of the public ones
    request_timeout_s: float = 10.0  # connect, and each read, of a question
    deadline_s: float = 120.0  # a listing: 1e6 keys are 1000 pages of 0.1 s
    max_files: int = 1_000_000  # as a manifest
    heads_at_once: int = 16  # what one object has besides its size takes a request of its own
    max_heads: int = 1_000  # of one listing: boto3 takes 3 ms of a core each; then bytes name
    max_reply_bytes: int = 32 << 20  # a page of 1000 keys of 1 KiB, escaped, is 7 MiB
    grant_s: float = 300.0  # boto3 renews sessions that last under 10 minutes more
    max_grants: int = 64  # buckets in use at once


# The stores that refs name. Cloudflare knows one region; CoreWeave wants the bucket in the host.
_R2 = "https://{account}.r2.cloudflarestorage.com"
_COREWEAVE = BucketOptions("https://cwobject.com", style="virtual")


def of_store(named: str) -> BucketOptions:
    """What a bucket's name tells of its store; nothing where it names none."""
    match split_bucket(named):
        case "r2", account, _:
            return BucketOptions(_R2.format(account=account), region="auto")
        case "cw", _, _:
            return _COREWEAVE
    return BucketOptions()


MAX_URL_VALID_S = 7 * 86400  # of signature version 4


def is_amazon(endpoint: str) -> bool:
    """Whether it is Amazon's own, in any of its regions."""
    host = urlsplit(endpoint).hostname or ""
    return host.endswith((".amazonaws.com", ".amazonaws.com.cn"))


def parse_endpoint(text: str) -> str:
    """A URL without a slash at its end; a path stays, for gateways. Raises ValueError."""
    word = text.strip().rstrip("/")
    url = urlsplit(word)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ValueError(f"`{word[:200]}` is not an endpoint like https://minio.example:9000")
    if "@" in url.netloc or url.query or url.fragment:
        raise ValueError("an endpoint has neither a password, a query nor a fragment")
    _ = url.port  # raises for one that is no number
    return word
