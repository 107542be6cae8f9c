"""XSalsa20 by the vectors of its author, and what both ends say first."""

from __future__ import annotations

from random import Random

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from p2pcache.net import private_connection
from p2pcache.net.private_connection import NONCE_BYTES, OtherNetwork, PrivateConnection, xsalsa20

HELLO = b"\x13/multistream/1.0.0\n"
KEY = bytes(range(32))


def test_the_key_stream_is_nacls():
    """NaCl's test of crypto_stream_xsalsa20 (Bernstein, Extending the Salsa20 nonce, 2011)."""
    key = bytes.fromhex("1b27556473e985d462cd51197a9a46c76009549eac6474f206c4ee0844f68389")
    nonce = bytes.fromhex("69696ee955b62b73cd62bda875fc73d68219e0036b7a0b37")
    stream = xsalsa20(key, nonce).encrypt(bytes(32))
    assert stream.hex() == "eea6a7251c1e72916d11c2cb214d3c252539121d8e234e652d651fa4c8cff880"


class Recorded:
    """A connection that plays back what came, in pieces, and keeps what was sent."""

    is_initiator = True

    def __init__(self, pieces=()):
        self.pieces = list(pieces)
        self.sent = b""

    async def read(self, n=None):
        if not self.pieces:
            return b""
        piece = self.pieces.pop(0)
        if n is not None and len(piece) > n:
            self.pieces.insert(0, piece[n:])
            piece = piece[:n]
        return piece

    async def write(self, data):
        self.sent += data


def play(*pieces, count=1 << 16, key=KEY):
    """All that a connection reads of these pieces."""

    async def run():
        conn = PrivateConnection(Recorded(pieces), key)
        data = b""
        while more := await conn.read(count):
            data += more
        return data

    return trio.run(run)


def said(*messages, key=KEY):
    """What a peer with this key sends."""

    async def run():
        below = Recorded()
        conn = PrivateConnection(below, key)
        for message in messages:
            await conn.write(message)
        return below.sent

    return trio.run(run)


def pieces_of(data, sizes):
    pieces, start = [], 0
    for size in sizes:
        pieces.append(data[start : start + size])
        start += size
    return [piece for piece in (*pieces, data[start:]) if piece]


@given(
    st.lists(st.binary(max_size=200), max_size=5),
    st.lists(st.integers(1, 40), max_size=20),
    st.integers(1, 100),
)
def test_what_is_said_is_heard_however_it_is_cut(messages, sizes, count):
    wire = said(HELLO, *messages)
    assert play(*pieces_of(wire, sizes), count=count) == HELLO + b"".join(messages)


def test_the_same_words_never_look_the_same():
    assert said(HELLO) != said(HELLO)
    assert len(said(HELLO)) == NONCE_BYTES + len(HELLO)


@given(st.binary(min_size=44, max_size=300), st.lists(st.integers(1, 40), max_size=20))
def test_whoever_has_another_key_is_noticed_at_the_first_words(data, sizes):
    with pytest.raises(OtherNetwork):
        play(*pieces_of(data, sizes))
    with pytest.raises(OtherNetwork, match="another one"):
        play(*pieces_of(said(HELLO, data, key=bytes(32)), sizes))


def test_whoever_has_no_key_is_noticed_at_the_first_words():
    with pytest.raises(OtherNetwork, match="no network key"):
        play(HELLO)
    with pytest.raises(OtherNetwork, match="no network key"):
        play(HELLO[:5], HELLO[5:9])


@pytest.mark.parametrize("count", [0, 1, 8, 23])
def test_an_end_before_anything_was_said_is_just_an_end(count):
    assert play(said(HELLO)[:count]) == b""


@pytest.mark.parametrize("count", [24, 30, 43])
def test_an_end_at_our_nonce_means_that_it_did_not_fit(count):
    with pytest.raises(OtherNetwork, match="hung up"):
        play(said(HELLO)[:count])


def test_what_came_at_once_is_taken_in_parts_and_nothing_is_taken_without_waiting():
    came = said(HELLO, b"frame")

    async def run():
        conn = PrivateConnection(Silent([came]), KEY)
        with trio.fail_after(1):
            assert await conn.read(len(HELLO)) == HELLO
            assert await conn.read(2) == b"fr"
            assert await conn.read() == b"ame"
            assert await conn.read(0) == b""

    trio.run(run)


class Silent(Recorded):
    """Says no more than it has said."""

    async def read(self, n=None):
        return await super().read(n) if self.pieces else await trio.sleep_forever()


def test_both_ciphers_are_the_same_however_the_bytes_come(monkeypatch):
    random, key, nonce = Random(5), bytes(range(32)), bytes(range(24))
    sizes = [0, 1, 63, 64, 65, 20, 128, 70_000, *(random.randrange(300) for _ in range(50))]
    pieces = [random.randbytes(size) for size in sizes]
    assert private_connection._SODIUM is not None, "PyNaCl has libsodium in it"
    ours = xsalsa20(key, nonce)
    monkeypatch.setattr(private_connection, "_SODIUM", None)
    theirs = xsalsa20(key, nonce)
    assert type(ours) is not type(theirs)
    assert [ours.encrypt(one) for one in pieces] == [theirs.encrypt(one) for one in pieces]
