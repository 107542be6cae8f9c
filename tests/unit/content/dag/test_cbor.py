"""dag-cbor and dag-json with their links: there and back, and nothing malformed."""

from __future__ import annotations

import contextlib
import hashlib
import json

import libipld
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from p2pcache.content import cid as cids
from p2pcache.content.dag import cbor, djson
from p2pcache.content.dag.cbor import CidLink
from p2pcache.content.dag.links import links
from p2pcache.errors import Untrusted

SHA = hashlib.sha256(b"x").digest()
LINK = CidLink(cids.raw_cid(SHA))
LINKS = [LINK, CidLink(b"\x12\x20" + SHA), CidLink(cids.dagcbor_cid(SHA))]

plain = st.none() | st.booleans() | st.integers(-(2**64), 2**64 - 1) | st.text(max_size=8)
plain |= st.floats(allow_nan=False, allow_infinity=False) | st.binary(max_size=8)
values = st.recursive(
    plain | st.sampled_from(LINKS),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=4).filter("/".__ne__), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(values)
def test_a_value_comes_back_from_both_encodings(value: cbor.Value) -> None:
    assert cbor.decode(cbor.encode(value)) == value
    if not _has_float(value):  # 1.0 may come back as 1
        assert djson.decode(djson.encode(value)) == value


def _has_float(value: cbor.Value) -> bool:
    if isinstance(value, list):
        return any(map(_has_float, value))
    if isinstance(value, dict):
        return any(map(_has_float, value.values()))
    return isinstance(value, float)


# Not bytes, of which it makes links where they look like a CID, nor -0.0, of which it makes 0.0.
comparable = plain.filter(lambda one: not isinstance(one, bytes) and str(one) != "-0.0")


@given(st.dictionaries(st.text(max_size=4), comparable))
def test_libipld_writes_the_same_bytes(value: dict) -> None:
    assert cbor.encode(value) == libipld.encode_dag_cbor(value)


def test_links_are_told_from_bytes_and_stand_in_order() -> None:
    value = {"b": [LINKS[0].cid, LINKS[1]], "a": {"c": LINKS[2]}, "d": LINKS[0]}
    block = cbor.encode(value)
    cid = cids.dagcbor_cid(hashlib.sha256(block).digest())
    order = [LINKS[2].cid, LINKS[1].cid, LINKS[0].cid]  # keys are sorted
    assert links(cid, block) == order
    block = djson.encode(value)
    assert links(cids.make_cid(cids.DAG_JSON, cid[2:]), block) == order
    assert links(cids.raw_cid(SHA), block) == []
    with pytest.raises(Untrusted, match="0x78"):
        links(cids.make_cid(cids.GIT_RAW, cid[2:]), b"")


BROKEN_CBOR = {
    "nothing": b"",
    "two values": b"\x01\x01",
    "deep": b"\x81" * 1000 + b"\x01",
    "a list of 2^63": b"\x9b\x7f" + b"\xff" * 7,
    "a map of 2^32": b"\xba\xff\xff\xff\xff",
    "bytes of 2^63": b"\x5b\x7f" + b"\xff" * 7,
    "many values": b"\x9a\0\x20\0\0" + b"\xf6" * (1 << 21),
    "no definite length": b"\x9f\x01\xff",
    "a spare byte": b"\x18\x01",
    "two spare": b"\x19\0\xff",
    "another tag": b"\xc1\x01",
    "another tag of a link": b"\xd8\x2b\x58\x25\0" + LINK.cid,
    "a link with another prefix": b"\xd8\x2a\x58\x25\x01" + LINK.cid,
    "a tag of text": b"\xd8\x2a\x61x",
    "no multibase": b"\xd8\x2a\x42\x01x",
    "a link that is no CID": b"\xd8\x2a\x43\0\x01x",
    "a key twice": b"\xa2\x61a\x01\x61a\x02",
    "a key that is a number": b"\xa1\x01\x01",
    "no UTF-8": b"\x61\xff",
    "NaN": b"\xf9\x7e\0",
    "infinity": b"\xfb\x7f\xf0" + bytes(6),
    "undefined": b"\xf7",
    "cut": b"\x82\x01",
    "head": b"\xd8",
}


@pytest.mark.parametrize("name", BROKEN_CBOR)
def test_dag_cbor_that_nobody_may_write_is_refused(name: str) -> None:
    with pytest.raises(Untrusted):
        cbor.decode(BROKEN_CBOR[name])


BROKEN_JSON = {
    "deeper than dag-cbor": b"[" * 200 + b"]" * 200,
    "beyond floats": b"1e999",
    "half a surrogate pair": rb'["\ud800"]',
    "half a pair in a key": rb'{"\udc00":1}',
    "UTF-16": '["x"]'.encode("utf-16"),
    "nothing": b"",
    "deep": b"[" * 100_000,
    "NaN": b"NaN",
    "infinity": b"[-Infinity]",
    "a huge number": b"9" * 5000,
    "65 bits": b"18446744073709551616",
    "a key twice": b'{"a":1,"a":2}',
    "no CID": b'{"/":"x"}',
    "more than a link": b'{"/":"bafkqaaa","b":1}',
    "no base64": b'{"/":{"bytes":"!"}}',
    "an odd slash": b'{"/":1}',
    "bytes of a number": b'{"/":{"bytes":1}}',
    "no UTF-8": b'"\xff"',
    "one sixth of a byte": b'{"/":{"bytes":"A"}}',
    "many values": b"[" + b"1," * (1 << 20) + b"1]",
}


@pytest.mark.parametrize("name", BROKEN_JSON)
def test_dag_json_that_nobody_may_write_is_refused(name: str) -> None:
    with pytest.raises(Untrusted):
        djson.decode(BROKEN_JSON[name])


@given(st.binary(max_size=60))
@example(b"\xd8\x2a\x5b\x7f" + b"\xff" * 7)
def test_only_untrusted_comes_out_of_noise(block: bytes) -> None:
    for decode in (cbor.decode, djson.decode):
        with contextlib.suppress(Untrusted):
            decode(block)


@given(values, st.data())
def test_only_untrusted_comes_out_of_damage(value: cbor.Value, data: st.DataObject) -> None:
    for encode, decode in ((cbor.encode, cbor.decode), (djson.encode, djson.decode)):
        block = bytearray(encode(value))
        block[data.draw(st.integers(0, len(block) - 1))] = data.draw(st.integers(0, 255))
        with contextlib.suppress(Untrusted):
            decode(bytes(block))


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_what_an_encoding_has_no_number_for_is_not_written(number: float) -> None:
    for encode in (cbor.encode, djson.encode):
        with pytest.raises(ValueError, match="no such number"):
            encode([number])


@given(values.filter(lambda value: not _has_float(value)))
def test_dag_json_is_what_json_writes(value: cbor.Value) -> None:
    plain = json.loads(djson.encode(value))
    written = json.dumps(plain, ensure_ascii=False, separators=(",", ":"))
    assert djson.encode(value) == written.encode()
