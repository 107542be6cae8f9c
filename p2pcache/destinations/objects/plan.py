"""What a folder of a bucket lacks of some content: pure.

What is there is known by a sha256, from the record of an earlier push or from the object itself:
size and version (an ETag) alone say nothing about bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from p2pcache.content import push_record
from p2pcache.content.push_record import PushRecord, Put
from p2pcache.destinations.objects.port import Absent, Condition, Same, Stored, Upload
from p2pcache.destinations.port import Amount

if TYPE_CHECKING:
    from collections.abc import Mapping

    from p2pcache.destinations.port import ContentFile


@dataclass(frozen=True, slots=True)
class Found:
    """What is there. `record`: of an earlier push, with its version where there is any (also one
    that does not read as a record, which is then replaced).
    """

    objects: Mapping[str, Stored] = field(repr=False)
    record: PushRecord | None = None
    record_version: str | None = None

    @property
    def record_condition(self) -> Condition:
        """What must hold for the record to be written."""
        return same(self.record_version) if self.record_version is not None else Absent()


@dataclass(frozen=True, slots=True)
class ObjectsPlan:
    """`uploads`: what is to be sent; `there`: the version of each file that is there already;
    `others`: objects of the folder that are no part of the content; `recorded`: the record says
    just this, so nothing is left to do.
    """

    found: Found
    uploads: tuple[Upload, ...]
    there: Mapping[str, str] = field(repr=False)
    others: int = 0
    recorded: bool = False

    @property
    def missing(self) -> Amount:
        """Of content; our own record is some hundred bytes more."""
        return Amount(bytes=sum(one.size for one in self.uploads), objects=len(self.uploads))


def unknown(places: Mapping[str, ContentFile], found: Found) -> list[str]:
    """Objects that may be the same as ours, and that only a look at each can tell."""
    return [
        path
        for path, file in places.items()
        if (one := found.objects.get(path)) is not None
        and one.size == file.size
        and _sha256(one, found.record) is None
    ]


def decide(
    places: Mapping[str, ContentFile],
    found: Found,
    looked: Mapping[str, Stored],
    manifest: str,
) -> ObjectsPlan:
    """`looked`: what the looks at `unknown` told. `manifest`: its CID. The largest file first, so
    that no long one is left when the others are over.
    """
    uploads: list[Upload] = []
    there: dict[str, str] = {}
    for path, file in places.items():
        one = looked.get(path) or found.objects.get(path)
        if one is not None and _sha256(one, found.record) == file.sha256:
            there[path] = one.version
            continue
        condition = Absent() if one is None else same(one.version)
        uploads.append(
            Upload(path, file.path, file.size, file.sha256, condition, hashes=_hashes(file))
        )
    uploads.sort(key=lambda upload: (-upload.size, upload.key))
    content = [key for key in found.objects if not push_record.is_ours(key)]
    return ObjectsPlan(
        found,
        tuple(uploads),
        there,
        others=sum(key not in places for key in content),
        recorded=not uploads
        and found.record is not None
        and found.record.manifest == manifest
        and found.record.files == record_files(places, there),
    )


def record_files(places: Mapping[str, ContentFile], versions: Mapping[str, str]) -> dict[str, Put]:
    """The rows of a record."""
    return {path: Put(file.size, file.sha256, versions[path]) for path, file in places.items()}


def same(version: str) -> Condition:
    """That it is this version; nothing where the store has none that is strong."""
    return Same(version) if version else None


def _sha256(one: Stored, record: PushRecord | None) -> bytes | None:
    """What is known of an object's bytes."""
    if one.sha256 is not None:
        return one.sha256
    row = None if record is None else record.files.get(one.key)
    if row is not None and one.version and (row.size, row.version) == (one.size, one.version):
        return row.sha256
    return None


def _hashes(file: ContentFile) -> bytes:
    return file.hashes if file.size else b""
