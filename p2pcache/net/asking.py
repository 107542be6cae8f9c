"""Questions to all members: the first good answer, or everything that came in time."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import trio

from p2pcache.content.cid import multihash
from p2pcache.content.digests import is_sha256, raw
from p2pcache.content.signed import parse_resolution
from p2pcache.errors import Denied, NotFound, P2PCacheError, Unavailable, Untrusted
from p2pcache.net.sync.machine import Cause
from p2pcache.net.sync.wire import MAX_PART_BYTES, ManifestAsk, ManifestPart, NameAsk, Names

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from p2pcache.content.peerid import PeerId
    from p2pcache.content.signed import SignedResolution
    from p2pcache.net.latest import Latest
    from p2pcache.net.member import MemberDown, MemberUp
    from p2pcache.net.sync.driver import Link

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AskOptions:
    """Of questions for manifests. Times in seconds."""

    askers: int = 8  # members asked at once for one manifest; beyond, the slowest gives way
    stagger_s: float = 0.5  # the next when those before did not bring it so soon
    part_s: float = 10.0  # for one part (256 KiB) of a manifest
    again_s: float = 3.0  # for a link that ended meanwhile: the next comes after 0.5 and 1 s


async def ask_names(
    links_of: Callable[[], Sequence[Link]], canonical: str, *, timeout_s: float
) -> list[SignedResolution]:
    """What the members know a ref to mean: all that came in time, each signed by somebody.

    Who becomes a member meanwhile, or whose link is replaced by another one, is asked too.
    """
    found: dict[tuple[PeerId, bytes, float], SignedResolution] = {}
    asked: set[Link] = set()
    give_up_at = trio.current_time() + timeout_s

    async def ask(link: Link, timeout_s: float) -> None:
        try:
            said = await link.ask(
                lambda number: NameAsk(number, canonical), Names, timeout_s=timeout_s
            )
            for wire in said.resolutions:
                one = parse_resolution(list(wire))
                if one.canonical != canonical:
                    raise Untrusted("a resolution of another ref than was asked for")
                found[one.signer, one.manifest, one.resolved_at] = one
        except Untrusted as exc:
            link.distrust(exc.message)
        except P2PCacheError as exc:
            _log.debug("no names: %s", exc.message)

    while (wait_s := give_up_at - trio.current_time()) > 0:
        links = [link for link in links_of() if link not in asked]
        if not links:
            break
        asked.update(links)
        async with trio.open_nursery() as nursery:
            for link in links:
                nursery.start_soon(ask, link, wait_s)
    return list(found.values())


async def ask_manifest(
    links_of: Callable[[], Sequence[Link]],
    changes: Latest[MemberUp | MemberDown],
    cid: bytes,
    options: AskOptions,
    *,
    timeout_s: float,
    newcomers_s: float,
    max_bytes: int,
) -> bytes:
    """The bytes of a manifest from whoever has it; they hash to the CID.

    `links_of`: whom to ask now, in order; `changes` wakes us when there may be others. Who becomes
    a member within `newcomers_s` is asked too, and for `again_s` who lost its link while it was
    asked: by its next one. Raises NotFound, Denied, Unavailable.
    """
    began = trio.current_time()
    asked: set[Link] = set()
    errors: list[P2PCacheError] = []
    with trio.move_on_after(timeout_s):
        while True:
            links = [link for link in links_of() if link not in asked]
            if links:
                asked.update(links)
                wait_s = began + timeout_s - trio.current_time()
                try:
                    return await _ask_some(
                        links, cid, options, timeout_s=wait_s, max_bytes=max_bytes
                    )
                except (NotFound, Denied, Unavailable) as exc:
                    errors.append(exc)
                continue
            lost = any(link.ended and link.ended.cause is not Cause.UNTRUSTED for link in asked)
            wait_s = max(newcomers_s, options.again_s) if lost else newcomers_s
            with trio.move_on_at(began + wait_s) as nobody_else:
                await changes.receive()
            if nobody_else.cancelled_caught:
                break
    for kind in (Denied, Unavailable):
        for error in errors:
            if isinstance(error, kind):
                raise error
    raise NotFound(f"none of {len({link.peer for link in asked})} members has the manifest")


async def _ask_some(
    links: Sequence[Link], cid: bytes, options: AskOptions, *, timeout_s: float, max_bytes: int
) -> bytes:
    """The bytes of a manifest from one of these.

    They are asked in this order, the next when one failed or some time passed, whatever
    those before do; one whose bytes do not hash is cut. Raises NotFound, Denied, Unavailable.
    """
    errors: list[P2PCacheError] = []
    found: list[bytes] = []
    asked: list[_Asked] = []
    failed = trio.Event()

    async def bring(one: _Asked, nursery: trio.Nursery) -> None:
        try:
            with one.scope:
                found.append(await one.bring(cid, options, max_bytes))
                nursery.cancel_scope.cancel()
            if one.scope.cancelled_caught:
                errors.append(Unavailable("a member was slower than others"))
            return
        except Untrusted as exc:
            one.link.distrust(exc.message)
            errors.append(exc)
        except P2PCacheError as exc:
            errors.append(exc)
        finally:
            asked.remove(one)
        failed.set()

    with trio.move_on_after(timeout_s) as deadline:
        async with trio.open_nursery() as nursery:
            for link in links:
                if len(asked) >= options.askers:
                    min(asked, key=_Asked.bytes_per_s).scope.cancel()
                one = _Asked(link)
                asked.append(one)
                nursery.start_soon(bring, one, nursery)
                failed = trio.Event()
                with trio.move_on_after(options.stagger_s):
                    await failed.wait()
    if found:
        return found[0]
    if deadline.cancelled_caught:
        raise Unavailable(f"no member brought the manifest in {timeout_s:.1f} s")
    for kind in (Denied, Unavailable):
        for error in errors:
            if isinstance(error, kind):
                raise error
    raise NotFound(f"none of {len(links)} members has the manifest")


class _Asked:
    """A member that is asked for a manifest."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.scope = trio.CancelScope()
        self._data = bytearray()
        self._began_at = trio.current_time()

    def bytes_per_s(self) -> float:
        """How fast it is."""
        return len(self._data) / max(1e-3, trio.current_time() - self._began_at)

    async def bring(self, cid: bytes, options: AskOptions, max_bytes: int) -> bytes:
        """All of it. Raises Untrusted for what is not its bytes, and what a link raises."""
        data = self._data
        while True:
            make = partial(_manifest_ask, cid, len(data))
            part = await self.link.ask(make, ManifestPart, timeout_s=options.part_s)
            if part.total > max_bytes:
                raise NotFound(f"a manifest of {part.total} bytes (allowed: {max_bytes})")
            data += part.data
            if len(data) >= part.total:
                break
            if len(part.data) < MAX_PART_BYTES:
                raise Untrusted("a part of a manifest that is shorter than asked for")
        digest = multihash(cid)
        if is_sha256(digest) and hashlib.sha256(data).digest() != raw(digest):
            raise Untrusted("the bytes of a manifest do not hash to its CID")
        return bytes(data)


def _manifest_ask(cid: bytes, offset: int, number: int) -> ManifestAsk:
    return ManifestAsk(number, cid, offset)
