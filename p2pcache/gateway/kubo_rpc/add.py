"""`add`: files, folders and symlinks of a multipart body, as they arrive; nothing whole in memory.

What stands in a body one after the other below one first component is one tree, as Kubo takes it:
`a/x`, `a/y`, `b`, `a/z` are three things. A row a file when it is whole, the folders of a tree
after their files. A folder's names are held until it is written.
"""

from __future__ import annotations

import re
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import trio

from p2pcache.content import cid as cids
from p2pcache.content.dag import build
from p2pcache.errors import UsageError
from p2pcache.gateway.kubo_rpc import answers, multipart, steps
from p2pcache.gateway.kubo_rpc.multipart import Data, File, FileEnd, Folder, Symlink

if TYPE_CHECKING:
    from collections.abc import Callable

    from p2pcache.content.dag.build import FileBuilder, Profile
    from p2pcache.content.unixfs import Root
    from p2pcache.gateway.kubo_rpc.answers import Rows
    from p2pcache.gateway.kubo_rpc.call import Call
    from p2pcache.gateway.kubo_rpc.query import Query
    from p2pcache.gateway.messages import Response

MAX_CHUNK_BYTES = 2 * 1024 * 1024 - 256  # as Kubo has it: a block has its framing too
MAX_ENTRIES = 1_000_000  # of one tree; each costs some 300 bytes until it is written
PROGRESS_BYTES = 1 << 18  # a row of progress, as Kubo sends them
HELD_BYTES = 8 << 20  # of rows while the body still comes: a client that sends may not read yet
LEAVES_AT_ONCE = 64  # of a byte each at least; then others have the loop, and they are kept
_SIZE = re.compile(r"size-(\d{1,15})")


def profile_of(query: Query, profile: Profile) -> Profile:
    """How content is to be cut. Raises UsageError for what we cannot write."""
    query.unsupported("nocopy", "inline", "preserve-mode", "preserve-mtime", "mode", "mtime")
    query.unsupported("pin-name", "max-directory-links", "max-hamt-fanout", "to-files")
    if (name := query.text("hash")) not in (None, "", "sha2-256"):
        raise UsageError(f"p2pcache writes sha2-256 alone, not `{name}`")
    links = query.integer("max-file-links", kind="int")
    return replace(
        profile,
        cid_version=cid_version(query.integer("cid-version", kind="int"), profile),
        raw_leaves=query.flag("raw-leaves", default=profile.raw_leaves),
        trickle=query.flag("trickle", "t", default=profile.trickle),
        chunk_bytes=chunk_bytes(query.text("chunker", "s"), profile.chunk_bytes),
        max_links=profile.max_links if links is None else _links(links),
    )


def cid_version(version: int | None, profile: Profile) -> Literal[0, 1]:
    """The version asked for, None: the profile's. Raises UsageError."""
    match version:
        case None:
            return profile.cid_version
        case 0 | 1:
            return version
    raise UsageError(f"unknown CID version: {version}")


def _links(count: int) -> int:
    if not 2 <= count <= 8192:
        raise UsageError(f"a node of {count} links: 2 to 8192 are possible")
    return count


def chunk_bytes(chunker: str | None, default: int) -> int:
    """`size-262144`, `default`. Raises UsageError."""
    if not chunker:
        return default
    if chunker == "default":
        return 262144  # Kubo's word for this, whatever its profile says
    found = _SIZE.fullmatch(chunker)
    if found is None:
        if chunker.startswith(("rabin", "buzhash")):
            raise UsageError(f"p2pcache cuts files by size alone, not by `{chunker[:40]}`")
        raise UsageError(f"unrecognized chunker option: {chunker[:80]}")
    count = int(found.group(1))
    if count == 0:
        raise UsageError("chunker size must be greater than 0")
    if count > MAX_CHUNK_BYTES:
        raise UsageError(
            f"chunker parameters may not exceed the maximum chunk size of {MAX_CHUNK_BYTES}"
        )
    return count


@dataclass(slots=True)
class Written:
    """Blocks that were made and are not kept yet. `store` None: they are only hashed."""

    call: Call | None
    made: list[tuple[bytes, bytes]] = field(default_factory=list)

    def keep(self, cid: bytes, block: bytes) -> None:
        """The `Keep` of a builder."""
        if self.call is not None:
            self.made.append((cid, block))

    async def add(self, builder: FileBuilder, data: bytes) -> None:
        """The next bytes of a file; the blocks that became whole are kept."""
        step = LEAVES_AT_ONCE * builder.chunk_bytes
        for start in range(0, len(data), step):
            builder.write(data[start : start + step])
            await self.flush()
            await trio.lowlevel.checkpoint()

    async def made_by(self, build: Callable[..., Root], *args: object) -> Root:
        """What a builder makes in a thread, kept."""
        root = await steps.in_thread(build, *args)
        await self.flush()
        return root

    async def flush(self) -> None:
        """Keep them."""
        made, self.made = self.made, []
        for cid, block in made:
            assert self.call is not None
            await self.call.put(cid, block)


Tree = dict[str, Any]
"""A folder that is being gathered: a Root, or another Tree, by name."""


