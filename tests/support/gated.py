"""A store with gated and open content, and agents that may read it or may not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from p2pcache.agent.access import Access, AccessOptions, NeedsProof
from p2pcache.content.digests import whole_digests
from p2pcache.content.manifest import FileEntry, Manifest
from p2pcache.content.peerid import peer_id_of
from p2pcache.content.proof import answer
from p2pcache.content.verify import verify
from p2pcache.store.records import Resolution

if TYPE_CHECKING:
    from p2pcache.store.store import Store


class Key:
    def __init__(self) -> None:
        self._key = Ed25519PrivateKey.generate()
        self.peer_id = peer_id_of(self._key.public_key().public_bytes_raw())

    def sign(self, message: bytes) -> bytes:
        return self._key.sign(message)


ME, PEER, STRANGER, ADMIN = Key(), Key(), Key(), Key()
SECRET, OPEN = b"weights nobody may see" * 100, b"a readme"
REF = "hf://org/gated@main"


class World:
    def __init__(self, store: Store) -> None:
        self.now = 1000.0
        self.store = store
        self.access = Access(
            store,
            ME.peer_id,
            AccessOptions(ADMIN.peer_id),
            now=lambda: self.now,
            choose=lambda n: n // 2,
        )
        self.secret, self.gated = self.put(SECRET, REF, gated=True)
        self.open, self.public = self.put(OPEN, "hf://org/public@main", gated=False)

    def names(self, data: bytes = SECRET) -> list[bytes]:
        """What a peer asks for that knows what the manifest lists."""
        return [b"\x12\x20" + whole_digests(data).sha256]

    def put(self, data: bytes, ref: str, *, gated: bool):
        """As a pull leaves it: what is not gated came from its origin without a login."""
        digest = b"\x12\x20" + whole_digests(data).sha256
        blob = self.store.put_bytes(verify(digest, data))
        manifest = Manifest.from_entries([FileEntry("f", len(data), digest)])
        self.store.put_manifest(manifest)
        self.resolve(ref, manifest.cid(), gated=gated)
        if not gated:
            self.store.rights.give(manifest.cid(), [digest])
        return blob, manifest.cid()

    def resolve(self, ref: str, manifest: bytes, *, gated: bool, source: str = "hf") -> None:
        """A ref means this from now on."""
        self.store.record_resolution(
            Resolution(ref, manifest, None, source, "", self.now, gated=gated)
        )

    def let_in(self, peer: Key, manifest: bytes) -> None:
        """As if the peer had proven its access."""
        self.access._proven[(peer.peer_id, manifest)] = self.now + 1000.0

    def challenge(self, peer: Key):
        with pytest.raises(NeedsProof) as caught:
            self.access.ask_for_proof(peer.peer_id, self.gated, self.names())
        return caught.value.asked

    def prove(self, peer: Key, challenge, data: bytes = SECRET) -> None:
        part = data[challenge.start : challenge.end]
        self.access.demand(
            peer.peer_id, self.gated, answer(challenge, peer.peer_id, ME.peer_id, part)
        )
