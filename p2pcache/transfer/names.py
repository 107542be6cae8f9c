"""Names without their origin: what other agents said a ref means, and whose word is taken.

Pure choices; `transfer.resolve` asks the network through the `Names` port and keeps what it used.
A word proves who said it, not that it is true: bytes are checked against the manifest whatever the
word was, so a liar can name another model, never damage one (DESIGN 2, 3).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from p2pcache.content.peerid import PeerId, format_peer_id, parse_peer_id
from p2pcache.sources.port import ListedFile, Listing
from p2pcache.store import rights
from p2pcache.units import format_duration

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from p2pcache.content.manifest import Manifest
    from p2pcache.content.signed import SignedResolution

OTHERS = rights.OTHERS  # the source of a listing that is another agent's word
CLOCK_SKEW_S = 300.0  # a word from further ahead than this is a clock that cannot be trusted


class Names(Protocol):
    """The network as the resolver sees it. Never raises for what others do or fail to do."""

    async def words(self, canonical: str) -> Sequence[SignedResolution]:
        """What others say the ref means, kept and heard now; a second or so at most."""
        ...

    async def manifest(self, cid: bytes) -> Manifest | None:
        """A manifest by its CID, verified, from anybody who has it."""
        ...

    async def granted(self, canonical: str) -> bool:
        """Whether the network's admin lets this agent read the ref from others."""
        ...

    def keep(self, word: SignedResolution) -> None:
        """Remember a word that was used, so that it works offline again."""
        ...


@dataclass(frozen=True, slots=True)
class NameOptions:
    """Whose word counts, and how old it may be.

    `trust` None: every member of the network (who holds its key may name models); a set: only
    these agents; the empty set: nobody.
    """

    max_age_s: float | None = None  # None: any age, since it is said in the notes and the receipt
    trust: frozenset[PeerId] | None = field(default=None)

    @property
    def ask(self) -> bool:
        """Whether anybody's word could count."""
        return self.trust is None or bool(self.trust)


def choose_word(
    words: Iterable[SignedResolution],
    canonical: str,
    options: NameOptions,
    now: float,
    endpoint: str,
) -> SignedResolution | None:
    """The newest word that counts, None when there is none.

    Words of who asked the same `endpoint` come before all others; ties go to the smaller signer.
    """
    usable = [
        word
        for word in words
        if word.canonical == canonical
        and (options.trust is None or word.signer in options.trust)
        and word.resolved_at <= now + CLOCK_SKEW_S
        and (options.max_age_s is None or now - word.resolved_at <= options.max_age_s)
    ]
    return min(
        usable,
        key=lambda word: (word.endpoint != endpoint, -word.resolved_at, word.signer),
        default=None,
    )


def still_counts(listing: Listing, resolved_at: float, options: NameOptions, now: float) -> bool:
    """Whether what was recorded would be believed today: a word that was taken once may not be."""
    if listing.source != OTHERS:
        return True
    if options.max_age_s is not None and now - resolved_at > options.max_age_s:
        return False
    return options.trust is None or parse_peer_id(listing.endpoint) in options.trust


def listing_of(word: SignedResolution, manifest: Manifest, now: float) -> Listing:
    """The listing that an origin would have given, as far as a manifest tells it."""
    who = format_peer_id(word.signer)
    return Listing(
        source=OTHERS,
        endpoint=who,
        asked=word.endpoint,
        immutable=word.immutable,
        mutable=word.mutable,
        files=tuple(ListedFile(f.path, f.size, f.digest, f.path) for f in manifest.files),
        gated=word.restricted,
        notes=(_word_note(who, word.resolved_at, now),),
    )


def with_age(listing: Listing, resolved_at: float, now: float) -> Listing:
    """A recorded listing whose note says how old the word is now, not when it was taken."""
    if listing.source != OTHERS:
        return listing
    return replace(listing, notes=(_word_note(listing.endpoint, resolved_at, now),))


def _word_note(who: str, resolved_at: float, now: float) -> str:
    age = format_duration(max(0.0, now - resolved_at))
    return f"the name is the word of peer {who}, {age} old, and not the origin's"
