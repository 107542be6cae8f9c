"""The tree of the files API (MFS): a folder of which only the root's CID changes.

Every change writes the folders above it anew, pins the new root, saves it, and unpins the old one:
whatever a kill leaves is the tree before or after. What is in the tree stays in the store.
"""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from p2pcache.content import cid as cids
from p2pcache.content.dag import build, files, folders
from p2pcache.content.unixfs import Root
from p2pcache.errors import UsageError
from p2pcache.gateway.kubo_rpc.add import Written

if TYPE_CHECKING:
    from p2pcache.content.dag.build import Profile
    from p2pcache.content.dag.files import Stat
    from p2pcache.gateway.kubo_rpc.call import Call

NOT_THERE = "file does not exist"
MAX_DEPTH = 256


@dataclass(frozen=True, slots=True)
class At:
    """Something in the tree, or anywhere else."""

    cid: bytes
    stat: Stat

    @property
    def root(self) -> Root:
        """As an entry of a folder."""
        return Root(self.cid, self.stat.size, self.stat.dag_bytes)


def names_of(path: str) -> list[str]:
    """Components of an absolute path; none for the root. Raises UsageError."""
    if not path.startswith("/"):
        raise UsageError("paths must start with a leading slash")
    names: list[str] = []
    for name in path.split("/"):
        if name == "..":
            names[-1:] = []
        elif name not in ("", "."):
            names.append(name)
    if len(names) > MAX_DEPTH:
        raise UsageError(f"a path of more than {MAX_DEPTH} folders")
    return names


class Tree:
    """One call's view of it. Hold `files_lock` from making it to its last use."""

    def __init__(self, call: Call, profile: Profile) -> None:
        self._call = call
        self._profile = profile

    async def top(self) -> bytes:
        """The root as it is now."""
        found = self._call.context.root.load()
        if found is not None:
            return found
        return (await self._write({})).cid

    async def at(self, cid: bytes) -> At:
        """What a block is."""
        return At(cid, await self._call.run(files.stat(cid)))

    async def find(self, names: list[str]) -> At | None:
        """None when it is not there. Raises UsageError below a file."""
        here = await self.at(await self.top())
        for name in names:
            if here.stat.kind != "directory":
                return None
            entry = await self._call.run(folders.find(here.cid, name))
            if entry is None:
                return None
            here = await self.at(entry.cid)
        return here

    async def entries(self, cid: bytes) -> dict[str, Root]:
        """A folder's, by name. Raises UsageError when it is none."""
        found = {}
        async with aclosing(self._call.flow(folders.entries(cid))) as entries:
            async for entry in entries:
                size = entry.size
                if size is None:
                    size = (await self.at(entry.cid)).stat.dag_bytes
                found[entry.name] = Root(entry.cid, 0, size)
        return found

    async def put(self, names: list[str], root: Root | None, *, parents: bool = False) -> None:
        """Have `root` there, or nothing. `parents`: make the folders above. Raises UsageError."""
        above = await self._above(names[:-1], parents=parents)
        for name, entries in zip(reversed(names), reversed(above), strict=True):
            if root is None:
                entries.pop(name, None)
            else:
                entries[name] = root
            root = await self._write(entries)
        assert root is not None
        await self.replace(root.cid)

    async def _above(self, names: list[str], *, parents: bool) -> list[dict[str, Root]]:
        """The entries of the root, and of each folder down these names."""
        here = await self.entries(await self.top())
        found = [here]
        for name in names:
            below = here.get(name)
            if below is None:
                if not parents:
                    raise UsageError(NOT_THERE)
                here = {}
            elif (await self.at(below.cid)).stat.kind != "directory":
                raise UsageError(f"{name} is not a directory")
            else:
                here = await self.entries(below.cid)
            found.append(here)
        return found

    async def _write(self, entries: dict[str, Root]) -> Root:
        written = Written(self._call)
        return await written.made_by(build.directory, self._profile, entries, written.keep)

    async def folder(self) -> Root:
        """An empty one."""
        return await self._write({})

    async def replace(self, new: bytes) -> None:
        """Make this the root."""
        context = self._call.context
        old = context.root.load()
        if old == new:
            return
        await context.tree_pins.pin(new)
        context.root.save(new)
        for other in await context.tree_pins.pins():  # a kill may have left more than one
            if other != cids.as_v1(new):
                await context.tree_pins.unpin(other)
