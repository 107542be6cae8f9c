"""`/ipfs/<cid>/a/b`, `<cid>/a` and bare CIDs to the block that they mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from p2pcache.content import cid as cids
from p2pcache.content.dag import path as dagpath
from p2pcache.errors import NotFound, UsageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from p2pcache.content.dag.path import Resolved
    from p2pcache.content.dag.walk import Walk

    Run = Callable[[Walk[Resolved]], Awaitable[Resolved]]
    """Whoever brings the blocks of a walk."""


@dataclass(frozen=True, slots=True)
class Path:
    """A root and the names below it. `cid` as it is written."""

    cid: bytes
    below: tuple[str, ...]

    @property
    def text(self) -> str:
        """Without `/ipfs/`."""
        return "/".join((cids.format_cid(self.cid), *self.below))

    @property
    def name(self) -> str:
        """What a file of it is called: the last component."""
        return self.below[-1] if self.below else cids.format_cid(self.cid)


def parse(text: str) -> Path:
    """Raises UsageError, in Kubo's words where a client may look at them."""
    plain = text.removeprefix("ipfs://") if text.startswith("ipfs://") else text
    if plain.startswith(("/ipns/", "ipns://")):
        raise UsageError("p2pcache resolves no IPNS names", hint="give it the CID")
    if plain.startswith("/") and not plain.startswith(("/ipfs/", "/ipld/")):
        raise UsageError(f'invalid path "{text[:200]}": unknown namespace')
    inner = plain[6:] if plain.startswith("/") else plain
    root, *below = [component for component in inner.split("/") if component] or [""]
    try:
        cid = cids.parse_cid_as_written(root)
    except UsageError as exc:
        why = "path does not have enough components" if inner == plain else f"invalid cid: {root}"
        raise UsageError(f'invalid path "{text[:200]}": {why[:200]}') from exc
    if any(component in (".", "..") for component in below):
        raise UsageError(f'invalid path "{text[:200]}": `.` and `..` are no names')
    return Path(cid, tuple(below))


async def resolve(path: Path, run: Run) -> Resolved:
    """Raises NotFound in Kubo's words for a name that is not there; and as `run`."""
    try:
        return await run(dagpath.resolve(path.cid, path.below))
    except dagpath.NameMissing as exc:
        shown = cids.format_cid(exc.under)
        raise NotFound(f'no link named "{exc.name}" under {shown}') from exc


async def cid_of(text: str, run: Run) -> bytes:
    """The block at the end of a path. Raises UsageError when the path goes on within it."""
    found = await resolve(parse(text), run)
    if found.remainder:
        raise UsageError(f"`{text[:200]}` is a value within a block, and no block")
    return found.cid
