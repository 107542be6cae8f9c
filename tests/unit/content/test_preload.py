"""Preload records: one encoding, one signer, bounds; and who is to fetch, decided by each alone."""

from __future__ import annotations

from contextlib import suppress

import libipld
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from p2pcache.content import flat
from p2pcache.content.preload import (
    MAX_LIFE_S,
    MAX_RECORD_BYTES,
    TAG,
    Cancel,
    Intent,
    is_chosen,
    may_evict,
    parse,
    parse_labels,
    parse_nodes,
    score,
    sign_cancel,
    sign_intent,
)
from p2pcache.errors import Untrusted, UsageError
from tests.support.gated import Key

SIGNER, OTHER = Key(), Key()
CID = b"\x01\x71\x12\x20" + bytes(32)


def is_cid(value: bytes) -> bool:
    """libipld writes such bytes as a link."""
    try:
        libipld.decode_cid(value)
    except ValueError:
        return False
    return True


VALUES = st.one_of(
    st.none(), st.integers(0, (1 << 64) - 1), st.text(max_size=80),
    st.binary(max_size=300).filter(lambda value: not is_cid(value)),
)  # fmt: skip
MAPS = st.dictionaries(st.text(max_size=30), VALUES, max_size=23)


def intent(**changed) -> Intent:
    fields = {
        "ref": "hf://org/name@main", "revision": "c0ffee", "manifest": CID, "nodes": "all",
        "replicas": 0, "rate_bytes_per_s": None, "issued_at": 1000, "start_at": 1000,
        "deadline_at": 2000, "expires_at": 3000, "nonce": bytes(16),
    }  # fmt: skip
    return sign_intent(SIGNER, **{**fields, **changed})


def signed_anew(record: bytes, **changed) -> bytes:
    """The same record with other fields, signed by its signer as they are."""
    values = flat.decode(record) | changed
    del values["signature"]
    return flat.encode({**values, "signature": SIGNER.sign(TAG + flat.encode(values))})


def only_untrusted(read, data: bytes) -> None:
    with suppress(Untrusted):
        read(data)


@given(MAPS)
def test_flat_maps_are_what_any_dag_cbor_codec_writes(values):
    data = flat.encode(values)
    assert data == libipld.encode_dag_cbor(values)
    assert flat.decode(data) == values


@given(st.binary(max_size=200))
@example(b"")
@example(b"\xbf")
@example(b"\xa1\x61a\x9b" + b"\xff" * 8)
@example(b"\xa1\x61a\x5b" + b"\xff" * 8)
@example(b"\x81" * 200)
@example(b"\xa1\x61a\x18\x01")  # 1, written longer than it has to be
@example(b"\xa2\x61b\x01\x61a\x01")  # out of order
@example(b"\xa2\x61a\x01\x61a\x01")  # twice
@example(b"\xa1\x61\xff\x01")
def test_only_untrusted_comes_out_of_random_bytes(data):
    only_untrusted(flat.decode, data)
    only_untrusted(parse, data)


@pytest.mark.parametrize(
    "data", [b"\xa1\x61a\x18\x01", b"\xa2\x61b\x01\x61a\x01", b"\xa2\x61a\x01\x61a\x01"]
)
def test_no_content_has_two_encodings(data):
    with pytest.raises(Untrusted, match="canonical"):
        flat.decode(data)


@given(st.data())
def test_only_untrusted_comes_out_of_damaged_records(data):
    record = bytearray(intent().record)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(record) - 1))
        record[at] = data.draw(st.integers(0, 255))
    if bytes(record) != intent().record:
        with pytest.raises(Untrusted):
            parse(bytes(record))


def test_a_record_goes_round_and_its_id_is_its_hash():
    made = intent(nodes="3", replicas=2, rate_bytes_per_s=1 << 20)
    assert parse(made.record) == made
    end = sign_cancel(SIGNER, made)
    assert parse(end.record) == end == Cancel(made.id, 3000, SIGNER.peer_id, end.record)
    assert intent(nonce=bytes(15) + b"1").id != intent().id


