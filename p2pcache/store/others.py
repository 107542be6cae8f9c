"""What is remembered about other agents: bans, their word on names, and grants.

Plain rows; the signatures inside were checked when they arrived (content/signed), and are checked
again when they are read: the file may have been changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgpack

from p2pcache.content.signed import Grant, SignedResolution, parse_grant, parse_resolution
from p2pcache.errors import Untrusted

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from p2pcache.content.peerid import PeerId
    from p2pcache.store.index import Index

    T = TypeVar("T")

MAX_WORDS_PER_REF = 16  # signers remembered for one name; the newest stay
MAX_REASON_CHARS = 1000


@dataclass(frozen=True, slots=True)
class Ban:
    """An agent that is not talked to. `reason` names the evidence; `banned_at`: unix seconds."""

    peer: PeerId
    reason: str
    banned_at: float


class OtherAgents:
    """Queries over one index. Reads from any thread; every write is one durable transaction."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def ban(self, peer: PeerId, reason: str, now: float) -> None:
        """Remember a ban; the first reason stays."""
        with self._index.write("banning a peer") as connection:
            connection.execute(
                "INSERT OR IGNORE INTO bans VALUES (?,?,?)", (peer, reason[:MAX_REASON_CHARS], now)
            )

    def unban(self, peer: PeerId) -> bool:
        """Whether it was banned."""
        with self._index.write("lifting a ban") as connection:
            return connection.execute("DELETE FROM bans WHERE peer = ?", (peer,)).rowcount > 0

    def bans(self) -> list[Ban]:
        """All of them, newest first."""
        rows = self._index.read("SELECT peer, reason, banned_at FROM bans ORDER BY banned_at DESC")
        return [Ban(bytes(peer), reason, at) for peer, reason, at in rows]

    def put_word(self, word: SignedResolution, now: float) -> None:
        """Keep a signer's newest word on a name."""
        with self._index.write("keeping a peer's word on a name") as connection:
            connection.execute(
                "INSERT INTO words VALUES (?,?,?,?,?) ON CONFLICT (canonical, signer) DO UPDATE "
                "SET resolved_at = excluded.resolved_at, heard_at = excluded.heard_at, "
                "body = excluded.body WHERE excluded.resolved_at > resolved_at",
                (
                    word.canonical, word.signer, word.resolved_at, now,
                    msgpack.packb(word.to_wire()),
                ),
            )  # fmt: skip
            connection.execute(
                "DELETE FROM words WHERE canonical = ?1 AND signer NOT IN (SELECT signer FROM "
                "words WHERE canonical = ?1 ORDER BY resolved_at DESC LIMIT ?2)",
                (word.canonical, MAX_WORDS_PER_REF),
            )

    def words(self, canonical: str) -> list[SignedResolution]:
        """What agents said the name means, newest first."""
        rows = self._index.read(
            "SELECT body FROM words WHERE canonical = ? ORDER BY resolved_at DESC", (canonical,)
        )
        return _parsed(rows, parse_resolution)

    def put_grant(self, grant: Grant) -> None:
        """Keep a grant; a longer one replaces a shorter one."""
        with self._index.write("keeping a grant") as connection:
            connection.execute(
                "INSERT INTO grants VALUES (?,?,?,?) ON CONFLICT (repo, peer) DO UPDATE SET "
                "expires_at = excluded.expires_at, body = excluded.body "
                "WHERE excluded.expires_at > expires_at",
                (grant.repo, grant.peer, grant.expires_at, msgpack.packb(grant.to_wire())),
            )

    def grants(self, *, peer: PeerId | None = None, now: float) -> list[Grant]:
        """Grants that have not expired, of one peer or of all."""
        rows = self._index.read(
            "SELECT body FROM grants WHERE expires_at > ?1 AND (?2 IS NULL OR peer = ?2) "
            "ORDER BY repo, peer",
            (now, peer),
        )
        return _parsed(rows, parse_grant)


def _parsed(rows: list[tuple[bytes]], parse: Callable[[object], T]) -> list[T]:
    """Rows whose signature still holds; a row that somebody changed is no statement."""
    found = []
    for (body,) in rows:
        try:
            found.append(parse(msgpack.unpackb(body)))
        except (Untrusted, ValueError):
            continue
    return found
