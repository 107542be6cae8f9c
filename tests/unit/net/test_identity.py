"""The key file: made once, for us alone, and never guessed at when damaged."""

from __future__ import annotations

import threading

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from p2pcache.content.peerid import format_peer_id
from p2pcache.content.signed import check_signature, parse_grant, sign_grant
from p2pcache.errors import LocalFault, Untrusted
from p2pcache.net.identity import Identity, load_identity, load_or_create_identity


def test_an_identity_is_the_same_after_a_restart_and_only_ours_to_read(tmp_path):
    path = tmp_path / "home" / "identity.key"
    made = load_or_create_identity(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_or_create_identity(path).peer_id == load_identity(path).peer_id == made.peer_id
    assert [entry.name for entry in path.parent.iterdir()] == ["identity.key"]
    assert format_peer_id(made.peer_id).startswith("12D3KooW")


def test_it_signs_what_others_can_check():
    one, other = Identity.generate(), Identity.generate()
    check_signature(one.peer_id, b"message", one.sign(b"message"))
    with pytest.raises(Untrusted):
        check_signature(other.peer_id, b"message", one.sign(b"message"))
    grant = sign_grant(one, "hf://org/name", other.peer_id, 1e9)
    assert parse_grant(grant.to_wire()) == grant


def test_agents_that_start_at_once_end_up_with_one_identity(tmp_path):
    path = tmp_path / "identity.key"
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(load_or_create_identity(path).peer_id))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


def test_its_repr_shows_no_secret():
    identity = Identity.generate()
    assert identity.seed().hex() not in repr(identity)


@pytest.mark.parametrize("damage", ["empty", "cut", "junk", "other kind"])
def test_a_damaged_key_is_a_fault_with_a_hint_and_is_not_replaced(tmp_path, damage):
    path = tmp_path / "identity.key"
    load_or_create_identity(path)
    whole = path.read_bytes()
    other = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.write_bytes(
        {"empty": b"", "cut": whole[:60], "junk": b"\xff" * 500, "other kind": other}[damage]
    )
    before = path.read_bytes()
    for load in (load_identity, load_or_create_identity):
        with pytest.raises(LocalFault, match="damaged") as caught:
            load(path)
        assert "backup" in (caught.value.hint or "")
    assert path.read_bytes() == before


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_key_that_others_can_read_is_refused(tmp_path, mode):
    path = tmp_path / "identity.key"
    load_or_create_identity(path)
    path.chmod(mode)
    with pytest.raises(LocalFault, match="others can read") as caught:
        load_identity(path)
    assert "chmod 600" in (caught.value.hint or "")


def test_none_there_and_nowhere_to_write_are_faults(tmp_path):
    with pytest.raises(LocalFault, match="no identity key"):
        load_identity(tmp_path / "identity.key")
    (tmp_path / "file").write_text("")
    with pytest.raises(LocalFault):
        load_or_create_identity(tmp_path / "file" / "identity.key")
    with pytest.raises(LocalFault, match="not a file"):
        load_identity(tmp_path)
