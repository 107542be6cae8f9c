"""The record of a push: text from a bucket, which anybody may have written."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pcache.content import push_record
from p2pcache.content.push_record import PushRecord, Put
from p2pcache.errors import Untrusted

RECORD = PushRecord(
    "bafyexample",
    "hf://org/model",
    {"b/ü": Put(3, bytes(32), "etag-1"), "a": Put(0, bytes(32), "")},
)


def test_what_was_written_is_read_and_the_same_record_is_the_same_bytes() -> None:
    data = RECORD.encode()
    assert push_record.parse(data) == RECORD
    turned = PushRecord(RECORD.manifest, RECORD.ref, dict(reversed(list(RECORD.files.items()))))
    assert turned.encode() == data


def changed(**fields: object) -> bytes:
    told = json.loads(RECORD.encode())
    row = {"size": 1, "sha256": "0" * 64, "version": "v"}
    for name, value in fields.items():
        if name == "path":
            told["files"] = {value: row}
        elif name in row:
            told["files"] = {"a": row | {name: value}}
        else:
            told[name] = value
    return json.dumps(told).encode()


BAD = {
    "empty": b"",
    "no JSON": b"\xff\xfe{",
    "a list": b"[]",
    "deep": b"[" * 100_000,
    "newer": changed(p2pcache=2),
    "no files": changed(files=None),
    "a list of files": changed(files=[1]),
    "up": changed(path="../x"),
    "absolute": changed(path="/x"),
    "short": changed(sha256="00"),
    "upper case": changed(sha256="A" * 64),
    "negative": changed(size=-1),
    "true": changed(size=True),
    "text for a size": changed(size="1"),
    "no version": changed(version=None),
    "ref": changed(ref=7),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_record_is_untrusted(name: str) -> None:
    with pytest.raises(Untrusted):
        push_record.parse(BAD[name])


@pytest.mark.parametrize("value", [b"{}", b"1", b'"ab"'])
def test_a_record_that_would_fill_the_memory_is_not_read(value: bytes) -> None:
    data = b'{"p2pcache":1,"manifest":"","ref":"","files":{"a":['
    data += (value + b",") * (2 << 20) + b"1]}}"
    tracemalloc.start()
    try:
        with pytest.raises(Untrusted, match="no file"):
            push_record.parse(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


def test_a_record_of_many_files_is_read() -> None:
    files = {f"{i},,": Put(0, bytes(32), "") for i in range(50_000)}
    read = push_record.parse(replace(RECORD, files=files).encode())
    assert len(read.files) == 50_000


VALUES = st.recursive(
    st.none() | st.integers() | st.text(),
    lambda one: st.lists(one) | st.dictionaries(st.text(), one),
)


def around(files: object) -> bytes:
    return json.dumps({"p2pcache": 1, "files": files, "manifest": "", "ref": ""}).encode()


@given(st.binary(max_size=200) | VALUES.map(around))
def test_whatever_comes_is_a_record_or_untrusted(data: bytes) -> None:
    try:
        push_record.parse(data)
    except Untrusted:
        return


def test_what_is_ours_is_no_content() -> None:
    assert push_record.is_ours(push_record.REF_KEY)
    assert push_record.is_ours(push_record.manifest_key("bafy"))
    assert not push_record.is_ours("a/.p2pcache/ref")
    assert not push_record.is_ours(".p2pcache-notes")