class Adder:
    """One `add`. Feed it events; it gives rows."""

    def __init__(
        self, profile: Profile, written: Written, pin: Call | None, *, wrap: bool, silent: bool
    ) -> None:
        self._profile = profile
        self._silent = silent
        self._written = written
        self._pin = pin
        self._wrap = wrap
        self._top: Tree = {}
        self._name: str | None = None  # of the first component that is being gathered
        self._count = 0

    async def take(self, path: str, root: Root | None) -> Rows:
        """A file or symlink that is whole, or None: an empty folder."""
        first, _, below = path.partition("/")
        if self._name is not None and not self._wrap and (first != self._name or not below):
            async for row in self.finish():
                yield row
        if root is not None:
            name = path or cids.format_cid(root.cid)
            if not self._silent:
                yield row_of(name, root)
            if not path and not self._wrap:
                await self._keep(root)
                return
            path = path or name
        self._name = first
        self._place(path, root)

    def _place(self, path: str, root: Root | None) -> None:
        *above, name = path.split("/")
        here = self._top
        for component in above if root is not None else [*above, name]:
            below = here.setdefault(component, {})
            if not isinstance(below, dict):
                raise UsageError(f"`{component}` is a file and a folder")
            if below is not here:
                here = below
        self._count += 1
        if self._count > MAX_ENTRIES:
            raise UsageError(f"a folder of more than {MAX_ENTRIES} entries")
        if root is not None:
            if name in here:
                raise UsageError("directory already has entry by that name")
            here[name] = root

    async def finish(self) -> Rows:
        """What was gathered, written: its folders, and it is pinned."""
        top, self._top, self._name, self._count = self._top, {}, None, 0
        if not top and not self._wrap:
            return
        if self._wrap:
            rows: list[dict[str, Any]] = []
            root = await self._folder(top, "", rows)
        else:
            ((name, node),) = top.items()
            rows = []
            root = await self._folder(node, name, rows) if isinstance(node, dict) else node
        for row in rows:
            yield row
        await self._keep(root)

    async def _folder(self, tree: Tree, path: str, rows: list[dict[str, Any]]) -> Root:
        """Written, children first; a row for each below, and its own last."""
        entries, folders = await steps.in_thread(_parted, tree)
        for name in folders:
            below = f"{path}/{name}" if path else name
            entries[name] = await self._folder(tree[name], below, rows)
        root = await self._written.made_by(
            build.directory, self._profile, entries, self._written.keep
        )
        rows.append(row_of(path, root))
        return root

    async def _keep(self, root: Root) -> None:
        if self._pin is not None:
            await self._pin.context.pins.pin(root.cid)


def _parted(tree: Tree) -> tuple[dict[str, Root], list[str]]:
    """The files of a folder, and the sorted names of its folders."""
    files = {name: node for name, node in tree.items() if not isinstance(node, dict)}
    return files, build.by_bytes(name for name in tree if name not in files)


def row_of(name: str, root: Root) -> dict[str, Any]:
    """What `add` says of one thing."""
    return {"Name": name, "Hash": cids.format_cid(root.cid), "Size": str(root.dag_size)}


async def add(call: Call) -> Response:
    """`add`."""
    query = call.query
    profile = profile_of(query, call.context.profile)
    only_hash = query.flag("only-hash", "n")
    pin = query.flag("pin", default=True) and not only_hash
    multipart.boundary_of(call.request, "path")
    written = Written(None if only_hash else call)
    adder = Adder(
        profile,
        written,
        call if pin else None,
        wrap=query.flag("wrap-with-directory", "w"),
        silent=query.flag("silent"),  # of files; folders are told, as Kubo does
    )
    progress = query.flag("progress", "p")
    rows = call.held(_rows(call, adder, profile, written, progress))
    return await answers.lines(rows if progress else _held(rows))


async def _rows(
    call: Call, adder: Adder, profile: Profile, written: Written, progress: bool
) -> Rows:
    builder = build.FileBuilder(profile, written.keep)
    path, done, told = "", 0, 0
    async with aclosing(multipart.events(call.request, "path")) as events:
        async for event in events:
            match event:
                case File():
                    builder = build.FileBuilder(profile, written.keep)
                    path, done, told = event.path, 0, 0
                    continue
                case Data():
                    await written.add(builder, event.data)
                    done += len(event.data)
                    if progress and done - told >= PROGRESS_BYTES:
                        told = done
                        yield {"Name": path, "Bytes": done}
                    continue
                case FileEnd():
                    root: Root | None = await written.made_by(builder.finish)
                    if progress:
                        yield {"Name": path, "Bytes": done}
                case Symlink():
                    path, root = event.path, build.symlink(profile, event.target, written.keep)
                case Folder():
                    path, root = event.path, None
                    if not path:
                        continue
            await written.flush()
            async with aclosing(adder.take(path, root)) as rows:
                async for row in rows:
                    yield row
    async with aclosing(adder.finish()) as rows:
        async for row in rows:
            yield row


async def _held(rows: Rows) -> Rows:
    """The same rows once all are there, unless they are very many: a client that still sends its
    body may not read, and would wait for us as we for it.
    """
    held: list[Any] = []
    weight = 0
    try:
        async for row in rows:
            held.append(row)
            weight += 128 + len(row["Name"])
            if weight > HELD_BYTES:
                for one in held:
                    yield one
                held, weight = [], HELD_BYTES
        for one in held:
            yield one
    finally:
        await rows.aclose()
