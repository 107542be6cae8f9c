"""Signed statements: only what the signer signed comes out, and nothing else gets in."""

from __future__ import annotations

import msgpack
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from p2pcache.content import signed
from p2pcache.content.peerid import format_peer_id, parse_peer_id, peer_id_of, public_key_of
from p2pcache.errors import Untrusted, UsageError

MIB = 1 << 20


class Key:
    def __init__(self) -> None:
        self._key = Ed25519PrivateKey.generate()
        self.peer_id = peer_id_of(self._key.public_key().public_bytes_raw())

    def sign(self, message: bytes) -> bytes:
        return self._key.sign(message)


KEY = Key()
ATTESTATION = signed.sign_attestation(KEY, b"\x12\x20" + bytes(32), 3 * MIB + 1, MIB, bytes(96))
RESOLUTION = signed.sign_resolution(
    KEY, canonical="hf://org/name@main", manifest=bytes(36), immutable="abc", source="hf",
    endpoint="https://huggingface.co", mutable=True, restricted=False, resolved_at=12.5,
)  # fmt: skip
GRANT = signed.sign_grant(KEY, "hf://org/name", Key().peer_id, 1e9)
PARSERS = [
    (ATTESTATION, signed.parse_attestation),
    (RESOLUTION, signed.parse_resolution),
    (GRANT, signed.parse_grant),
]


def over_the_wire(statement) -> object:
    return msgpack.unpackb(msgpack.packb(statement.to_wire()))


@pytest.mark.parametrize(("statement", "parse"), PARSERS)
def test_what_was_signed_comes_out_as_it_was(statement, parse):
    assert parse(over_the_wire(statement)) == statement


@pytest.mark.parametrize(("statement", "parse"), PARSERS)
def test_every_field_is_under_the_signature(statement, parse):
    wire = over_the_wire(statement)
    for number, value in enumerate(wire):
        changed = list(wire)
        match value:
            case bool():
                changed[number] = not value
            case int() | float():
                changed[number] = value + MIB
            case str():
                changed[number] = value + "x"
            case bytes():
                changed[number] = bytes([value[0] ^ 1]) + value[1:]
        with pytest.raises(Untrusted):
            parse(changed)


@pytest.mark.parametrize(("statement", "parse"), PARSERS)
def test_another_signer_cannot_take_it_over(statement, parse):
    wire = over_the_wire(statement)
    wire[-2] = Key().peer_id
    with pytest.raises(Untrusted):
        parse(wire)


plain = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.binary(),
        st.text(),
    ),
    lambda inner: st.lists(inner, max_size=10),
)  # fmt: skip


@given(plain)
def test_only_untrusted_comes_out_of_junk(junk):
    for _, parse in PARSERS:
        with pytest.raises(Untrusted):
            parse(junk)


@given(st.sampled_from(PARSERS), st.integers(0, 9), plain)
def test_only_untrusted_comes_out_of_a_junk_field(which, number, junk):
    statement, parse = which
    wire = over_the_wire(statement)
    number %= len(wire)
    if wire[number] != junk or type(wire[number]) is not type(junk):
        wire[number] = junk
        with pytest.raises(Untrusted):
            parse(wire)


def test_a_piece_that_leaves_its_blob_is_refused():
    for start, hashes in ((4 * MIB, 32), (MIB, 32 * 4), (1, 32), (0, 33)):
        made = signed.sign_attestation(
            KEY, b"\x12\x20" + bytes(32), 3 * MIB + 1, start, bytes(hashes)
        )
        with pytest.raises(Untrusted):
            signed.parse_attestation(over_the_wire(made))
    assert ATTESTATION.end == 3 * MIB + 1


def test_peer_ids_are_those_of_libp2p():
    # libp2p 0.8.1: create_new_key_pair(bytes(32)), ID.from_pubkey
    raw = bytes.fromhex("3b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29")
    text = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
    assert format_peer_id(peer_id_of(raw)) == text
    assert parse_peer_id(text) == peer_id_of(raw)
    assert public_key_of(peer_id_of(raw)) == raw


@pytest.mark.parametrize("text", ["", "Qm" + "1" * 44, "12D3KooW", "0OIl", "x" * 100])
def test_what_is_no_peer_id_is_a_usage_error(text):
    with pytest.raises(UsageError):
        parse_peer_id(text)
