"""Who may know of which content: what was resolved from a gated origin stays gated among peers.

A manifest is *restricted* when it was gated or private at its origin when it was resolved here, and
neither that repository was found open since (a ref that moves on opens nothing) nor all of it given
to everybody by another origin: that one lists a digest proves nothing (`store.rights`). Only a peer
that proved its own access (content/proof), or holds a grant signed by the network's admin, is told
that it exists, and gets tickets for it. Everything else is open to all who hold the network key.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import msgpack

from p2pcache.content.digests import raw
from p2pcache.content.grants import covers, standing
from p2pcache.content.peerid import PeerId
from p2pcache.content.proof import NONCE_BYTES, Challenge, answer, is_proof, make_challenge
from p2pcache.errors import Denied, NotFound
from p2pcache.store.rooted import is_root

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from p2pcache.store.rooted import AnyBlob
    from p2pcache.store.store import Store

_log = logging.getLogger(__name__)

PROOF_HOLDS_S = 12 * 3600.0  # access that was withdrawn at the origin ends here within half a day
CHALLENGE_HOLDS_S = 120.0  # to fetch 64 KiB from a slow origin
NOT_HERE = "nothing of this is here"  # of what is not here, and of what the peer may not know of
MAX_REMEMBERED = 4096  # pairs of peer and manifest; the oldest go, and prove again

K = TypeVar("K")
V = TypeVar("V")


class NeedsProof(Denied):
    """The peer may read this once it answers the challenge (`Challenge.to_wire`, packed)."""

    def __init__(self, challenge: Challenge) -> None:
        packed: bytes = msgpack.packb(challenge.to_wire())
        super().__init__("access to this content has to be proven", challenge=packed)
        self.asked = challenge


@dataclass(frozen=True, slots=True)
class AccessOptions:
    """`admin`: whose grants count; None: nobody's."""

    admin: PeerId | None = None


