"""Stores with content, and bundles of it, good and bad, without an agent."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from p2pcache.agent.airgap.plan import Planned
from p2pcache.agent.airgap.read import New, read_bundle
from p2pcache.agent.airgap.write import write_bundle
from p2pcache.content import bundle, car
from p2pcache.content import cid as cids
from p2pcache.content.digests import sha256_digest, whole_digests
from p2pcache.content.manifest import FileEntry, Manifest
from p2pcache.content.verify import verify
from p2pcache.errors import P2PCacheError, Untrusted
from p2pcache.store.layout import StoreOptions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from p2pcache.agent.airgap.read import Brought
    from p2pcache.agent.airgap.write import Written
    from p2pcache.content.signed import SignedResolution
    from p2pcache.store.store import Store
    from p2pcache.transfer.progress import Progress

MIB = 1 << 20
OPTIONS = StoreOptions(reserve_bytes=0)
FILES = {
    "config.json": b"{}",
    "sub/empty": b"",
    "model.safetensors": hashlib.shake_256(b"m").digest(3 * MIB + 5),
    "sub/zeros": bytes(2 * MIB),  # both blocks are one
    "same": b"{}",
}


def nothing(_: object) -> None:
    """Hears of progress, or of blobs, and does nothing."""


def put(
    store: Store,
    files: Mapping[str, bytes],
    *,
    restricted: bool = False,
    names: Sequence[SignedResolution] = (),
    git: bool = False,
) -> Planned:
    """Files in a store, as a plan. `git`: the manifest names them by their git blob ids."""
    blobs, entries = {}, []
    for path, data in files.items():
        blobs[path] = store.put_bytes(verify(sha256_digest(hashlib.sha256(data).digest()), data))
        sha1 = whole_digests(data).git_sha1
        digest = b"\x11\x14" + (sha1 or b"") if git else blobs[path].digest
        entries.append(FileEntry(path, len(data), digest))
    manifest = Manifest.from_entries(entries)
    return Planned("ref", manifest, blobs, restricted, tuple(names))


def write(store: Store, path: Path, *planned: Planned) -> Written:
    return write_bundle(store, planned, path, nothing)


def read(store: Store, path: Path) -> tuple[list[Brought], int]:
    return read_bundle(store, path, nothing, nothing)


@dataclass
class Frames:
    """A bundle taken apart, to be put together again in another way."""

    roots: list[bytes]
    blocks: dict[bytes, bytes]

    @classmethod
    def of(cls, path: Path) -> Frames:
        data = path.read_bytes()
        start, end = car.header_extent(data[: car.HEAD_BYTES])
        made = cls(list(car.parse_header(data[start:end])), {})
        while end < len(data):
            section = car.parse_section(data[end : end + car.HEAD_BYTES])
            made.blocks[section.cid] = data[end + section.start : end + section.end]
            end += section.end
        return made

    @property
    def record(self) -> bytes:
        """The CID of the list."""
        return self.roots[-1]

    def refs(self) -> list[bundle.BundledRef]:
        return list(bundle.parse(self.blocks[self.record]))

    def with_refs(self, refs: Sequence[bundle.BundledRef]) -> Frames:
        """Another list, with its right CID."""
        blocks = {cid: data for cid, data in self.blocks.items() if cid != self.record}
        cid, data = bundle.encode(refs)
        return Frames([*self.roots[:-1], cid], {cid: data, **blocks})

    def with_manifest(self, manifest: Manifest) -> Frames:
        """Another manifest for the first ref, with its right CID."""
        first, *rest = self.refs()
        ref = bundle.BundledRef(manifest.cid(), first.folder, (), first.restricted)
        made = self.with_refs([ref, *rest])
        made.blocks[manifest.cid()] = manifest.encode()
        return made

    def save(self, path: Path) -> Path:
        parts = [car.encode_header(self.roots)]
        for cid, data in self.blocks.items():
            parts += car.encode_section(cid, data)
        path.write_bytes(b"".join(parts))
        return path


def raw(data: bytes) -> bytes:
    """The CID of a leaf."""
    return cids.raw_cid(hashlib.sha256(data).digest())


class Stop(Exception):
    """Somebody ended the work."""


class StopAfter:
    """Progress that ends the work at its n-th word, the `last` one."""

    def __init__(self, count: int) -> None:
        self.left = count
        self.last: Progress | None = None

    def __call__(self, progress: Progress) -> None:
        self.left -= 1
        self.last = progress
        if self.left < 0:
            raise Stop


def drafts(store: Store) -> list[Path]:
    """What was begun and neither published nor removed."""
    return [
        one for one in store.layout.temporary.rglob("*") if len(one.name) == 16 and one.is_file()
    ]


def content(store: Store, manifest: Manifest) -> dict[str, bytes]:
    found = store.find_many([file.digest for file in manifest.files])
    return {file.path: found[file.digest].path.read_bytes() for file in manifest.files}


def refused(other: Store, path: Path, kind: type[P2PCacheError] = Untrusted) -> P2PCacheError:
    """Import it: the error. Nothing of it has a name then, but files that were right."""
    with pytest.raises(kind) as caught:
        read(other, path)
    assert other.ls() == []
    assert drafts(other) == []
    for blob in other.every_blob():
        assert hashlib.sha256(blob.path.read_bytes()).digest() == blob.sha256
    return caught.value


def as_blocks_alone(store: Store, path: Path) -> None:
    """Import it: no file is known of it, and every block of it is here, and no more."""
    (brought,), new = read(store, path)
    assert (brought.manifest, brought.blob, store.ls(), store.every_blob()) == (None, None, [], [])
    blocks = Frames.of(path).blocks
    assert {cid: store.loose.read(cid) for cid in blocks} == blocks
    assert new == New(0, sum(map(len, blocks.values())))
    assert read(store, path)[1] == New(0, 0)
