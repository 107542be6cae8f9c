"""A backend in this process's memory: for tests, and for callers without any daemon. It must be
asked for by name: nothing of it outlives the process.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from p2pcache.content import cid as cids
from p2pcache.content.dag import build, hashes
from p2pcache.errors import NotFound, UsageError
from p2pcache.ipfs_backend import local
from p2pcache.ipfs_backend.backend import CODECS, VerifyingBackend
from p2pcache.ipfs_backend.failures import as_runtime_errors

if TYPE_CHECKING:
    import os


class MemoryBackend(VerifyingBackend):
    """Nothing is evicted, so pins are only noted."""

    name = role = "memory"

    def __init__(self) -> None:
        self._blocks: dict[bytes, bytes] = {}
        self._pins: set[bytes] = set()

    def fetch(self, cid: bytes) -> bytes:
        """See the base."""
        try:
            return self._blocks[cids.multihash(cid)]
        except KeyError:
            raise NotFound(f"{cids.format_cid(cid)} is not here") from None

    def _keep(self, cid: bytes, block: bytes) -> None:
        self._blocks[cids.multihash(cid)] = block

    def add_bytes(self, data: bytes, *, pin: bool = True) -> str:
        """See the port."""
        with as_runtime_errors():
            builder = build.FileBuilder(local.PROFILE, self._keep)
            builder.write(data)
            return self._added(builder.finish().cid, pin)

    def add_path(
        self,
        path: str | os.PathLike[str],
        *,
        recursive: bool = True,
        pin: bool = True,
        chunker: str | None = None,
    ) -> str:
        """See the port."""
        with as_runtime_errors():
            profile = local.profile(chunker)
            entries: dict[str, build.Root] = {}
            empty: list[str] = []
            top = Path(path).absolute()
            for item in local.items(top, recursive=recursive):
                below = item.path.partition("/")[2]
                if item.kind == "folder":
                    empty += [below] if below else []
                elif item.kind == "link":
                    entries[below] = build.symlink(profile, str(item.place.readlink()), self._keep)
                else:
                    builder = build.FileBuilder(profile, self._keep)
                    for piece in local.pieces_of(item.place):
                        builder.write(piece)
                    entries[below] = builder.finish()
            root = entries.get("") or build.tree(profile, entries, empty, self._keep)
            return self._added(root.cid, pin)

    def _added(self, cid: bytes, pin: bool) -> str:
        if pin:
            self._pins.add(cids.multihash(cid))
        return cids.format_cid(cid)

    def pin(self, cid: str) -> None:
        """See the port."""
        self.dag_export(cid)  # all of it must be here
        with as_runtime_errors():
            self._pins.add(cids.multihash(self._resolve(cid)))

    def unpin(self, cid: str) -> None:
        """See the port."""
        with as_runtime_errors():
            found = cids.multihash(self._resolve(cid))
            if found not in self._pins:
                raise NotFound(f"{cid} is not pinned")
            self._pins.remove(found)

    def block_put(self, data: bytes, *, codec: str = "raw") -> str:
        """See the port."""
        with as_runtime_errors():
            if codec not in CODECS:
                raise UsageError(f"`{codec[:80]}` is no codec of ours")
            cid = hashes.cid_of(CODECS[codec], bytes(data))
            hashes.verify_cid(cid, data)  # its size
            self._keep(cid, bytes(data))
            return cids.format_cid(cid)
