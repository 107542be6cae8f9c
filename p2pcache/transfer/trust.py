"""Evidence: who sent which block, who said which hash, and who is proven to have lied. Pure.

Until a map is proven, nobody's word is the check of another's: a block that differs from what was
said is kept aside and asked of others. When a proof comes (the whole digest matched, or a map makes
the UnixFS root that was asked for), everybody who differed from it is a proven liar, by name:

* who signed or said another hash;
* who sent other bytes than the proven block and had told that it has all of the blob: it had the
  digest to check. Who told of some blocks passes on what others brought and signed, and cannot
  know better: it is not banned, or one wrong signature would ban every honest relay. It serves
  nothing more in this pull, unless its bytes are exactly what somebody else signed for whom we
  met: that is believed once, or whoever mints keys to sign with could go on for ever.

One lie needs no such proof: who told that it has all of the blob, and sends other bytes than it
said or signed itself, lied about one of the two. It is named at once, also when nobody else is
there to tell what is right. Who told of some blocks is not: it may have had a block brought anew.

Only bytes and words of theirs count: never an end of a connection, never a fault of ours.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from p2pcache.content.ranges import RangeSet
from p2pcache.lanes.orders import UNKNOWN_HASH

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from p2pcache.content.peerid import PeerId
    from p2pcache.content.signed import PieceAttestation

HASH_BYTES = 32
CONTRADICTED = 2  # others who differ from a speaker: then its words count no more
MAX_ROUNDS = 4  # of comparing suspects after a wrong whole digest; then everything is compared


@dataclass(frozen=True, slots=True)
class Verdict:
    """A peer lied, and the proof. `reason` is for people: what, which block, both hashes.

    `bans`: for good; otherwise what it sent is wrong, but it may not have known: for this pull.
    """

    peer: PeerId
    reason: str
    bans: bool = True


@dataclass(slots=True)
class _Block:
    """`sent`: hashes of bytes by source name; `said`: by peer; `signed`: those said with proof."""

    sent: dict[str, bytes] = field(default_factory=dict)
    said: dict[PeerId, bytes] = field(default_factory=dict)
    signed: dict[PeerId, PieceAttestation] = field(default_factory=dict)
    doubted: bool = False
    compared_with: int = 0  # senders at the time of the last comparison


class Evidence:
    """All that is known of one blob. `what`: how messages call it. `peer_of`: names of peers.

    `proven`: the map, where it is proven beforehand (a repair, or a root that was asked for).
    `excused`: one set for all blobs of a pull, of those that passed on another's wrong word.
    """

    def __init__(
        self,
        what: str,
        blocks: int,
        proven: bytes | None = None,
        excused: set[PeerId] | None = None,
    ) -> None:
        self._what = what
        self._blocks = [_Block() for _ in range(blocks)]
        self._spoken = bytearray(blocks)  # 1: somebody said something of the block
        self._peers: dict[str, PeerId] = {}
        self._origins: set[str] = set()
        self._asked: dict[str, bool] = {}  # sources; had they told of all of it, each time?
        self._unheeded: set[PeerId] = set()
        self._proven = proven
        self._excused: set[PeerId] = set() if excused is None else excused
        self._rounds = 0
        self._resent: list[tuple[str, int, bytes]] = []  # what a source sent before it sent another
        self.changes = 0  # counts what was heard and seen: who waits for it looks no sooner

    @property
    def is_proven(self) -> bool:
        """Whether the map needs no further check."""
        return self._proven is not None

    @property
    def count(self) -> int:
        """Blocks of the blob."""
        return len(self._blocks)

    def unspoken(self, blocks: RangeSet) -> RangeSet:
        """Of these, the blocks that nobody said anything of."""
        found: list[tuple[int, int]] = []
        for first, last in blocks:
            start = self._spoken.find(0, first, last)
            while start >= 0:
                end = self._spoken.find(1, start, last)
                found.append((start, last if end < 0 else end))
                start = -1 if end < 0 else self._spoken.find(0, end, last)
        return RangeSet.of(*found)

    # -- what was heard and seen -------------------------------------------------------------------

    def knows_peer(self, name: str, peer: PeerId) -> None:
        """The source of that name is this peer; others are origins."""
        self._peers[name] = peer

    def asks(self, name: str, *, has_all: bool) -> None:
        """A source is asked for blocks. `has_all`: it has told that it has the whole blob."""
        self._asked[name] = has_all and self._asked.get(name, True)

    def attested(self, attestation: PieceAttestation) -> None:
        """A signed word, its signature checked."""
        self.changes += 1
        first = attestation.start >> 20
        for at in range(len(attestation.hashes) // HASH_BYTES):
            if first + at < len(self._blocks):
                block = self._blocks[first + at]
                block.said[attestation.signer] = _hash_at(attestation.hashes, at)
                block.signed[attestation.signer] = attestation
                self._spoken[first + at] = 1

    def said(self, peer: PeerId, first: int, hashes: bytes) -> None:
        """A peer's unsigned word over the authenticated stream."""
        for at in range(len(hashes) // HASH_BYTES):
            if first + at < len(self._blocks):
                self._blocks[first + at].said.setdefault(peer, _hash_at(hashes, at))
                self._spoken[first + at] = 1

    def brought(self, source: str, first: int, hashes: bytes) -> None:
        """Blocks that came from a source, whole; also one that was refused and not kept.

        They may convict it: the caller knows that no other source can have written them.
        """
        self.changes += 1
        if source not in self._peers:
            self._origins.add(source)
        for at in range(len(hashes) // HASH_BYTES):
            if first + at < len(self._blocks):
                sent, hash_ = self._blocks[first + at].sent, _hash_at(hashes, at)
                if sent.get(source, hash_) != hash_:
                    self._resent.append((source, first + at, sent[source]))
                sent[source] = hash_

    def doubt(self, blocks: RangeSet) -> None:
        """Expect nothing there any more, unless proven."""
        for start, end in blocks:
            for number in range(start, min(end, len(self._blocks))):
                self._blocks[number].doubted = True

    def prove(self, hashes: bytes) -> None:
        """The map makes the root that was asked for."""
        self.changes += 1
        self._proven = hashes

    # -- what follows ------------------------------------------------------------------------------

    def expected(self, start: int, end: int) -> bytes | None:
        """What blocks `[start, end)` must hash to, joined; zeros where nothing is known."""
        if self._proven is not None:
            return self._proven[start * HASH_BYTES : end * HASH_BYTES]
        hashes = [self._expected_of(self._blocks[n]) or UNKNOWN_HASH for n in range(start, end)]
        return b"".join(hashes) if any(h != UNKNOWN_HASH for h in hashes) else None

    def _expected_of(self, block: _Block) -> bytes | None:
        """What most voices say: signers, speakers and senders; an origin's bytes above all."""
        if block.doubted:
            return None
        for origin in self._origins & block.sent.keys():
            return block.sent[origin]
        words = {p: h for p, h in block.said.items() if p not in self._unheeded}
        if not words:
            return None
        said = set(words.values())
        votes = Counter(words.values())
        for name, sent in block.sent.items():
            if words.get(self._peers[name]) != sent:  # one voice each
                votes[sent] += 1
        # a word weighs more than one other who differs: that one is the first to be suspected
        ranked = sorted(((count, hash_ in said, hash_) for hash_, count in votes.items()))
        if len(ranked) > 1 and ranked[-1][:2] == ranked[-2][:2]:
            return None
        return ranked[-1][2]

    def contradicted(self) -> bool:
        """Whether a speaker's words are believed no more, as of now: two others differ from it, or
        an origin does. True once for each such speaker.
        """
        against: dict[PeerId, set[str]] = {}
        for block in self._blocks:
            for speaker, hash_ in block.said.items():
                for name, sent in block.sent.items():
                    if sent != hash_ and self._peers.get(name) != speaker:
                        against.setdefault(speaker, set()).add(name)
        found = {
            speaker
            for speaker, names in against.items()
            if len(names) >= CONTRADICTED or names & self._origins
        }
        new = found - self._unheeded
        self._unheeded |= found
        return bool(new)

    def is_vouched(self, number: int, hash_: bytes) -> bool:
        """Whether a block with this hash may be shared: proven, brought from an origin by us, or
        what somebody who was not contradicted signed.
        """
        if self._proven is not None:
            return self._proven[number * HASH_BYTES : (number + 1) * HASH_BYTES] == hash_
        block = self._blocks[number]
        if self.is_ours(number, hash_):
            return True
        return any(
            block.said[signer] == hash_ for signer in block.signed if signer not in self._unheeded
        )

    def is_ours(self, number: int, hash_: bytes) -> bool:
        """Whether an origin sent us exactly this: what we sign ourselves."""
        sent = self._blocks[number].sent
        return any(sent.get(origin) == hash_ for origin in self._origins)

    def attestations(self, first: int, count: int) -> list[PieceAttestation]:
        """The signed words that may be passed on for these blocks, each once."""
        found: dict[int, PieceAttestation] = {}
        for block in self._blocks[first : first + count]:
            for signer, attestation in block.signed.items():
                if signer not in self._unheeded:
                    found[id(attestation)] = attestation
        return list(found.values())

    def suspects(self) -> RangeSet | None:
        """After a wrong whole digest: the blocks to compare next. None: all of them.

        First those of which different things are known; then those that only one peer's bytes
        speak for, and no origin's. Each is named again only after another sender was heard.
        """
        self._rounds += 1
        if self._proven is not None or self._rounds > MAX_ROUNDS:
            return None
        for wanted in (self._is_disputed, self._is_one_peers):
            numbers = [
                n
                for n, block in enumerate(self._blocks)
                if wanted(block) and block.compared_with < max(len(block.sent), 1)
            ]
            if numbers and len(numbers) < len(self._blocks):
                for n in numbers:
                    self._blocks[n].compared_with = max(len(self._blocks[n].sent), 1)
                return RangeSet.of(*((n, n + 1) for n in numbers))
        return None

    def _is_disputed(self, block: _Block) -> bool:
        return len({*block.sent.values(), *block.said.values()}) > 1

    def _is_one_peers(self, block: _Block) -> bool:
        return len(block.sent) == 1 and not self._origins & block.sent.keys()

    # -- proof -------------------------------------------------------------------------------------

    def refuted(self, source: str, number: int, arrived: bytes) -> Verdict | None:
        """A block that differs from a proven map: a verdict at once, if a peer sent it."""
        self.brought(source, number, arrived)
        peer = self._peers.get(source)
        if self._proven is None or peer is None:
            return None
        right = self._proven[number * HASH_BYTES : (number + 1) * HASH_BYTES]
        return None if right == arrived else self._sender(source, number, arrived, right)

    def contradicts_itself(self, source: str, number: int) -> Verdict | None:
        """Whether a peer that told it has the whole blob sent a block that is not what it said or
        signed of it: of the two one is a lie, whatever the block is.
        """
        block, peer = self._blocks[number], self._peers.get(source)
        if peer is None or not self._asked.get(source, False):
            return None
        said, sent = block.said.get(peer), block.sent.get(source)
        if said is None or sent is None or said == sent:
            return None
        verb = "signed" if peer in block.signed else "said"
        return Verdict(
            peer,
            f"sent sha2-256 {sent.hex()} for block {number} of {self._what}, "
            f"for which it {verb} {said.hex()}",
        )

    def contradictions(self) -> list[Verdict]:
        """Everybody who contradicts itself anywhere, once."""
        found: dict[PeerId, Verdict] = {}
        for number, block in enumerate(self._blocks):
            for source in block.sent:
                verdict = self.contradicts_itself(source, number)
                if verdict is not None:
                    found.setdefault(verdict.peer, verdict)
        return list(found.values())

    def proved(self, hashes: bytes, met: Collection[PeerId]) -> list[Verdict]:
        """The whole digest matched, so this is the map: everybody who differed from it, once.

        `met`: who has or had a link with us. Nobody is excused by the word of others.
        """
        self._proven = hashes
        excused: set[PeerId] = set()
        verdicts: dict[PeerId, Verdict] = {}
        for number, block in enumerate(self._blocks):
            right = _hash_at(hashes, number)
            for peer, said in block.said.items():
                if said != right:
                    verb = "signed" if peer in block.signed else "said"
                    _name(verdicts, self._liar(peer, verb, number, said, right))
            before = [(name, sent) for name, n, sent in self._resent if n == number]
            for name, sent in (*block.sent.items(), *before):
                sender = self._peers.get(name)
                if sender is None or sent == right:
                    continue
                if self._may_pass_on(block, name, sent, met) and sender not in self._excused:
                    excused.add(sender)
                    continue
                _name(verdicts, self._sender(name, number, sent, right))
        self._excused |= excused
        return list(verdicts.values())

    def _may_pass_on(
        self, block: _Block, source: str, sent: bytes, met: Collection[PeerId]
    ) -> bool:
        sender = self._peers[source]
        return not self._asked.get(source, False) and any(
            block.said[signer] == sent
            for signer in block.signed
            if signer != sender and signer in met
        )

    def _sender(self, source: str, number: int, sent: bytes, right: bytes) -> Verdict:
        had_all = self._asked.get(source, False)
        return self._liar(self._peers[source], "sent", number, sent, right, bans=had_all)

    def _liar(
        self, peer: PeerId, verb: str, number: int, got: bytes, right: bytes, *, bans: bool = True
    ) -> Verdict:
        return Verdict(
            peer,
            f"{verb} sha2-256 {got.hex()} for block {number} of {self._what}, "
            f"which is {right.hex()}",
            bans,
        )


def _name(verdicts: dict[PeerId, Verdict], verdict: Verdict) -> None:
    """Each liar once; by what bans it, if there is such a lie."""
    known = verdicts.get(verdict.peer)
    if known is None or (verdict.bans and not known.bans):
        verdicts[verdict.peer] = verdict


def size_verdicts(what: str, right: int, claims: Iterable[tuple[PeerId, int]]) -> list[Verdict]:
    """A blob's size is proven with its bytes: everybody who told another one of it, and that it
    has the whole blob. What others say of its size was told to them.
    """
    return [
        Verdict(peer, f"said that {what} has {said} bytes; it has {right}")
        for peer, said in dict(claims).items()
        if said != right
    ]


def _hash_at(hashes: bytes, index: int) -> bytes:
    return hashes[index * HASH_BYTES : (index + 1) * HASH_BYTES]
