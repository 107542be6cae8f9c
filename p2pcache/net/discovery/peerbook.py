"""The peers of last time, in a small file of the home: an agent finds its network after a restart.

Bounded; whoever was seen longest ago leaves first. The file is replaced as a whole (written beside,
fsynced, renamed); one that does not parse is as good as none.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import trio

from p2pcache.content.peerid import format_peer_id, parse_peer_id
from p2pcache.errors import LocalFault, Untrusted, UsageError
from p2pcache.net.discovery.found import Found, How
from p2pcache.net.remote_address import MAX_ADDRESSES, parse_ip_address

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from p2pcache.content.peerid import PeerId
    from p2pcache.net.discovery.found import Report

FILE_NAME = "peers.json"
VERSION = 1
MAX_PEERS = 256
MAX_FILE_BYTES = 1 << 20  # 256 peers with 8 addresses take 100 KB
SAVE_EVERY_S = 60.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Entry:
    addresses: tuple[str, ...]
    seen_at: float  # unix seconds


class PeerBook:
    """Who was connected, where. `clock` gives unix seconds."""

    def __init__(self, path: Path, *, clock: Callable[[], float]) -> None:
        self._path = path
        self._clock = clock
        self._entries: dict[PeerId, _Entry] = _read(path)  # the longest unseen first
        self._changed = False

    def saw(self, peer: PeerId, addresses: Sequence[str]) -> None:
        """A member is connected and can be dialed at these IPs; all else is left out."""
        kept = [address for text in addresses for address in _concrete(text)][:MAX_ADDRESSES]
        if not kept:
            return
        self._entries.pop(peer, None)
        self._entries[peer] = _Entry(tuple(kept), self._clock())
        while len(self._entries) > MAX_PEERS:
            del self._entries[next(iter(self._entries))]
        self._changed = True

    def forget(self, peer: PeerId) -> None:
        """A banned one, or one that another answers for."""
        self._changed = self._entries.pop(peer, None) is not None or self._changed

    def peers(self) -> list[Found]:
        """All, seen last first."""
        return [
            Found(peer, entry.addresses, How.PEERBOOK)
            for peer, entry in reversed(self._entries.items())
        ]

    def save(self) -> None:
        """Write the file if something changed. Blocks on the disk. Raises LocalFault."""
        if not self._changed:
            return
        peers = [
            {"peer": format_peer_id(p), "addresses": e.addresses, "seen": round(e.seen_at)}
            for p, e in list(self._entries.items())
        ]
        data = json.dumps({"version": VERSION, "peers": peers}, indent=1).encode()
        beside = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        self._changed = False
        try:
            with beside.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self._path)
        except OSError as exc:
            self._changed = True
            beside.unlink(missing_ok=True)
            raise LocalFault(f"the peers of this session cannot be kept: {exc}") from exc


def parse_book(data: bytes) -> dict[PeerId, tuple[tuple[str, ...], float]]:
    """The contents of a file, oldest first. Raises Untrusted: it is not (whole) ours."""
    try:
        book: Any = json.loads(data)
        if not isinstance(book, dict) or book.get("version") != VERSION:
            raise Untrusted("another version")
        found = {}
        for entry in book["peers"][-MAX_PEERS:]:
            peer = parse_peer_id(_text(entry["peer"]))
            texts = [_text(text) for text in entry["addresses"][:MAX_ADDRESSES]]
            addresses = tuple(parse_ip_address(text, loopback=True) for text in texts)
            found[peer] = (addresses, float(entry["seen"]))
        return dict(sorted(found.items(), key=lambda item: item[1][1]))
    except (
        ValueError, KeyError, TypeError, OverflowError, RecursionError, UsageError, Untrusted,
    ) as exc:  # fmt: skip
        raise Untrusted(f"the list of peers does not parse: {exc}") from exc


def _concrete(text: str) -> list[str]:
    """What `parse_book` takes. A member may say anything: it must not cost us the others."""
    try:
        return [parse_ip_address(text, loopback=True)]
    except Untrusted:
        return []


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value


def _read(path: Path) -> dict[PeerId, _Entry]:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise Untrusted("it is too large")
        return {peer: _Entry(*entry) for peer, entry in parse_book(data).items()}
    except FileNotFoundError:
        return {}
    except (OSError, Untrusted) as exc:
        log.warning("starting without the peers of last time (%s): %s", path, exc)
        return {}


async def run_peerbook(book: PeerBook, report: Report, *, again_s: float = 300.0) -> None:
    """Report the peers of last time, again every `again_s`; save now and then and at the end."""
    try:
        next_report = trio.current_time()
        while True:
            if trio.current_time() >= next_report:
                next_report = trio.current_time() + again_s
                for found in book.peers():
                    report(found)
            await trio.sleep(min(SAVE_EVERY_S, again_s))
            await _save(book)
    finally:
        with trio.move_on_after(2, shield=True):
            await _save(book)


async def _save(book: PeerBook) -> None:
    try:
        await trio.to_thread.run_sync(book.save)
    except LocalFault as exc:
        log.warning("%s", exc.message)
