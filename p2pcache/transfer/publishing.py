"""What of a store is public: DAGs that the user named, block by block, and nothing else.

A published DAG is a pin of an owner of its own, so that it stays as long as it is given to
strangers. It has every block below its root written down, those in blobs too: whether a block is
public is told without a look at whether it is here, and so says nothing of what else is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pcache.content import cid as cids
from p2pcache.content import digests
from p2pcache.content.dag.links import links
from p2pcache.content.verify import verify_loose
from p2pcache.errors import Denied, NotFound, Untrusted
from p2pcache.transfer.dag_pins import MAX_BLOCKS

if TYPE_CHECKING:
    from p2pcache.store.rooted import AnyBlob
    from p2pcache.store.store import Hold
    from p2pcache.transfer.blocks import LocalBlocks

PUBLIC = b"public"  # the owner of the pins


class Publisher:
    """`everything` is what is here, `shown` what of it everybody may read.

    For threads: everything waits for the disk. Errors: LocalFault, DiskFull.
    """

    def __init__(self, everything: LocalBlocks, shown: LocalBlocks) -> None:
        self._all = everything
        self._shown = shown
        self._store = everything.store

    def publish(self, root: bytes) -> int:
        """Make a DAG public (a CIDv1), all of which is here; how many blocks it has. Idempotent.

        Raises NotFound (a block is missing), Denied (a part of it is restricted), Untrusted (it is
        no DAG, or one of more than MAX_BLOCKS).
        """
        blocks: set[bytes] = set()
        blobs: set[bytes] = set()
        with self._store.running() as hold:
            loose = self._gather(root, blocks, blobs, hold)
            self._store.loose.sync(loose)
            self._store.dag_pins.add(root, True, blocks, blobs, PUBLIC)
        return len(blocks)

    def unpublish(self, root: bytes) -> bool:
        """Whether it was public. What another published DAG has as well stays public."""
        return self._store.dag_pins.drop(root, PUBLIC)

    def roots(self) -> list[bytes]:
        """Of all published DAGs."""
        return sorted(self._store.dag_pins.roots(PUBLIC))

    def given(self) -> list[bytes]:
        """Of those whose first block strangers get: a part of one may have become restricted."""
        return [root for root in self.roots() if self.length(root) is not None]

    def length(self, cid: bytes) -> int | None:
        """Bytes of a public block, None for every other one."""
        if not self._store.dag_pins.keeps(cids.multihash(cid), PUBLIC):
            return None
        return None if self._is_hidden(cid) else self._shown.length(cid)

    def read(self, cid: bytes) -> bytes | None:
        """A public block, hashed just now; None for every other one."""
        if not self._store.dag_pins.keeps(cids.multihash(cid), PUBLIC):
            return None
        return None if self._is_hidden(cid) else self._shown.read(cid)

    def _is_hidden(self, cid: bytes) -> bool:
        """Whether what is here implies the block, and not everybody may read that any more: its
        copy among the loose blocks, made when it was published, is not given either.
        """
        parts = cids.parts(cid)
        if parts.hash_code != digests.SHA2_256:
            return False
        implied = self._store.implied
        return implied.length(parts.digest) is not None and (
            implied.length(parts.digest, self._shown.shows) is None
        )

    # -- what a DAG consists of

    def _gather(self, root: bytes, blocks: set[bytes], blobs: set[bytes], hold: Hold) -> set[bytes]:
        """Write down all below a root, and have it stay; what of it are loose blocks."""
        loose: set[bytes] = set()
        todo, seen = [root], {cids.multihash(root)}
        while todo:
            cid = todo.pop()
            blob = self._all.file_of(cid)
            if blob is None:
                children = self._node(cid, blocks, blobs, loose, hold)
            else:
                hold([blob.key])
                blobs.add(blob.key)
                children = self._blob(cid, blob, blocks)
            for child in children:
                if cids.multihash(child) not in seen:
                    seen.add(cids.multihash(child))
                    todo.append(cids.as_v1(child))
            if len(seen) + len(blocks) > 2 * MAX_BLOCKS:
                raise Untrusted(f"a DAG of more than {MAX_BLOCKS} blocks cannot be published")
        return loose

    def _blob(self, root: bytes, blob: AnyBlob, blocks: set[bytes]) -> list[bytes]:
        """Every block of a file that is here; its leaves are not looked at."""
        if self._shown.file_of(root) is None:
            raise _restricted(root)
        todo = [root]
        while todo:
            cid = todo.pop()
            blocks.add(cids.multihash(cid))
            if cids.codec(cid) != cids.RAW:
                todo += [c for c in links(cid, self._read(cid)) if cids.multihash(c) not in blocks]
        return []

    def _node(
        self, cid: bytes, blocks: set[bytes], blobs: set[bytes], loose: set[bytes], hold: Hold
    ) -> list[bytes]:
        """One block that is no file of ours; its children."""
        parts, multihash = cids.parts(cid), cids.multihash(cid)
        if parts.hash_code == cids.IDENTITY:
            return [] if parts.codec == cids.RAW else links(cid, parts.digest)
        hold([multihash])
        data = self._read(cid)
        if self._shown.length(cid) is None:
            raise _restricted(cid)
        sha256 = parts.digest if parts.hash_code == digests.SHA2_256 else None
        owner = None if sha256 is None else self._store.implied.blob_of(sha256)
        if owner is not None:
            hold([owner.key])
            blobs.add(owner.key)
        else:  # of a folder's manifest, which may be forgotten
            self._store.loose.put(verify_loose(cid, data))
            loose.add(multihash)
        blocks.add(multihash)
        return [] if parts.codec == cids.RAW else links(cid, data)

    def _read(self, cid: bytes) -> bytes:
        data = self._all.read(cid)
        if data is None:
            raise NotFound(
                f"the block {cids.format_cid(cid)} is not here", hint="get all of it first"
            )
        return data


def _restricted(cid: bytes) -> Denied:
    return Denied(
        f"{cids.format_cid(cid)} is gated or private where it came from: it is not published",
        hint="publish what everybody may read",
    )
