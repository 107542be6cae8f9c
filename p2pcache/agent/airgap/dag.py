"""One DAG as it is, in a CAR of one root: to the byte what `ipfs dag export` writes. Blocking.

Nothing is fetched, and nothing of ours is added: no manifest, no name, no mark.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from p2pcache.agent.airgap.write import check_place, drafted
from p2pcache.agent.meant import manifest_named
from p2pcache.content import cid as cids
from p2pcache.content import refs
from p2pcache.content.carstream import encode_car
from p2pcache.content.dag import path as dag_path
from p2pcache.content.dag import traverse
from p2pcache.content.dag.walk import run, stream
from p2pcache.errors import Denied, NotFound, Unavailable, UsageError
from p2pcache.transfer.folders import folder_root
from p2pcache.transfer.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from p2pcache.agent.parts import Parts
    from p2pcache.content.dag.walk import Found, Get

    Tell = Callable[[Progress], None]
    """Gets the newest progress; may raise to stop the work between two blocks."""

_TELL_EVERY = 64  # blocks


@dataclass(frozen=True, slots=True)
class WrittenDag:
    """`content_bytes`: of all blocks, without their frames."""

    root: bytes
    size_bytes: int
    blocks: int
    content_bytes: int


def write_dag(parts: Parts, text: str, path: Path, tell: Tell) -> WrittenDag:
    """Write the DAG that a ref means. Raises NotFound (not all of it is here), Denied (restricted),
    UsageError, DiskFull, LocalFault.
    """
    check_place(path)
    get = _get(parts, text)
    root = _root(parts, text, get)
    count = content_bytes = 0

    def counted(blocks: Iterator[Found]) -> Iterator[Found]:
        nonlocal count, content_bytes
        for found in blocks:
            yield found
            count += 1
            content_bytes += len(found.block)
            if count % _TELL_EVERY == 0:
                tell(Progress("exporting", None, content_bytes, content_bytes))

    with drafted(path, 0o644) as file:
        blocks = stream(traverse.blocks(root, inlined=True), get)
        size_bytes = sum(file.write(part) for part in encode_car([root], counted(blocks)))
    return WrittenDag(root, size_bytes, count, content_bytes)


def _get(parts: Parts, text: str) -> Get:
    """Blocks that are here and that everybody may read: a CAR has no mark that says otherwise."""
    everybody, ours = parts.ipfs.open_blocks.local, parts.ipfs.blocks.local

    def get(cid: bytes) -> bytes:
        data = everybody.read(cid)
        if data is not None:
            return data
        if ours.length(cid) is not None:
            raise Denied(
                f"`{text}` is gated or private where it came from, and a plain CAR cannot say so",
                hint="if its licence lets you pass it on, use --gated without --plain",
            )
        raise NotFound(
            f"not all blocks of `{text}` are here: {cids.format_cid(cid)} is missing",
            hint="files that came as pulls are kept under this program's own profile; `p2pcache "
            "import` and the RPC's `add` and `pin/add` keep every block as it is",
        )

    return get


def _root(parts: Parts, text: str, get: Get) -> bytes:
    """The root as the user writes it (v0 or v1); of what is no CID that of its files' folder."""
    ref = refs.parse_ref(text)
    if isinstance(ref, refs.DigestRef):
        blob = parts.store.find_any(ref.digest)
        if blob is None or blob.root_cid is None:
            raise NotFound(f"`{text}` is not here, or its root is not known")
        return blob.root_cid
    if isinstance(ref, refs.CidRef) and parts.store.get_manifest(ref.cid) is None:
        if ref.path is not None:
            return run(dag_path.resolve(ref.cid, ref.path.split("/")), get).cid
        return _as_written(text, ref.cid)
    manifest = parts.store.get_manifest(manifest_named(parts, text))
    assert manifest is not None, "its row was read just now"
    found = parts.store.find_many([file.digest for file in manifest.files])
    if any(file.digest not in found for file in manifest.files):
        raise NotFound(f"not all files of `{text}` are here", hint=f"`p2pcache get {text}`")
    if any(blob.root_cid is None for blob in found.values()):
        raise Unavailable(f"a root of `{text}` is not known yet", hint="try again in a moment")
    return folder_root({file.path: found[file.digest] for file in manifest.files})


def _as_written(text: str, cid: bytes) -> bytes:
    """A CIDv0 stays one: it is in the header of the CAR."""
    with suppress(UsageError):
        written = cids.parse_cid_as_written(text.rstrip("/").rpartition("/")[2])
        if cids.as_v1(written) == cid:
            return written
    return cid
