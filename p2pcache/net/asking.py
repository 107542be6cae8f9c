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
from p2pcache.net.sync.wire import ManifestAsk, ManifestPart, NameAsk, Names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from p2pcache.content.peerid import PeerId
    from p2pcache.content.signed import SignedResolution
    from p2pcache.net.sync.driver import Link

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AskOptions:
    """Of questions for manifests. Times in seconds."""

    askers: int = 4  # members asked at once for one manifest,
    stagger_s: float = 0.5  # the next when those before did not bring it so soon
    part_s: float = 10.0  # for one part (256 KiB) of a manifest


async def ask_names(
    links: Sequence[Link], canonical: str, *, timeout_s: float
) -> list[SignedResolution]:
    """What the members know a ref to mean: all that came in time, each signed by somebody."""
    found: dict[tuple[PeerId, bytes, float], SignedResolution] = {}

    async def ask(link: Link) -> None:
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

    async with trio.open_nursery() as nursery:
        for link in links:
            nursery.start_soon(ask, link)
    return list(found.values())


async def ask_manifest(
    links: Sequence[Link], cid: bytes, options: AskOptions, *, timeout_s: float, max_bytes: int
) -> bytes:
    """The bytes of a manifest from whoever has it; they hash to the CID.

    A few members are asked at a time, in this order; one whose bytes do not hash is cut.
    Raises NotFound, Denied, Unavailable.
    """
    waiting = iter(links)
    errors: list[P2PCacheError] = []
    found: list[bytes] = []

    async def worker(delay_s: float, scope: trio.CancelScope) -> None:
        await trio.sleep(delay_s)
        for link in waiting:
            try:
                found.append(await _manifest_from(link, cid, options, max_bytes))
            except Untrusted as exc:
                link.distrust(exc.message)
                errors.append(exc)
            except P2PCacheError as exc:
                errors.append(exc)
            else:
                scope.cancel()
                return

    with trio.move_on_after(timeout_s) as deadline:
        async with trio.open_nursery() as nursery:
            for number in range(min(options.askers, len(links))):
                delay_s = number * options.stagger_s
                nursery.start_soon(worker, delay_s, nursery.cancel_scope)
    if found:
        return found[0]
    if deadline.cancelled_caught:
        raise Unavailable(f"no member brought the manifest in {timeout_s:.1f} s")
    for kind in (Denied, Unavailable):
        for error in errors:
            if isinstance(error, kind):
                raise error
    raise NotFound(f"none of {len(links)} members has the manifest")


async def _manifest_from(link: Link, cid: bytes, options: AskOptions, max_bytes: int) -> bytes:
    data = bytearray()
    while True:
        make = partial(_manifest_ask, cid, len(data))
        part = await link.ask(make, ManifestPart, timeout_s=options.part_s)
        if part.total > max_bytes:
            raise NotFound(f"a manifest of {part.total} bytes (allowed: {max_bytes})")
        data += part.data
        if len(data) >= part.total:
            break
        if not part.data:
            raise Untrusted("a part of a manifest without bytes")
    digest = multihash(cid)
    if is_sha256(digest) and hashlib.sha256(data).digest() != raw(digest):
        raise Untrusted("the bytes of a manifest do not hash to its CID")
    return bytes(data)


def _manifest_ask(cid: bytes, offset: int, number: int) -> ManifestAsk:
    return ManifestAsk(number, cid, offset)