class Access:
    """Decides for one agent (`me`). `now`: unix seconds; `choose(n)`: a number in [0, n).

    Everything reads the store, and some of it files: for worker threads, several at a time.
    """

    def __init__(
        self,
        store: Store,
        me: PeerId,
        options: AccessOptions,
        *,
        now: Callable[[], float],
        choose: Callable[[int], int],
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._store = store
        self._me = me
        self._options = options
        self._now = now
        self._choose = choose
        self._random_bytes = random_bytes
        self._lock = threading.RLock()  # of what changes below
        self._proven: OrderedDict[tuple[PeerId, bytes], float] = OrderedDict()
        self._told: OrderedDict[tuple[PeerId, bytes], None] = OrderedDict()
        self._asked: OrderedDict[tuple[PeerId, bytes], tuple[Challenge, float]] = OrderedDict()

    def may(self, peer: PeerId, manifest: bytes) -> bool:
        """Whether the peer may know of a manifest and read its blobs."""
        if manifest not in self._store.restricted_manifests():
            return True
        if self._has_proven(peer, manifest):
            return True
        return (peer, manifest) in self._told and self._is_granted(peer, manifest)

    def may_hear(self, peer: PeerId, manifest: bytes) -> bool:
        """Whether the peer may be told that a ref means this manifest; called when it is.

        A grant opens content to those alone who asked for it by its name: they were told that it
        is restricted, and keep it so. Whoever knows only a digest would pass it on to everybody.
        """
        if self.may(peer, manifest):
            return True
        if not self._is_granted(peer, manifest):
            return False
        with self._lock:
            _remember(self._told, (peer, manifest), None)
        return True

    def _has_proven(self, peer: PeerId, manifest: bytes) -> bool:
        return self._proven.get((peer, manifest), 0.0) > self._now()

    def _is_granted(self, peer: PeerId, manifest: bytes) -> bool:
        if self._options.admin is None:
            return False
        told = self._store.others.grants(peer=peer, now=self._now())
        grants = standing(told, self._options.admin)
        refs = [row.canonical for row in self._store.resolutions_of(manifest)]
        return any(covers(grant.repo, ref) for grant in grants for ref in refs)

    def readable(self, peer: PeerId, blobs: Sequence[AnyBlob]) -> list[AnyBlob]:
        """Those that the peer may read, whatever it asks for."""
        allowed = self.may_read(peer, [(blob.names, None) for blob in blobs])
        return [blob for blob, may in zip(blobs, allowed, strict=True) if may]

    def may_read(
        self,
        peer: PeerId | None,
        blobs: Sequence[tuple[Collection[bytes], bytes | None]],
        scope: bytes | None = None,
    ) -> list[bool]:
        """For each blob, here or still growing, whether the peer (None: everybody) may read it: it
        is in no restricted manifest, or an origin was seen to give it to everybody, or the peer may
        read one of its manifests. That an agent or an origin lists it somewhere opens nothing.

        A blob is all names that it goes by, and the manifest that a pull brings it for, if any. One
        that goes by its UnixFS root alone may be in any manifest: nobody reads it, where there is a
        restricted one, before its sha2-256 is known. A file of a private folder (`adopt
        --private`) is as one of a manifest that nobody else may read.
        `scope`: the manifest that is asked for, where the peer may read that one: its tickets are
        good for whoever may, so what is not restricted with it is what everybody may read.
        """
        restricted = self._store.restricted_manifests()
        private = self._store.adoptions.private()
        if not restricted and not private:
            return [True] * len(blobs)
        asked = [name for names, _ in blobs for name in names]
        given = self._store.rights.given(asked)
        manifests = self._store.manifests_with(asked)
        allowed = []
        for names, pulled in blobs:
            if pulled is None and all(map(is_root, names)):
                allowed.append(False)
                continue
            member_of = {cid for name in names for cid in manifests.get(name, ())}
            if pulled is not None:
                member_of.add(pulled)
            closed = member_of & restricted
            is_private = any(raw(name) in private for name in names)
            allowed.append(
                not (closed or is_private)
                or not given.isdisjoint(names)
                or (scope in closed if scope is not None else self._may_any(peer, closed))
            )
        return allowed

    def _may_any(self, peer: PeerId | None, manifests: Iterable[bytes]) -> bool:
        return peer is not None and any(self.may(peer, cid) for cid in manifests)

    def demand(self, peer: PeerId, manifest: bytes, proof: bytes | None) -> None:
        """Return if the peer may read the manifest, checking its proof if it brings one.

        Raises NeedsProof (with the challenge), NotFound when there is nothing here to ask about, or
        the peer was never asked for a proof (`ask_for_proof`): with the manifest's CID alone it
        learns nothing, and is told what is told of a manifest that is not here.
        """
        if self.may(peer, manifest):
            return
        if (peer, manifest) not in self._asked and (peer, manifest) not in self._proven:
            raise NotFound(NOT_HERE)
        if proof is not None:
            self._check(peer, manifest, proof)
        if not self._has_proven(peer, manifest):
            challenge = self._challenge(peer, manifest)
            if challenge is None:
                raise NotFound(NOT_HERE)
            raise NeedsProof(challenge)

    def ask_for_proof(self, peer: PeerId, manifest: bytes, names: Collection[bytes]) -> None:
        """Raise NeedsProof when the peer, which may not read the manifest yet, names one of its
        files that is here. Otherwise return: it is to be told that nothing is.
        """
        body = self._store.get_manifest(manifest)
        inside = () if body is None else {file.digest for file in body.files}
        if self._store.find_many([name for name in names if name in inside]):
            challenge = self._challenge(peer, manifest)
            if challenge is not None:
                raise NeedsProof(challenge)

    def _challenge(self, peer: PeerId, manifest: bytes) -> Challenge | None:
        with self._lock:  # or two who ask at once get a choice of questions
            return self._one_challenge(peer, manifest)

    def _one_challenge(self, peer: PeerId, manifest: bytes) -> Challenge | None:
        known = self._asked.get((peer, manifest))
        if known is not None and known[1] > self._now():
            return known[0]  # asking again must not give a choice of questions
        body = self._store.get_manifest(manifest)
        files = () if body is None else body.files
        held = [file for file in files if self._store.find(file.digest) is not None]
        challenge = make_challenge(manifest, held, self._choose, self._random_bytes(NONCE_BYTES))
        if challenge is not None:
            _remember(self._asked, (peer, manifest), (challenge, self._now() + CHALLENGE_HOLDS_S))
        return challenge

    def _check(self, peer: PeerId, manifest: bytes, proof: bytes) -> None:
        challenge, until = self._asked.pop((peer, manifest), (None, 0.0))
        if challenge is None or until <= self._now():
            return  # too late, or never asked: a new challenge follows
        blob = self._store.find(challenge.digest)
        if blob is None:
            return
        try:
            with blob.path.open("rb") as stream:
                stream.seek(challenge.start)
                data = stream.read(challenge.end - challenge.start)
        except OSError as exc:  # an adopted file that its owner moves just now
            _log.info("%s cannot be read for a proof: %s", blob.path, exc)
            return
        if is_proof(proof, answer(challenge, peer, self._me, data)):
            with self._lock:
                _remember(self._proven, (peer, manifest), self._now() + PROOF_HOLDS_S)


def _remember(table: OrderedDict[K, V], key: K, value: V) -> None:
    table[key] = value
    table.move_to_end(key)
    while len(table) > MAX_REMEMBERED:
        table.popitem(last=False)


def open_to_all(store: Store, now: Callable[[], float]) -> Callable[[AnyBlob | bytes], bool]:
    """Whether everybody may read a blob, or a manifest by its CID. Blocking, some 0.1 ms."""
    nobody = Access(store, PeerId(b""), AccessOptions(), now=now, choose=lambda _: 0)

    def shows(what: AnyBlob | bytes) -> bool:
        if isinstance(what, bytes):
            return what not in store.hidden_manifests([what])
        return nobody.may_read(None, [(what.names, None)])[0]

    return shows


def without_restricted(store: Store, manifests: Iterable[bytes]) -> list[bytes]:
    """Those that may be announced to everybody."""
    asked = list(manifests)
    hidden = store.hidden_manifests(asked)
    return [cid for cid in asked if cid not in hidden]
