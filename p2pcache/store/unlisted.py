"""Folders that are here by the roots of their files, before the files have a sha2-256: what is to
be listed in a manifest when they have.

    unlisted-v1/<sha2-256 of the ref>    the listing, as `transfer.resolve` packs it

Only a note: without it the same `get` asks the Kubo for the listing again.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

from p2pcache.store import durable

if TYPE_CHECKING:
    from p2pcache.store.layout import Layout


class Unlisted:
    """Those of one store. Any thread may call. Errors: DiskFull, LocalFault."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def put(self, canonical: str, packed: bytes) -> None:
        """Keep the listing of a ref, in place of an earlier one."""
        with durable.local_faults("keeping a listing"):
            durable.replace_file(self._layout.unlisted_ref(_name(canonical)), packed)

    def get(self, canonical: str) -> bytes | None:
        """The listing of a ref; None where there is none."""
        return self._read(_name(canonical))

    def every(self) -> list[bytes]:
        """All listings."""
        found = (self._read(name) for name in sorted(os.listdir(self._layout.unlisted)))
        return [packed for packed in found if packed is not None]

    def remove(self, canonical: str) -> None:
        """It is listed, or a file of it is gone."""
        with durable.local_faults("removing a listing"):
            self._layout.unlisted_ref(_name(canonical)).unlink(missing_ok=True)

    def _read(self, name: str) -> bytes | None:
        try:
            return self._layout.unlisted_ref(name).read_bytes()
        except OSError:
            return None


def _name(canonical: str) -> str:
    return hashlib.sha256(canonical.encode()).hexdigest()
