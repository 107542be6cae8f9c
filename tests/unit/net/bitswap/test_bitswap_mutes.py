"""Who is not listened to, and what reading a peer may cost."""

from __future__ import annotations

import pytest

from p2pcache.content.blocks import MAX_BLOCK_BYTES
from p2pcache.net.bitswap import wire
from p2pcache.net.bitswap.mutes import (
    FIELDS_OF_A_BLOCK,
    FIELDS_PER_S,
    MAX_MUTED,
    MAX_SAVED_FIELDS,
    Allowances,
    Mutes,
)  # fmt: skip
from p2pcache.net.bitswap.wire import Block, Message
from tests.support.members import peer

PREFIX = b"\x01\x55\x12\x20"


def test_a_mute_ends_and_too_many_end_the_oldest():
    mutes = Mutes(60.0)
    for number in range(MAX_MUTED + 1):
        mutes.mute(peer(number), 1.0)
    assert mutes.count() == MAX_MUTED
    assert not mutes.is_muted(peer(0), 2.0)
    assert mutes.is_muted(peer(1), 60.9)
    assert not mutes.is_muted(peer(1), 61.0)
    assert mutes.take_ended(60.9) == []
    assert len(mutes.take_ended(61.0)) == MAX_MUTED
    assert mutes.count() == 0


def test_a_debt_is_waited_for_and_paid_by_time():
    allowances = Allowances()
    assert allowances.spend(peer(0), int(MAX_SAVED_FIELDS), 0.0) == 0
    assert allowances.spend(peer(0), int(FIELDS_PER_S), 0.0) == pytest.approx(1.0)
    assert allowances.spend(peer(0), 0, 0.5) == pytest.approx(0.5)
    assert allowances.spend(peer(0), 0, 1.0) == 0
    assert allowances.spend(peer(1), 0, 1.0) == 0, "it is another peer's debt"


def test_no_more_is_saved_than_the_most_and_who_has_that_is_forgotten():
    allowances = Allowances()
    allowances.spend(peer(0), 1000, 0.0)
    allowances.forget_idle(0.01)
    assert allowances.spend(peer(0), 0, 1e6) == 0
    assert allowances.spend(peer(0), int(MAX_SAVED_FIELDS + FIELDS_PER_S), 1e6) == pytest.approx(1)
    allowances.forget_idle(1e6 + 5)
    assert allowances.spend(peer(0), 0, 1e6) > 0
    allowances.forget_idle(1e6 + 12)
    assert allowances.spend(peer(0), 0, 1e6 + 12) == 0


@pytest.mark.parametrize("size", [0, 100, MAX_BLOCK_BYTES])
def test_a_block_that_was_wanted_pays_for_its_own_fields(size: int):
    message = Message(blocks=(Block(PREFIX, bytes(size)),), haves=(PREFIX + bytes(32),))
    frame = wire.frame(message)
    body = frame[next(at for at, byte in enumerate(frame) if byte < 128) + 1 :]
    assert 0 < wire.parse(body).fields <= FIELDS_OF_A_BLOCK
