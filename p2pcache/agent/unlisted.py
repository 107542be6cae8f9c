"""Folders out of a Kubo get their manifest once all their files have a sha2-256.

Their blocks are proven by the roots, so nobody waits for whole digests: `agent.naming` takes them
when there is time. Who names such a folder before (to pin it, to get it again without its Kubo)
waits until it is listed. The same for the root of a large file that was hashed as a whole alone.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from p2pcache.agent.dags import keep_nodes
from p2pcache.agent.meant import manifest_named
from p2pcache.agent.peering import tell_complete
from p2pcache.content import refs
from p2pcache.errors import LocalFault, NotFound, UsageError
from p2pcache.store.blobs import BlobInfo

if TYPE_CHECKING:
    from p2pcache.agent.parts import Parts
    from p2pcache.transfer.resolve import Resolution

_log = logging.getLogger(__name__)


async def list_named(parts: Parts) -> None:
    """List every folder of which all files were named just now; also what an earlier agent left."""
    for resolution in await trio.to_thread.run_sync(parts.resolver.every_unlisted):
        try:
            await _list(parts, resolution)
        except LocalFault as exc:  # said again when somebody names it, or by the next round
            _log.warning("%s is not listed yet: %s", resolution.canonical, exc.message)


async def list_first(parts: Parts, text: str) -> None:
    """If this ref is such a folder, name its files now. Raises LocalFault."""
    try:
        ref = refs.parse_ref(text)
    except UsageError:
        return  # whoever asked says what is wrong with it
    if isinstance(ref, refs.CidRef):
        resolution = await trio.to_thread.run_sync(parts.resolver.unlisted, refs.canonical(ref))
        if resolution is not None:
            await _list(parts, resolution)


async def root_first(parts: Parts, text: str) -> None:
    """Make the roots that files of this ref lack, now. Raises LocalFault."""
    for digest in await trio.to_thread.run_sync(_rootless, parts, text):
        await parts.naming.give_root(digest)


def _rootless(parts: Parts, text: str) -> list[bytes]:
    store = parts.store
    try:
        ref = refs.parse_ref(text)
        names: list[bytes] = []
        if isinstance(ref, refs.DigestRef):
            names = [ref.digest]
        elif isinstance(ref, refs.CidRef) and store.get_manifest(ref.cid) is None:
            names = [ref.cid]
        elif (manifest := store.get_manifest(manifest_named(parts, text))) is not None:
            names = [file.digest for file in manifest.files]
        return [blob.digest for blob in store.find_many(names).values() if blob.root_cid is None]
    except (UsageError, NotFound):
        return []  # whoever asked says what is wrong with it


async def _list(parts: Parts, resolution: Resolution) -> None:
    files = []
    for file in resolution.listing.files:
        if file.digest is None and file.root is not None:
            blob = await parts.naming.name(file.root)
            if not isinstance(blob, BlobInfo):  # evicted, or damaged: it has to be brought again
                return await trio.to_thread.run_sync(
                    parts.store.unlisted.remove, resolution.canonical
                )
            file = replace(file, digest=blob.digest)
        files.append(file)
    listing = replace(resolution.listing, files=tuple(files))
    listed = await trio.to_thread.run_sync(
        parts.resolver.record, resolution.ref, listing, resolution.resolved_at
    )
    await keep_nodes(parts, listed)
    await trio.to_thread.run_sync(parts.store.unlisted.remove, resolution.canonical)
    await tell_complete(parts, listed)
