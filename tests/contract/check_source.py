"""What every `Source` must do, whatever is behind it. An adapter that passes can be plugged in.

`check_source` takes a source, a ref that it accepts and the truth about that ref's files. It reads
the locations with urllib, on purpose: not with the library that the adapter itself uses.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import ssl
import urllib.request
from typing import TYPE_CHECKING

import pytest
import trio

from p2pcache.content.digests import git_sha1_digest, sha256_digest
from p2pcache.content.names import safe_path
from p2pcache.errors import NotFound, P2PCacheError, UsageError
from p2pcache.sources.port import Credentials, Listing, Source, SourceKind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from p2pcache.content.refs import Ref
    from p2pcache.lanes.orders import Location

ANONYMOUS = Credentials()


@dataclasses.dataclass(frozen=True)
class Truth:
    """What is really there: path to bytes, and which kind of digest the origin should give."""

    files: Mapping[str, bytes]
    digests: str  # "none", "sha256" or "hub" (sha256 or git sha1)


@dataclasses.dataclass(frozen=True)
class Missing:
    """A ref that the source accepts and that nothing answers to, and the error that is due."""

    ref: Ref
    error: type[P2PCacheError]


async def check_source(
    source: Source,
    ref: Ref,
    truth: Truth,
    missing: Missing,
    foreign: Ref,
    credentials: Credentials = ANONYMOUS,
    *,
    fails: tuple[type[P2PCacheError], ...] = (),
) -> Listing:
    """Run the whole check; `foreign` is a ref of another adapter. `fails`: what a server with a
    fault of its own may bring about where it is asked for another version. Returns the listing.
    """
    assert isinstance(source.name, str)
    assert isinstance(source.kind, SourceKind)
    assert source.accepts(ref)
    assert not source.accepts(foreign)
    listing = await source.list(ref, credentials)
    _check_listing(source, listing, truth)
    for file in listing.files:
        location = await source.locate(listing, file.key, credentials)
        again = await source.locate(listing, file.key, credentials)
        assert location == again or location.url != again.url, "same place, other credentials"
        body = await trio.to_thread.run_sync(read, location)
        assert body == truth.files[file.path], f"{file.path}: other bytes than the origin has"
    assert await source.list(ref, credentials) == listing, "nothing changed, and the listing did"
    assert await source.gives(ref, listing.immutable, credentials)
    with contextlib.suppress(NotFound, *fails):  # say no, too
        assert not await source.gives(ref, "d" * 40, credentials)
    with pytest.raises(missing.error) as seen:
        await source.list(missing.ref, credentials)
    assert isinstance(seen.value, P2PCacheError)
    assert seen.value.message
    with pytest.raises(UsageError):
        await source.list(foreign, credentials)
    await source.aclose()
    await source.aclose()  # once more changes nothing
    return listing


def _check_listing(source: Source, listing: Listing, truth: Truth) -> None:
    assert listing.source == source.name
    assert listing.endpoint
    paths = [file.path for file in listing.files]
    assert sorted(paths) == sorted(truth.files)
    for file in listing.files:
        body = truth.files[file.path]
        assert safe_path(file.path) == file.path
        assert file.key
        assert file.size in (None, len(body))
        match truth.digests:
            case "none":
                assert file.digest is None
            case "sha256":
                assert file.digest == sha256_of(body)
            case "hub":
                assert file.digest in (sha256_of(body), git_sha1_of(body))
            case other:
                raise AssertionError(other)


def read(location: Location) -> bytes:
    """The bytes behind a location, as any HTTP client (or the file system) sees them, through the
    proxies that the environment has now: urlopen remembers those of its first call.
    """
    request = urllib.request.Request(location.url, headers=dict(location.headers))
    context = None
    if location.url.startswith("https"):
        context = ssl.create_default_context(cafile=location.tls.ca_file)
    opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context))
    with opener.open(request, timeout=10) as reply:
        return reply.read()


def sha256_of(body: bytes) -> bytes:
    return sha256_digest(hashlib.sha256(body).digest())


def git_sha1_of(body: bytes) -> bytes:
    return git_sha1_digest(hashlib.sha1(b"blob %d\0" % len(body) + body).digest())