def test_another_may_neither_forge_nor_cancel():
    made = intent()
    with pytest.raises(Untrusted, match="signature"):
        parse(flat.encode(flat.decode(made.record) | {"signer": OTHER.peer_id}))
    with pytest.raises(Untrusted, match="signature"):
        parse(flat.encode(flat.decode(made.record) | {"nodes": "1"}))
    with pytest.raises(UsageError, match="its signer"):
        sign_cancel(OTHER, made)


@pytest.mark.parametrize(
    "changed",
    [
        {"deadline": 1000}, {"start": 999}, {"expires": 1999}, {"rate": 0}, {"rate": "1"},
        {"expires": 1000 + MAX_LIFE_S + 1}, {"nodes": "0"}, {"nodes": "some"}, {"nodes": ""},
        {"ref": ""}, {"ref": "x" * 4097}, {"ref": b"x"}, {"manifest": CID[:-1]}, {"nonce": None},
        {"replicas": 100_001}, {"issued": None}, {"kind": "wish"}, {"more": 1}, {"revision": ""},
    ],
    ids=str,
)  # fmt: skip
def test_what_is_out_of_bounds_is_refused_though_it_is_signed(changed):
    with pytest.raises(Untrusted):
        parse(signed_anew(intent().record, **changed))


def test_the_longest_record_is_within_the_bound_of_a_record():
    made = intent(ref="r" * 4096, revision="v" * 4096, nodes="k=" + "v" * 126)
    assert len(made.record) <= MAX_RECORD_BYTES
    with pytest.raises(Untrusted, match="too long"):
        parse(bytes(MAX_RECORD_BYTES + 1))


def test_nodes_are_all_a_number_or_labels():
    assert parse_nodes("all") is None
    assert parse_nodes("12") == 12
    assert parse_nodes("rack=4,gpu=h100") == (("gpu", "h100"), ("rack", "4"))
    for wrong in ("", "none", "0", "-1", "gpu", "gpu=", "=x", "9" * 30, "a=\n"):
        with pytest.raises(UsageError):
            parse_nodes(wrong)
    with pytest.raises(UsageError):
        parse_labels(",".join(f"k{n}=v" for n in range(17)))


PEERS = [bytes([n]) * 38 for n in range(40)]


@given(
    st.integers(1, 40),
    st.sets(st.sampled_from(PEERS), min_size=1),
    st.binary(min_size=16, max_size=16),
)
def test_so_many_are_chosen_by_everybody_alike(count, members, nonce):
    wish = intent(nodes=str(count), nonce=nonce)
    chosen = {peer for peer in members if is_chosen(wish, peer, members - {peer}, ())}
    assert len(chosen) == min(count, len(members))
    assert chosen == set(sorted(members, key=lambda p: score(wish.id, p))[-count:])


@given(st.integers(1, 10), st.sets(st.sampled_from(PEERS), min_size=12))
def test_who_goes_is_replaced_and_nobody_else_moves(count, members):
    wish = intent(nodes=str(count))

    def chosen(among):
        return {peer for peer in among if is_chosen(wish, peer, among - {peer}, ())}

    before = chosen(members)
    gone = min(before)
    after = chosen(members - {gone})
    assert before - {gone} <= after
    assert len(after) == count


def test_labels_choose_whoever_has_all_of_them():
    wish = intent(nodes="gpu=h100,rack=4")
    assert is_chosen(wish, PEERS[0], PEERS, parse_labels("rack=4,gpu=h100,zone=a"))
    assert not is_chosen(wish, PEERS[0], PEERS, parse_labels("gpu=h100"))


@given(st.integers(0, 6), st.sets(st.sampled_from(PEERS), min_size=1))
def test_evictions_at_the_same_moment_leave_enough_copies(replicas, holders):
    wish = intent(replicas=replicas)
    stay = {peer for peer in holders if not may_evict(wish, peer, holders - {peer})}
    assert len(stay) == min(replicas, len(holders))
