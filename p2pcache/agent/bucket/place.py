"""Which bucket, whose login, which cache: what every operation on a bucket is told."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from p2pcache.agent.bucket.patience import Patient
from p2pcache.content.s3_refs import S3Ref, parse_s3, s3_text
from p2pcache.destinations.port import Place
from p2pcache.errors import P2PCacheError, UsageError
from p2pcache.sources.s3.errors import CHECK_LOGIN, NO_NETWORK, SET_LOGIN

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from p2pcache.agent.args import Args
    from p2pcache.agent.parts import Parts
    from p2pcache.destinations.objects.port import ReadsMany
    from p2pcache.sources.port import Credentials, Listing, Source

CLOSE_S = 2.0  # for connections to be closed politely
_LOGIN = (
    "storage.access_key and storage.secret_key of .hf-cache-sync.yaml, or in the environment "
    "B2_APPLICATION_KEY_ID and B2_APPLICATION_KEY, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
)
_HINTS = {  # of `s3://` refs, and ours
    SET_LOGIN: f"set {_LOGIN}",
    CHECK_LOGIN: f"check the login (`p2pcache bucket doctor` says which one it is): {_LOGIN}",
    NO_NETWORK: "check storage.endpoint of .hf-cache-sync.yaml (or B2_ENDPOINT), the network and "
    "the proxy settings",
}


@dataclass(frozen=True, slots=True)
class BucketPlace:
    """`root`: the bucket, or the folder of it that `team.prefix` names. `cache`: Hugging Face's."""

    root: S3Ref
    cache: Path
    credentials: Credentials

    @property
    def text(self) -> str:
        """As `get` takes it."""
        return s3_text(self.root)

    def key(self, name: str) -> str:
        """The whole key of a name that is relative to the prefix."""
        return name if self.root.key is None else f"{self.root.key}/{name}"

    def ref(self, name: str, *, folder: bool = False) -> S3Ref:
        """One object, as a source is asked for it."""
        return replace(self.root, key=self.key(name), folder=folder)


def bucket_hint(hint: str | None) -> str | None:
    """Where these settings stand, in place of where those of `s3://` refs do."""
    return hint if hint is None else _HINTS.get(hint, hint)


def cache_of(args: Args) -> Path:
    """The Hugging Face cache of a call. Raises UsageError."""
    text = args.text("cache")
    if not text.startswith("/"):
        raise UsageError(f"`cache` must be an absolute path, not `{text}`")
    return Path(text)


def place_of(args: Args) -> BucketPlace:
    """Check a call. Raises UsageError."""
    bucket = args.optional_text("bucket")
    if not bucket:
        raise UsageError(
            "no bucket is set",
            hint="storage.bucket in .hf-cache-sync.yaml (`p2pcache bucket init`), or B2_BUCKET",
        )
    prefix = (args.optional_text("prefix") or "").strip("/")
    root = parse_s3(f"//{bucket}", bucket)
    if root.key is not None or root.bucket != bucket:
        raise UsageError(f"`{bucket}` is no name of a bucket")
    if prefix:
        root = parse_s3(s3_text(S3Ref(bucket, prefix)).removeprefix("s3:") + "/", prefix)
    return BucketPlace(root, cache_of(args), args.credentials())


@asynccontextmanager
async def opened(
    parts: Parts, place: BucketPlace, *, rate_bytes_per_s: float | None = None
) -> AsyncIterator[ReadsMany]:
    """The objects of the bucket, closed at the end; the rate is that of uploads. Raises UsageError,
    LocalFault; hints of what is raised inside name the settings of buckets.
    """
    to = Place(place.text, place.credentials, rate_bytes_per_s=rate_bytes_per_s)
    store = Patient(parts.objects(to), parts.context.chance)
    try:
        yield store
    except P2PCacheError as exc:
        exc.hint = bucket_hint(exc.hint)
        raise
    finally:
        with trio.move_on_after(CLOSE_S, shield=True):
            await store.aclose()


def source_of(parts: Parts, place: BucketPlace) -> Source:
    """Who says where bytes of the bucket are."""
    return parts.resolver.source_for(place.root)


async def asked(parts: Parts, place: BucketPlace, name: str) -> Listing:
    """One object as a source lists it: whose word it is, and who may know of it."""
    source = source_of(parts, place)
    with trio.fail_after(parts.config.resolve.timeout_s):
        return await source.list(place.ref(name), place.credentials)
