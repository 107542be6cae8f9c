"""A DAG of files and folders as a tar, in pieces."""

from __future__ import annotations

import tarfile
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from p2pcache.content.dag import files, folders
from p2pcache.errors import UsageError

if TYPE_CHECKING:
    from p2pcache.gateway.kubo_rpc.answers import Pieces
    from p2pcache.gateway.kubo_rpc.call import Call

MAX_DEPTH = 256  # folders in each other; PATH_MAX allows more only for names of one letter
MAX_PATH_BYTES = 4096  # PATH_MAX: nobody could unpack it
_RECORD = 512
_END = bytes(2 * _RECORD)


class _Entry(tarfile.TarInfo):
    """A folder's name has no slash at its end: Kubo's own reader takes it for two components."""

    def get_info(self) -> dict[str, Any]:
        """What the header is made of."""
        return {**super().get_info(), "name": self.name}


async def pieces(call: Call, root: bytes, name: str) -> Pieces:
    """A tar whose only top entry is `name`: a file, a folder with all below it, a symlink."""
    todo = [(root, "", name)]  # the path is made late: a long one above many entries is as many
    while todo:
        cid, above, name = todo.pop()
        path = f"{above}/{name}" if above else name
        if len(path.encode()) > MAX_PATH_BYTES:
            raise UsageError(f"a path in it has more than {MAX_PATH_BYTES} bytes")
        stat = await call.run(files.stat(cid))
        if path.count("/") > MAX_DEPTH:
            raise UsageError(f"a folder of more than {MAX_DEPTH} folders in each other")
        if stat.kind == "directory":
            yield _head(path, tarfile.DIRTYPE, mode=0o755)
            async with aclosing(call.flow(folders.entries(cid))) as entries:
                below = [(entry.cid, path, entry.name) async for entry in entries]
            todo.extend(reversed(below))
        elif stat.kind == "symlink":
            yield _head(path, tarfile.SYMTYPE, target=stat.target or "")
        else:
            yield _head(path, tarfile.REGTYPE, size=stat.size)
            async with aclosing(call.flow(files.read(cid))) as content:
                async for piece in content:
                    yield piece
            yield bytes(-stat.size % _RECORD)
    yield _END


def _head(name: str, kind: bytes, *, size: int = 0, target: str = "", mode: int = 0o644) -> bytes:
    info = _Entry(name)
    info.type, info.size, info.linkname, info.mode = kind, size, target, mode
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")
