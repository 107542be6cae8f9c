"""Headers of GGUF files: what they say, and what nobody may make us do with one."""

from __future__ import annotations

import contextlib
import io
import struct
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pcache.content.gguf import Gguf, is_split_name, read_gguf
from p2pcache.errors import UsageError
from tests.support.ollama import gguf_of

GOOD = gguf_of(
    {"general.architecture": "llama", "general.file_type": 15, "tokenizer.ggml.tokens": ["a", ""]},
    {"one": (3, 5), "two": (1000,)},
)


def read(body: bytes) -> Gguf:
    return read_gguf(io.BytesIO(body), "x.gguf")


def test_a_header_says_what_the_model_is() -> None:
    header = read(GOOD)
    assert (header.architecture, header.file_type, header.parameters) == ("llama", "Q4_K_M", 1015)
    assert (header.kind, header.parts, header.parameter_size) == ("model", 1, "1K")


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0"), (999, "999"), (1000, "1K"), (1_500_000, "1.50M"), (2_000_000, "2M"),
     (6_738_415_616, "6.7B"), (7_000_000_000, "7B"), (999_999, "1000K")],
)  # fmt: skip
def test_numbers_are_as_ollama_shows_them(count: int, shown: str) -> None:
    assert Gguf({}, {}, count).parameter_size == shown


def header(tensors: int, keys: int, rest: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, keys) + rest


KEY = struct.pack("<Q", 1) + b"k"
HOSTILE = {
    "nothing": b"",
    "another file": b"PK\x03\x04" * 9,
    "big-endian": b"GGUF" + struct.pack(">IQQ", 3, 0, 0),
    "version 1": b"GGUF" + struct.pack("<IQQ", 1, 0, 0),
    "keys without end": header(0, 2**63),
    "tensors without end": header(2**40, 0),
    "many keys": header(0, 1_860_000, (KEY + bytes(5)) * 1_860_000),
    "many tensors": header(1_860_000, 0, (bytes(8) + bytes(4) + bytes(12)) * 1_860_000),
    "a long key": header(0, 1, struct.pack("<Q", 2**62)),
    "a long text": header(0, 1, KEY + struct.pack("<IQ", 8, 2**40)),
    "a long array": header(0, 1, KEY + struct.pack("<IIQ", 9, 0, 2**60)),
    "an array of arrays": header(0, 1, KEY + struct.pack("<IIQ", 9, 9, 1)),
    "an unknown type": header(0, 1, KEY + struct.pack("<I", 99)),
    "dimensions": header(1, 0, KEY + struct.pack("<I", 2**31)),
    "words of no bytes": header(0, 1, KEY + struct.pack("<IIQ", 9, 8, 7_000_000) + bytes(56 << 20)),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_header_is_refused_at_once(case: str) -> None:
    began = time.process_time()
    with pytest.raises(UsageError, match="cannot be read as a GGUF"):
        read(HOSTILE[case])
    assert time.process_time() - began < 2.0


@given(st.integers(0, len(GOOD)), st.binary(min_size=1, max_size=8))
def test_only_a_usage_error_comes_out(at: int, junk: bytes) -> None:
    for body in (GOOD[:at], GOOD[:at] + junk + GOOD[at + len(junk) :]):
        with contextlib.suppress(UsageError):
            read(body)


@pytest.mark.parametrize(
    ("path", "split"),
    [("m-00001-of-00002.gguf", True), ("a/M-00002-OF-00002.GGUF", True), ("m-1-of-2.gguf", False),
     ("m.gguf", False)],
)  # fmt: skip
def test_parts_of_a_split_file_are_known_by_their_names(path: str, split: bool) -> None:
    assert is_split_name(path) is split
