"""The builder that cuts the bytes of a file into leaves."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from p2pcache.content import cid as cids
from p2pcache.content.dag import fsdata
from p2pcache.content.dag.build.layout import Balanced
from p2pcache.content.dag.build.profile import Root, forget, make_node
from p2pcache.content.dag.build.trickle import Trickle
from p2pcache.content.dag.fsdata import FsData, Kind

if TYPE_CHECKING:
    from p2pcache.content.dag.build.layout import Layout
    from p2pcache.content.dag.build.profile import Keep, Profile


class FileBuilder:
    """A file from its bytes in order, of any length at a time; memory is a chunk, and `max_links`
    entries a level. `keep` gets every block, children before parents, leaves too.
    """

    def __init__(self, profile: Profile, keep: Keep = forget) -> None:
        self.chunk_bytes = profile.chunk_bytes
        self._profile = profile
        self._keep = keep
        self._chunk = bytearray()
        self._layout: Layout
        if profile.trickle:
            self._layout = Trickle(profile, keep)
        else:
            self._layout = Balanced(profile, keep)
        self._empty = True

    def write(self, data: bytes | memoryview) -> None:
        """The next bytes."""
        at, most = 0, self.chunk_bytes
        view = memoryview(data)
        while at < len(view):
            taken = min(most - len(self._chunk), len(view) - at)
            if taken == most:  # copied once, not twice
                self._leaf(bytes(view[at : at + most]))
            else:
                self._chunk += view[at : at + taken]
                if len(self._chunk) == most:
                    self._rest()
            at += taken

    def _rest(self) -> None:
        chunk = bytes(self._chunk)
        self._chunk.clear()
        self._leaf(chunk)

    def _leaf(self, chunk: bytes) -> None:
        self._empty = False
        if not self._profile.raw_leaves:
            kind = Kind.RAW if self._profile.trickle else Kind.FILE
            data = fsdata.encode(FsData(kind, chunk, len(chunk)))
            self._layout.add(make_node(self._profile, (), data, len(chunk), self._keep)[0])
            return
        cid = cids.raw_cid(hashlib.sha256(chunk).digest())
        self._keep(cid, chunk)
        self._layout.add(Root(cid, len(chunk), len(chunk)))

    def finish(self) -> Root:
        """The root, once all is written."""
        if self._chunk or (self._empty and not self._profile.trickle):
            self._rest()  # an empty file is a leaf without bytes
        root = self._layout.finish()
        assert root is not None
        return root
