"""An object store in memory, with the faults that a real one has only now and then: for pushes in
virtual time. `tests/real` and `tests/faults` have the real ones.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from p2pcache.content import cid as cids
from p2pcache.content.digests import sha256_digest
from p2pcache.content.manifest import FileEntry, Manifest
from p2pcache.destinations.objects.port import Absent, Same, Stored
from p2pcache.destinations.port import Content, ContentFile
from p2pcache.errors import Conflict, Unavailable, Untrusted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from p2pcache.destinations.objects.port import Condition, Upload
    from p2pcache.destinations.uploads import Count

ROUND_S = 0.02  # of each request


def content(files: Mapping[str, bytes]) -> Content:
    """As `push` gives it to a destination; its bytes are on no disk."""
    places = {}
    for path, body in files.items():
        sha256 = hashlib.sha256(body).digest()
        places[path] = ContentFile(path, len(body), sha256, cids.raw_cid(sha256), sha256)
    entries = [FileEntry(path, one.size, sha256_digest(one.sha256)) for path, one in places.items()]
    manifest = Manifest.from_entries(entries)
    return Content(
        "hf://org/model", manifest, False, manifest.cid(), tuple(places.values()), places, ()
    )


@dataclass
class Bucket:
    """What all stores of it see. `fault`: called with the name of each request, and its key, before
    (False) and after (True) it was done; may raise.
    """

    objects: dict[str, Stored] = field(default_factory=dict)
    bodies: dict[str, bytes] = field(default_factory=dict)
    sent: Counter[str] = field(default_factory=Counter)
    fault: Callable[[str, str, bool], None] = lambda name, key, done: None
    bytes_per_s: float = 100.0
    conditional: bool = True
    writes: int = 0

    def write(self, key: str, size: int, sha256: bytes, condition: Condition) -> str:
        there = self.objects.get(key)
        match condition:
            case Absent() if there is not None and self.conditional:
                raise Conflict(f"{key} is there")
            case Same(version) if self.conditional and (there is None or there.version != version):
                raise Conflict(f"{key} is another one")
        self.writes += 1
        self.objects[key] = Stored(key, size, f"v{self.writes}", sha256)
        return f"v{self.writes}"


class MemoryStore:
    """One pusher's view of a bucket."""

    name = "memory"
    where = "memory://bucket/"
    endpoint = "memory"

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self.conditional = True

    async def _asked(self, name: str, key: str = "") -> None:
        self._bucket.fault(name, key, False)
        await trio.sleep(ROUND_S)

    async def list(self) -> list[Stored]:
        await self._asked("list")
        return [Stored(one.key, one.size, one.version) for one in self._bucket.objects.values()]

    async def look(self, keys: Sequence[str]) -> dict[str, Stored]:
        await self._asked("look")
        return {key: self._bucket.objects[key] for key in keys if key in self._bucket.objects}

    async def get_small(self, key: str, most_bytes: int) -> tuple[bytes, str] | None:
        await self._asked("get", key)
        one = self._bucket.objects.get(key)
        return None if one is None else (self._bucket.bodies[key], one.version)

    async def get_many(self, keys: Sequence[str], most_bytes: int) -> dict[str, tuple[bytes, str]]:
        await self._asked("get many")
        found = {key: self._bucket.bodies[key] for key in keys if key in self._bucket.bodies}
        if any(len(body) > most_bytes for body in found.values()):
            raise Untrusted("an object is longer than it may be")
        return {key: (body, self._bucket.objects[key].version) for key, body in found.items()}

    async def put_small(self, key: str, data: bytes, condition: Condition) -> str:
        await self._asked("put", key)
        version = self._bucket.write(key, len(data), hashlib.sha256(data).digest(), condition)
        self._bucket.bodies[key] = data
        self.conditional = self._bucket.conditional or condition is None
        self._bucket.fault("put", key, True)
        return version

    async def put(self, upload: Upload, count: Count) -> str:
        await self._asked("upload", upload.key)
        await trio.sleep(upload.size / self._bucket.bytes_per_s)
        self._bucket.sent[upload.key] += 1
        count(upload.size)
        version = self._bucket.write(upload.key, upload.size, upload.sha256, upload.condition)
        self._bucket.fault("upload", upload.key, True)
        return version

    async def delete(self, key: str) -> None:
        await self._asked("delete", key)
        self._bucket.objects.pop(key, None)

    async def aclose(self) -> None:
        return


def failing(name: str, *, times: int, done: bool = False, key: str = "") -> Callable[..., None]:
    """A fault: so many requests of this name (and key) fail, `done`: after they took effect."""
    left = [times]

    def fault(asked: str, of: str, is_done: bool) -> None:
        if asked == name and of.endswith(key) and is_done == done and left[0]:
            left[0] -= 1
            raise Unavailable("not now")

    return fault
