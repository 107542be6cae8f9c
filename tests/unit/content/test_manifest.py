"""Manifests: one encoding a content, and nothing but Untrusted for whatever else comes."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import struct
import time
import tracemalloc

import libipld
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pcache.content import digests, manifest
from p2pcache.content.cid import format_cid
from p2pcache.content.manifest import MAX_FILE_BYTES, MAX_FILES, FileEntry, Manifest, parse
from p2pcache.errors import Untrusted

SHA = digests.sha256_digest(hashlib.sha256(b"hello").digest())
GIT = digests.git_sha1_digest(bytes(range(20)))


# CBOR by hand (RFC 8949), so that no encoder of ours or of libipld vouches for itself.
def head(major: int, value: int) -> bytes:
    if value < 24:
        return bytes([major << 5 | value])
    for info, form in ((24, ">B"), (25, ">H"), (26, ">I"), (27, ">Q")):
        if value < 1 << 8 * struct.calcsize(form):
            return bytes([major << 5 | info]) + struct.pack(form, value)
    raise ValueError(value)


def text(value: str) -> bytes:
    return head(3, len(value.encode())) + value.encode()


def blob(value: bytes) -> bytes:
    return head(2, len(value)) + value


def row(path: str = "a", size: bytes = b"\x05", digest: bytes | None = None) -> bytes:
    """Keys in the order of DAG-CBOR: shorter first, then by bytes."""
    digest = blob(SHA) if digest is None else digest
    return head(5, 3) + text("path") + text(path) + text("size") + size + text("digest") + digest


def document(*rows: bytes, version: bytes = b"\x01", tail: bytes = b"") -> bytes:
    files = head(4, len(rows)) + b"".join(rows)
    return head(5, 2) + text("files") + files + text("version") + version + tail


def test_the_encoding_is_the_one_made_by_hand() -> None:
    made = Manifest.from_entries([FileEntry("b/é", 1 << 33, GIT), FileEntry("a", 300, SHA)])

    by_hand = document(row("a", b"\x19\x01\x2c"), row("b/é", b"\x1b\0\0\0\x02\0\0\0\0", blob(GIT)))
    assert made.encode() == by_hand
    assert made.cid() == bytes([1, 0x71, 0x12, 32]) + hashlib.sha256(by_hand).digest()
    assert parse(by_hand) == made


def test_the_cid_of_a_manifest_never_changes() -> None:
    """The literals are what swarms are named by: a change here splits them."""
    one = Manifest.from_entries([FileEntry("config.json", 5, SHA)])

    assert one.encode() == bytes.fromhex(
        "a2" "6566696c6573" "81" "a3" "6470617468" "6b636f6e6669672e6a736f6e" "6473697a65" "05"
        "66646967657374" "5822" "1220"
        "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
        "6776657273696f6e" "01"
    )  # fmt: skip
    assert format_cid(one.cid()) == "bafyreifr6bjypblhholnnst3f63jk2kndy76awjjho33zf6fr2q45aq4ee"
    assert (
        format_cid(Manifest.from_entries([]).cid())
        == "bafyreiewxfrxh7fjfn2yvbz4jd6xrwwratdhkjhskx3zfr4ueqzzl7u62u"
    )


REFUSED_PATHS = [
    "", ".", "..", "../a", "a/../b", "/a", "C:/a", "C:a", "a/C:b", "a\\b", "a\0b", "a\nb", "a//b",
    "a/", "n" * 256, "n/" * 2048 + "n",
]  # fmt: skip


@pytest.mark.parametrize("path", REFUSED_PATHS, ids=lambda path: ascii(path[:20]))
def test_a_bad_path_is_refused_from_bytes_and_from_listings(path: str) -> None:
    with pytest.raises(Untrusted, match="refused"):
        parse(document(row(path)))
    with pytest.raises(Untrusted, match="refused"):
        Manifest.from_entries([FileEntry(path, 5, SHA)])


def test_a_path_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(Untrusted):
        parse(document(row("a").replace(text("path") + b"\x61a", text("path") + b"\x61\xff")))
    with pytest.raises(Untrusted):
        Manifest.from_entries([FileEntry("a\ud800", 5, SHA)])


GOOD = document(row("a"), row("b"))
ONE = document(row())
INDEFINITE = head(5, 2) + text("files") + b"\x9f" + row() + b"\xff" + text("version") + b"\x01"
REFUSED = {
    # what it is made of
    "nothing": b"",
    "one byte": b"\xa2",
    "a list": head(4, 1) + GOOD,
    "not CBOR": b"\xa2\xff\xff",
    "cut short": GOOD[:-1],
    "a trailing byte": GOOD + b"\0",
    "two documents": GOOD + GOOD,
    "version 2": document(version=b"\x02"),
    "version 0": document(version=b"\0"),
    "version true": document(version=b"\xf5"),
    "version 1.0": document(version=b"\xfb" + struct.pack(">d", 1.0)),
    "version as text": document(version=text("1")),
    "version null": document(version=b"\xf6"),
    "no version": head(5, 1) + text("files") + b"\x80",
    "one more field": head(5, 3) + text("a") + b"\x01" + ONE[1:],
    "another field instead": ONE.replace(b"version", b"variant"),
    "files as a map": head(5, 2) + text("files") + b"\xa0" + text("version") + b"\x01",
    "files as text": head(5, 2) + text("files") + text("x") + text("version") + b"\x01",
    "files null": head(5, 2) + text("files") + b"\xf6" + text("version") + b"\x01",
    # rows
    "a row as a list": document(head(4, 3) + text("a") + b"\x05" + blob(SHA)),
    "a row as a number": document(b"\x01"),
    "a row with less": document(head(5, 2) + text("path") + text("a") + text("size") + b"\x05"),
    "a row with more": document(head(5, 4) + text("x") + b"\x01" + row()[1:]),
    "a row with another field": document(row().replace(b"size", b"sise")),
    "a path as bytes": document(row().replace(text("a"), blob(b"a"), 1)),
    "a size as true": document(row(size=b"\xf5")),
    "a size as text": document(row(size=text("5"))),
    "a size as null": document(row(size=b"\xf6")),
    "a size as a float": document(row(size=b"\xfb" + struct.pack(">d", 5.0))),
    "a size below zero": document(row(size=b"\x20")),
    "a size over the limit": document(row(size=head(0, MAX_FILE_BYTES + 1))),
    "a size of 64 bits": document(row(size=head(0, 2**64 - 1))),
    "a size of a bignum": document(row(size=b"\xc2" + blob(b"\x05"))),
    "a digest as text": document(row(digest=text("d" * 34))),
    "a digest as a CID": document(row(digest=b"\xd8\x2a" + blob(b"\0\x01\x55" + SHA))),
    "a digest as a link to a CIDv0": document(row(digest=b"\xd8\x2a" + blob(b"\0" + SHA))),
    "a digest of nothing": document(row(digest=blob(b""))),
    "a digest cut short": document(row(digest=blob(SHA[:-1]))),
    "a digest too long": document(row(digest=blob(SHA + b"\0"))),
    "a digest that is raw": document(row(digest=blob(SHA[2:]))),
    "a digest of another function": document(row(digest=blob(b"\x13" + SHA[1:]))),
    "an identity digest": document(row(digest=blob(b"\0\x02hi"))),
    # files against each other
    "the same path twice": document(row("a"), row("a")),
    "a file that is also a folder": document(row("a"), row("a/b")),
    "a file far below a file": document(row("a"), row("a-"), row("a/b/c/d")),
    "unsorted": document(row("b"), row("a")),
    "sorted as UTF-16": document(row("🎉"), row("\uff5e")),
    # one content has one encoding
    "keys unsorted": head(5, 2) + text("version") + b"\x01" + text("files") + b"\x80",
    "keys of a row unsorted": document(
        head(5, 3) + text("digest") + blob(SHA) + text("path") + text("a") + text("size") + b"\x05"
    ),
    "a key twice": head(5, 2) + (text("files") + b"\x80") * 2 + text("version") + b"\x01",
    "a key of a row twice": document(row().replace(text("size"), text("path") + text("a"), 1)),
    "a number longer than needed": document(row(size=b"\x18\x05")),
    "a number of 16 bits longer than needed": document(row(size=b"\x19\0\xff")),
    "a number of 32 bits longer than needed": document(row(size=b"\x1a\0\0\xff\xff")),
    "a number of 64 bits longer than needed": document(row(size=b"\x1b\0\0\0\0" + b"\xff" * 4)),
    "a version longer than needed": document(version=b"\x18\x01"),
    "a length longer than needed": document(row().replace(text("a"), b"\x78\x01a", 1)),
    "a count longer than needed": head(5, 2) + text("files") + b"\x98\x01" + row() + ONE[-9:],
    "a map head longer than needed": b"\xb8\x02" + ONE[1:],
    "an indefinite map": b"\xbf" + ONE[1:] + b"\xff",
    "an indefinite list": INDEFINITE,
    "an indefinite text": document(row().replace(text("a"), b"\x7f\x61a\xff", 1)),
    "an indefinite row": document(b"\xbf" + row()[1:] + b"\xff"),
    "a tag around it": b"\xd9\xd9\xf7" + GOOD,
    "a tag inside": document(row(size=b"\xc1\x05")),
    "undefined": document(row(size=b"\xf7")),
    "deeply nested": head(5, 2) + text("files") + b"\x81" * 200_000 + b"\x80" + ONE[-9:],
    # what would be large if it were believed
    "a count of a billion": head(5, 2) + text("files") + head(4, 10**9) + row(),
    "a count of 2 to the 63": head(5, 2) + text("files") + head(4, 1 << 63) + row(),
    "a text of 4 GiB": head(5, 2) + text("files") + head(4, 1) + head(5, 3) + head(3, 1 << 32),
    "a digest of 2 to the 63": document(row(digest=head(2, 1 << 63))),
    "a map of a billion": head(5, 10**9) + text("files"),
}  # fmt: skip


def test_the_examples_that_the_refused_ones_are_made_of_are_accepted() -> None:
    assert [f.path for f in parse(GOOD).files] == ["a", "b"]
    assert parse(ONE).files == (FileEntry("a", 5, SHA),)
    assert ONE.endswith(text("version") + b"\x01")
    assert len(text("version") + b"\x01") == 9
    assert parse(document(row(size=head(0, MAX_FILE_BYTES)))).total_bytes == MAX_FILE_BYTES
    assert len(parse(document(row("\uff5e"), row("🎉"))).files) == 2
    for size in (23, 24, 255, 256, 65535, 65536, 2**32 - 1, 2**32):  # where the head grows
        assert parse(document(row(size=head(0, size)))).total_bytes == size


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_a_canonical_manifest_is_refused(name: str) -> None:
    with pytest.raises(Untrusted):
        parse(REFUSED[name])


@pytest.mark.parametrize("size", [-1, MAX_FILE_BYTES + 1])
def test_a_size_out_of_range_is_refused_from_a_listing(size: int) -> None:
    with pytest.raises(Untrusted, match="cannot have"):
        Manifest.from_entries([FileEntry("a", size, SHA)])


def test_files_that_clash_are_named_from_a_listing() -> None:
    with pytest.raises(Untrusted, match="`a` is listed twice"):
        Manifest.from_entries([FileEntry("a", 5, SHA), FileEntry("a", 6, SHA)])
    with pytest.raises(Untrusted, match="`a/b` is listed as a file and as a folder"):
        Manifest.from_entries([FileEntry("a/b/c/d", 5, SHA), FileEntry("a/b", 6, SHA)])


def peak_bytes_of_refusing(data: bytes, why: str) -> int:
    tracemalloc.start()
    try:
        with pytest.raises(Untrusted, match=why):
            parse(data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_too_many_bytes_are_refused_before_anything_is_allocated() -> None:
    data = GOOD + bytes(manifest.MAX_MANIFEST_BYTES)

    assert peak_bytes_of_refusing(data, "over the limit") < 1 << 16


def test_too_many_files_are_refused_before_anything_is_allocated() -> None:
    rows = head(4, MAX_FILES + 1) + b"\xa0" * (MAX_FILES + 1)
    data = head(5, 2) + text("files") + rows + text("version") + b"\x01"

    assert peak_bytes_of_refusing(data, "too many") < 1 << 16


HALF_A_MILLION = 1 << 19
NESTED = b"\x81" * HALF_A_MILLION
HOSTILE = {
    "nested lists for files": head(4, 1) + NESTED,
    "nested lists for the count of rows": head(4, MAX_FILES) + NESTED,
    "empty maps for rows": head(4, HALF_A_MILLION) + b"\xa0" * HALF_A_MILLION,
    "empty lists for rows": head(4, HALF_A_MILLION) + b"\x80" * HALF_A_MILLION,
    "empty maps in one row": head(4, 1) + head(4, HALF_A_MILLION) + b"\xa0" * HALF_A_MILLION,
    "numbers in one row": head(4, 1) + head(4, HALF_A_MILLION) + b"\0" * HALF_A_MILLION,
    "nested lists for a path": head(4, 1) + b"\xa3\x64path" + NESTED,
    "nested lists for a size": head(4, 1) + row(size=NESTED),
    "nested lists for a digest": head(4, 1) + row(digest=NESTED),
    "nested maps for a row": head(4, 1) + b"\xa1\x60" * HALF_A_MILLION,
    "tags without end": head(4, 1) + b"\xc1" * HALF_A_MILLION,
    "chunks of an indefinite text": head(4, 1) + b"\xa3\x64path\x7f" + b"\x60" * HALF_A_MILLION,
    "a path of half a megabyte": head(4, 1) + row("n" * HALF_A_MILLION),
    "a digest of half a megabyte": head(4, 1) + row(digest=blob(bytes(HALF_A_MILLION))),
    "one row many times": head(4, 10_000) + row() * 10_000,
    "ten million rows claimed": head(4, 10_000_000) + row() * 10_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_would_be_large_is_refused_before_it_is_built(name: str) -> None:
    """A decoder that builds first took 70 times the bytes it was sent."""
    data = head(5, 2) + text("files") + HOSTILE[name] + text("version") + b"\x01"
    began = time.process_time()

    assert peak_bytes_of_refusing(data, "manifest|refused|listed twice") < 1 << 14
    assert time.process_time() - began < 0.2  # under 1 ms here


def test_ten_million_files_are_refused_at_once_with_as_many_sent_as_the_limit_lets_in() -> None:
    rows = row() * (manifest.MAX_MANIFEST_BYTES // len(row()) - 1)
    data = head(5, 2) + text("files") + head(4, 10**7) + rows
    assert len(data) <= manifest.MAX_MANIFEST_BYTES
    began = time.process_time()

    assert peak_bytes_of_refusing(data, "too many") < 1 << 14
    assert time.process_time() - began < 0.2  # under 1 ms here


@pytest.mark.parametrize(
    ("name", "digest"), [("%06d", GIT), ("%06d/" + "n/" * 1500 + "\U0001f389", SHA)],
    ids=["the shortest rows", "letters of four bytes"],
)  # fmt: skip
def test_a_manifest_costs_a_small_multiple_of_its_bytes(name: str, digest: bytes) -> None:
    count = 500_000 // len(name + "d" * 30)
    data = document(*(row(name % i, digest=blob(digest)) for i in range(count)))
    tracemalloc.start()
    try:
        files = parse(data).files
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert len(files) == count
    assert peak_bytes < 5 * len(data)


def test_a_fault_after_many_rows_costs_no_more_than_the_rows() -> None:
    rows = [row(f"{i:06}") for i in range(20_000)]
    data = document(*rows, row("0"))

    assert peak_bytes_of_refusing(data, "unsorted") < 5 * len(data)


def test_a_newer_version_is_said_to_be_newer() -> None:
    with pytest.raises(Untrusted, match="version 2 is newer"):
        parse(document(row("a"), version=b"\x02"))


def test_a_listing_without_end_is_refused_at_the_limit() -> None:
    with pytest.raises(Untrusted, match="too many"):
        Manifest.from_entries(itertools.repeat(FileEntry("a", 5, SHA)))


def test_deep_paths_cost_what_their_length_costs() -> None:
    """Looking up each folder of each path took 3 s for these."""
    deep = "/".join(["d"] * 1500)
    began = time.process_time()
    made = Manifest.from_entries(FileEntry(f"{deep}/{i}", 5, SHA) for i in range(1000))
    parse(made.encode())

    assert time.process_time() - began < 1.5  # 0.5 s here


def many(count: int) -> Manifest:
    return Manifest.from_entries(
        FileEntry(f"data/part-{i:06d}.parquet", i, digests.sha256_digest(b"%032d" % i))
        for i in range(count)
    )


def test_five_thousand_files_are_read_and_written_in_no_time() -> None:
    began = time.process_time()
    made = many(5000)
    again = parse(made.encode())

    assert time.process_time() - began < 1.0  # 30 ms here; quadratic work would take minutes
    assert again == made
    assert again.cid() == made.cid()
    assert len(made.encode()) < 5000 * 100


paths = st.text(
    st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp"), exclude_characters="\\/:."),
    min_size=1, max_size=20,
)  # fmt: skip
entries = st.builds(
    FileEntry,
    st.lists(paths, min_size=1, max_size=3).map("/".join),
    st.integers(0, MAX_FILE_BYTES),
    st.one_of(
        st.binary(min_size=32, max_size=32).map(digests.sha256_digest),
        st.binary(min_size=20, max_size=20).map(digests.git_sha1_digest),
    ),
)


@given(st.lists(entries, max_size=8), st.randoms())
def test_whatever_is_accepted_comes_back_equal_in_any_order(files, chance) -> None:
    try:
        made = Manifest.from_entries(files)
    except Untrusted:
        return  # two of them clash
    shuffled = list(files)
    chance.shuffle(shuffled)

    read = parse(made.encode())
    assert read == made
    assert Manifest.from_entries(read.files).encode() == read.encode()
    assert Manifest.from_entries(shuffled).cid() == made.cid()
    assert [f.path.encode() for f in made.files] == sorted(f.path.encode() for f in files)
    assert made.total_bytes == sum(f.size for f in files)


@given(st.lists(st.lists(st.sampled_from(["a", "b", "a-", "a.", "-"]), min_size=1, max_size=4)))
def test_a_file_above_another_is_always_found(listed: list[list[str]]) -> None:
    paths = {"/".join(parts) for parts in listed}
    clash = any(other.startswith(path + "/") for path in paths for other in paths)
    found = False
    try:
        Manifest.from_entries(FileEntry(path, 5, SHA) for path in paths)
    except Untrusted:
        found = True
    data = document(*map(row, sorted(paths)))
    with pytest.raises(Untrusted) if clash else contextlib.nullcontext():
        parse(data)

    assert found == clash


def with_a_general_decoder(data: bytes) -> Manifest | None:
    """What the bytes say, if encoding it gives the bytes again: the slow way to be canonical."""
    try:
        value = libipld.decode_dag_cbor(data)
        made = Manifest.from_entries(
            FileEntry(file["path"], file["size"], file["digest"]) for file in value["files"]
        )
    except (ValueError, TypeError, KeyError, AttributeError, Untrusted):
        return None
    return made if made.encode() == data else None


def accepted_only_if_canonical(data: bytes) -> None:
    try:
        read = parse(data)
    except Untrusted:
        read = None

    assert read == with_a_general_decoder(data)
    if read is not None:
        assert read.encode() == data


@given(st.binary(max_size=200), st.booleans())
def test_random_bytes_are_untrusted_and_nothing_else(data: bytes, begun: bool) -> None:
    accepted_only_if_canonical(GOOD[:8] + data if begun else data)


@given(st.data())
def test_mutated_manifests_are_untrusted_or_canonical(data) -> None:
    body = bytearray(many(3).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body) - 1))
        body[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    accepted_only_if_canonical(bytes(body))


@given(st.data())
def test_a_cut_or_doubled_manifest_is_untrusted(data) -> None:
    body = many(3).encode()
    at = data.draw(st.integers(0, len(body) - 1))
    for other in (body[:at], body + body[at:], body[:at] + body, body[at:]):
        if other != body:
            with pytest.raises(Untrusted):
                parse(other)


@given(st.lists(st.sampled_from([
    b"\xa2\x65files", b"\x80", b"\x81", b"\x82", b"\x98\x01", b"\xa3\x64path", b"\x61a", b"\x61b",
    b"\x78\x01c", b"\x64size", b"\x05", b"\x18\x05", b"\x18\x18", b"\x19\x01\0", b"\x66digest",
    blob(SHA), blob(GIT), b"\x67version", b"\x01", b"\x02", row("a"), row("b"),
]), max_size=12).map(b"".join))  # fmt: skip
def test_the_right_parts_in_any_order_are_untrusted_or_canonical(data: bytes) -> None:
    accepted_only_if_canonical(data)
    accepted_only_if_canonical(GOOD[:7] + data + GOOD[-9:])


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64) | st.text() | st.binary()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(st.fixed_dictionaries({"version": values | st.just(1), "files": values | st.lists(values)}))
def test_any_other_values_in_the_same_frame_are_untrusted(value) -> None:
    try:
        data = libipld.encode_dag_cbor(value)
    except (ValueError, OverflowError):
        return  # CBOR has no such number
    accepted_only_if_canonical(data)
