"""What the store knows of a listing that just came: digests that it may keep, sizes it refutes.

An origin without content hashes tells by a validator (a strong ETag; a file's inode and times)
that its file is the one whose bytes were hashed before: then the digest is known without a byte.
A size beside a digest is only the origin's word; where the content is here, it is known better.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from p2pcache.errors import Untrusted

if TYPE_CHECKING:
    from p2pcache.sources.port import ListedFile, Listing
    from p2pcache.store.store import Store


def with_known_digests(listing: Listing, recorded: Listing | None) -> Listing:
    """`listing`, with the digests of files that are the same version as when it was recorded."""
    if recorded is None or all(file.digest is not None for file in listing.files):
        return listing
    before = {_version(file): file.digest for file in recorded.files if file.validator is not None}
    return replace(
        listing,
        files=tuple(
            file if file.digest is not None else replace(file, digest=before.get(_version(file)))
            for file in listing.files
        ),
    )


def check_sizes(listing: Listing, store: Store) -> None:
    """Raise Untrusted when a file cannot be the content that its digest names. Blocking."""
    named = [file.digest for file in listing.files if file.digest is not None]
    have = store.find_many(named)
    for file in listing.files:
        blob = None if file.digest is None else have.get(file.digest)
        if blob is not None and file.size is not None and blob.size != file.size:
            raise Untrusted(
                f"`{file.path}` has {file.size} bytes at the origin, and the content that was "
                f"asked for has {blob.size}",
                hint="its digest belongs to another file, or the origin serves something else",
            )


def _version(file: ListedFile) -> tuple[str, str, int | None, str | None]:
    return file.path, file.key, file.size, file.validator
