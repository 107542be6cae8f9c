"""Whether a file is what its name in a cache says. Blocking; nobody's word is taken for it."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from p2pcache.content.digests import WholeHasher
from p2pcache.errors import LocalFault
from p2pcache.lanes.orders import BLOCK_BYTES
from p2pcache.store.durable import local_faults
from p2pcache.store.hfcache.layout import is_sha256

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Hashed:
    """A file that is what it should be. `sha256`: raw; `hashes`: that of each block, joined."""

    sha256: bytes
    hashes: bytes = field(repr=False)


def hash_named(path: Path, name: str, size: int, on_block: Callable[[], None]) -> Hashed:
    """Read it, once. `name`: the hex digits of its sha256 or of git's sha1. `on_block` is called
    after each; what it raises ends the work. Raises LocalFault where it is not what it is called.
    """
    whole = WholeHasher(size, git=not is_sha256(name))
    hashes, read = bytearray(), 0
    with local_faults(f"reading {path}"), path.open("rb") as stream:
        if os.fstat(stream.fileno()).st_size == size:
            while block := stream.read(BLOCK_BYTES):
                whole.update(block)
                hashes += hashlib.sha256(block).digest()
                read += len(block)
                on_block()
    digests = whole.digests()
    found = digests.sha256 if is_sha256(name) else digests.git_sha1
    if read != size or found is None or found.hex() != name:
        raise LocalFault(
            f"{path} is not what its name says: it is damaged, and is not pushed",
            hint="remove it, and download it again",
        )
    return Hashed(digests.sha256, bytes(hashes))
