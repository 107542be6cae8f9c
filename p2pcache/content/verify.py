"""The one door for foreign bytes: only here do `Verified` values come into being (HOUSE R3).

Everything that stores, shares or shows bytes asks for these types, so that a path around the
check does not type-check, and does not run either.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Literal, final

from p2pcache.content import cid as cids
from p2pcache.content import digests, unixfs
from p2pcache.content.dag import hashes
from p2pcache.errors import Untrusted

if TYPE_CHECKING:
    from p2pcache.content.digests import Digest, WholeDigests

_KEY = object()  # held by this module alone


@final
class Verified:
    """Bytes in memory that match their digest. Only `verify` makes one."""

    __slots__ = ("data", "digest")

    def __init__(self, key: object, digest: Digest, data: bytes) -> None:
        if key is not _KEY:
            raise TypeError("only content.verify.verify makes a Verified")
        self.digest = digest
        self.data = data


@final
class VerifiedBlob:
    """The digests of a whole blob that were computed here, against what was asked for.

    `named_by`: "asked" when a digest was asked for and matched; "arrived" when there was none and
    the blob is named by the bytes that came. Only `verify_whole` makes one.
    """

    __slots__ = ("git_sha1", "named_by", "sha256", "size")

    def __init__(
        self, key: object, got: WholeDigests, named_by: Literal["asked", "arrived"]
    ) -> None:
        if key is not _KEY:
            raise TypeError("only content.verify.verify_whole makes a VerifiedBlob")
        self.size = got.size
        self.sha256 = got.sha256
        self.git_sha1 = got.git_sha1
        self.named_by = named_by

    @property
    def digest(self) -> Digest:
        """Its sha2-256 multihash."""
        return digests.sha256_digest(self.sha256)


@final
class VerifiedRoot:
    """Hashes of all blocks of a blob, computed here as they came, that make the UnixFS root which
    was asked for: they prove the blob as its whole digest would. Only `verify_root` makes one.
    """

    __slots__ = ("block_digests", "root_cid", "size")

    def __init__(self, key: object, root_cid: bytes, size: int, block_digests: bytes) -> None:
        if key is not _KEY:
            raise TypeError("only content.verify.verify_root makes a VerifiedRoot")
        self.root_cid = root_cid
        self.size = size
        self.block_digests = block_digests


@final
class VerifiedBlock:
    """A block of IPFS that matches its CID, whatever its hash function. Only `verify_loose` makes
    one. `multihash`: of its CID.
    """

    __slots__ = ("data", "multihash")

    def __init__(self, key: object, multihash: bytes, data: bytes) -> None:
        if key is not _KEY:
            raise TypeError("only content.verify.verify_loose makes a VerifiedBlock")
        self.multihash = multihash
        self.data = data


def verify_loose(cid: bytes, data: bytes) -> VerifiedBlock:
    """`cid`: binary, of either version. Raises Untrusted: other bytes, more than a block may have,
    a hash function that we do not know.
    """
    hashes.verify_cid(cid, data)
    return VerifiedBlock(_KEY, cids.multihash(cid), data)


def verify_root(root_cid: bytes, size: int, block_digests: bytes) -> VerifiedRoot:
    """`block_digests`: 32 bytes for each block of a blob of `size` bytes. Raises Untrusted."""
    if len(block_digests) != 32 * -(-size // unixfs.LEAF_BYTES):
        raise Untrusted(f"{len(block_digests)} bytes of hashes do not fit a blob of {size} bytes")
    hashes = (block_digests[at : at + 32] for at in range(0, len(block_digests), 32))
    if unixfs.file_root(hashes, size).cid != root_cid:
        raise Untrusted("the blocks do not make the root that was asked for")
    return VerifiedRoot(_KEY, root_cid, size, block_digests)


def verify(digest: Digest, data: bytes) -> Verified:
    """Bytes to Verified. Raises Untrusted that names both digests."""
    verify_whole(digest, len(data), digests.whole_digests(data))
    return Verified(_KEY, digest, data)


def verify_whole(asked: Digest | None, size: int | None, got: WholeDigests) -> VerifiedBlob:
    """Compare what was computed over a whole blob with what was asked for.

    `size` None: not promised. Raises Untrusted that names both sizes or both digests.
    """
    if size is not None and got.size != size:
        raise Untrusted(f"{got.size} bytes arrived where {size} were promised")
    if asked is None:
        return VerifiedBlob(_KEY, got, "arrived")
    digests.parse_multihash(asked)
    if digests.is_sha256(asked):
        here = digests.sha256_digest(got.sha256)
    elif got.git_sha1 is not None:
        here = digests.git_sha1_digest(got.git_sha1)
    else:
        raise Untrusted(f"no git blob id was computed to compare with {digests.describe(asked)}")
    if here != asked:
        raise Untrusted(
            f"the bytes hash to {digests.describe(here)}, not to {digests.describe(asked)}"
        )
    return VerifiedBlob(_KEY, got, "asked")


def verify_block(expected: bytes, data: bytes | bytearray | memoryview) -> bytes:
    """The sha2-256 of one block, if it is the expected one. Raises Untrusted naming both."""
    got = hashlib.sha256(data).digest()
    if got != expected:
        raise Untrusted(f"a block hashes to {got.hex()}, not to {expected.hex()}")
    return got
