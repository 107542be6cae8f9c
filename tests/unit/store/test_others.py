"""What the store remembers about other agents survives restarts, and only what was signed."""

from __future__ import annotations

import sqlite3

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from p2pcache.content import signed
from p2pcache.content.peerid import peer_id_of
from p2pcache.store.index import _SCHEMA
from p2pcache.store.others import MAX_WORDS_PER_REF, Ban
from p2pcache.store.store import Store


class Key:
    def __init__(self) -> None:
        self._key = Ed25519PrivateKey.generate()
        self.peer_id = peer_id_of(self._key.public_key().public_bytes_raw())

    def sign(self, message: bytes) -> bytes:
        return self._key.sign(message)


KEY, OTHER = Key(), Key()
NAME = "hf://org/name@main"


def word(key: Key, at: float, name: str = NAME) -> signed.SignedResolution:
    return signed.sign_resolution(
        key, canonical=name, manifest=bytes(36), immutable=None, source="hf", endpoint="",
        mutable=True, restricted=False, resolved_at=at,
    )  # fmt: skip


@pytest.fixture
def home(tmp_path):
    return tmp_path / "store"


def test_a_ban_stays_over_a_restart_with_its_first_reason_until_it_is_lifted(home):
    with Store.open(home) as store:
        store.others.ban(KEY.peer_id, "sent a wrong block", 5.0)
        store.others.ban(KEY.peer_id, "again", 6.0)
    with Store.open(home) as store:
        assert store.others.bans() == [Ban(KEY.peer_id, "sent a wrong block", 5.0)]
        assert store.others.unban(KEY.peer_id)
        assert not store.others.unban(KEY.peer_id)
        assert store.others.bans() == []


def test_the_newest_word_of_each_signer_is_kept_and_their_number_is_bounded(home):
    with Store.open(home) as store:
        store.others.put_word(word(KEY, 7.0), 7.0)
        store.others.put_word(word(KEY, 5.0), 8.0)
        store.others.put_word(word(OTHER, 9.0), 9.0)
        store.others.put_word(word(OTHER, 9.0, "hf://else/where@main"), 9.0)
        heard = store.others.words(NAME)
        assert [(w.signer, w.resolved_at) for w in heard] == [
            (OTHER.peer_id, 9.0),
            (KEY.peer_id, 7.0),
        ]
        for number in range(2 * MAX_WORDS_PER_REF):
            store.others.put_word(word(Key(), 100.0 + number), 0.0)
        times = [w.resolved_at for w in store.others.words(NAME)]
        assert times == [
            100.0 + n for n in reversed(range(MAX_WORDS_PER_REF, 2 * MAX_WORDS_PER_REF))
        ]


def test_a_word_that_was_changed_on_disk_is_no_word(home):
    with Store.open(home) as store:
        store.others.put_word(word(KEY, 7.0), 7.0)
    with sqlite3.connect(home / "index.sqlite") as connection:
        (body,) = connection.execute("SELECT body FROM words").fetchone()
        connection.execute("UPDATE words SET body = ?", (body.replace(b"main", b"evil"),))
    connection.close()
    with Store.open(home) as store:
        assert store.others.words(NAME) == []


def test_grants_end_with_their_time_and_are_found_by_peer(home):
    with Store.open(home) as store:
        store.others.put_grant(signed.sign_grant(KEY, "hf://org/name", OTHER.peer_id, 100.0))
        store.others.put_grant(signed.sign_grant(KEY, "hf://org/name", OTHER.peer_id, 50.0))
        assert [g.expires_at for g in store.others.grants(peer=OTHER.peer_id, now=60.0)] == [100.0]
        assert store.others.grants(peer=KEY.peer_id, now=60.0) == []
        assert store.others.grants(now=100.0) == []


def test_an_index_from_before_there_were_peers_is_brought_up_to_date(home):
    home.mkdir()
    with sqlite3.connect(home / "index.sqlite") as connection:
        connection.executescript(_SCHEMA)
        connection.execute("INSERT INTO pins VALUES (x'01', 'kept')")
        connection.execute("PRAGMA user_version = 1")
    connection.close()
    with Store.open(home) as store:
        store.others.ban(KEY.peer_id, "why", 5.0)
        assert [pin.label for pin in store.pins()] == ["kept"]
    with sqlite3.connect(home / "index.sqlite") as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    connection.close()
    assert "uploads" not in tables, "addresses of sessions are kept in files alone"
