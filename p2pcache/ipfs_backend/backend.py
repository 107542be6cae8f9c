"""What a backend is, and all of it that is the same for each: reading by verified blocks.

A backend gives blocks and takes content; whatever it gives is checked against the CID here, so that
neither a damaged store nor a lying server shows bytes that were not asked for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from p2pcache.content import cid as cids
from p2pcache.content.carstream import encode_car
from p2pcache.content.dag import files, folders, hashes, path, traverse
from p2pcache.content.dag.walk import run, stream
from p2pcache.errors import Untrusted, UsageError
from p2pcache.ipfs_backend import local
from p2pcache.ipfs_backend.failures import as_runtime_errors

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

CODECS = {name: code for code, name in cids.CODECS.items()}
MAX_CAT_BYTES = (
    4 << 30
)  # of one `cat`, which is bytes in memory; `read` and `get_to_path` have none


@runtime_checkable
class IPFSBackend(Protocol):
    """The calls of ipfs_backend_router. Every one raises a RuntimeError that says what is wrong,
    and swallows nothing; none retries.
    """

    def add_bytes(self, data: bytes, *, pin: bool = True) -> str:
        """The CID of bytes as a file."""
        ...

    def cat(self, cid: str) -> bytes:
        """The bytes of a file."""
        ...

    def pin(self, cid: str) -> None:
        """Keep it and all below it."""
        ...

    def unpin(self, cid: str) -> None:
        """Let it go."""
        ...

    def block_put(self, data: bytes, *, codec: str = "raw") -> str:
        """The CID of a block, under that codec."""
        ...

    def block_get(self, cid: str) -> bytes:
        """A block."""
        ...

    def add_path(
        self,
        path: str | os.PathLike[str],
        *,
        recursive: bool = True,
        pin: bool = True,
        chunker: str | None = None,
    ) -> str:
        """The CID of a file or a folder."""
        ...

    def get_to_path(self, cid: str, *, output_path: str | os.PathLike[str]) -> None:
        """Write a file or a folder there."""
        ...

    def ls(self, cid: str) -> list[str]:
        """Names in a folder."""
        ...

    def dag_export(self, cid: str) -> bytes:
        """All below it as a CARv1."""
        ...


class VerifyingBackend(ABC):
    """Reading, by blocks that `fetch` brings. `name`: as it is registered; `role`: what it is."""

    name = "unknown"
    role = "unknown"

    @abstractmethod
    def fetch(self, cid: bytes) -> bytes:
        """A block, unverified. Raises NotFound, Unavailable."""

    def _block(self, cid: bytes) -> bytes:
        block = self.fetch(cid)
        try:
            hashes.verify_cid(cid, block)
        except Untrusted as exc:
            who = f"the {self.name} backend gave wrong bytes for {cids.format_cid(cid)}"
            raise Untrusted(f"{who}: {exc.message}") from exc
        return block

    def _resolve(self, text: str) -> bytes:
        """`<cid>`, `<cid>/a/b`, either behind `/ipfs/` or `ipfs://`. Raises UsageError."""
        plain = text.removeprefix("ipfs://").removeprefix("/ipfs/").strip("/")
        root, *below = plain.split("/")
        cid = cids.parse_cid_as_written(root)
        hashes.check_hash(cid)
        found = run(path.resolve(cid, below), self._block)
        if found.remainder:
            raise UsageError(f"`{text[:200]}` is a value within a block, and no block")
        return found.cid

    def block_get(self, cid: str) -> bytes:
        """See the port."""
        with as_runtime_errors():
            found = self._resolve(cid)
            parts = cids.parts(found)
            return (
                parts.digest if parts.hash_code == cids.IDENTITY else self._block(cids.as_v1(found))
            )

    def read(self, cid: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """Bytes `[start, end)` of a file in pieces, each verified before it comes."""
        with as_runtime_errors():
            found = self._resolve(cid)
            self._refuse_no_file(found)
            yield from stream(files.read(found, start, end), self._block)

    def _refuse_no_file(self, cid: bytes) -> int:
        stat = run(files.stat(cid), self._block)
        if stat.kind == "directory":
            raise UsageError("this is a folder, and no file", hint="`get_to_path` writes folders")
        if stat.kind == "block" and cids.codec(cid) != cids.RAW:
            raise UsageError("this block is no file", hint="`block_get` gives its bytes")
        return stat.size

    def cat(self, cid: str) -> bytes:
        """See the port."""
        with as_runtime_errors():
            found = self._resolve(cid)
            size = self._refuse_no_file(found)
            if size > MAX_CAT_BYTES:
                raise UsageError(
                    f"a file of {size} bytes does not belong into memory",
                    hint="use `get_to_path`",
                )
            return b"".join(stream(files.read(found), self._block))

    def ls(self, cid: str) -> list[str]:
        """See the port. A file has none."""
        with as_runtime_errors():
            found = self._resolve(cid)
            if run(files.stat(found), self._block).kind != "directory":
                return []
            return [entry.name for entry in stream(folders.entries(found), self._block)]

    def get_to_path(self, cid: str, *, output_path: str | os.PathLike[str]) -> None:
        """See the port. All of it appears at once, when all of it is there; what was there before
        is replaced if it is a file, and refused if it is a folder.
        """
        with as_runtime_errors():
            local.write(self._resolve(cid), Path(output_path), self._block)

    def dag_export(self, cid: str) -> bytes:
        """See the port."""
        with as_runtime_errors():
            return b"".join(self.dag_pieces(cid))

    def dag_pieces(self, cid: str) -> Iterator[bytes]:
        """The same in pieces of a block each."""
        root = self._resolve(cid)
        yield from encode_car([root], stream(traverse.blocks(root), self._block))
