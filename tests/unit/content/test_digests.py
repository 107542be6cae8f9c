"""Digests: what git itself says, and one result however the bytes come."""

from __future__ import annotations

import hashlib
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pcache.content import digests
from p2pcache.content.digests import WholeHasher, whole_digests
from p2pcache.errors import Untrusted


@pytest.mark.parametrize("content", [b"", b"hello", b"a\r\nb\r\n", b"blob 3\0abc", bytes(1 << 20)])
def test_a_git_blob_id_is_the_one_that_git_gives(content: bytes) -> None:
    done = subprocess.run(
        ["git", "hash-object", "--stdin", "--no-filters"],
        input=content, check=True, capture_output=True, timeout=30,
    )  # fmt: skip
    got = whole_digests(content)

    assert got.git_sha1 is not None
    assert got.git_sha1.hex() == done.stdout.decode().strip()
    assert got.sha256 == hashlib.sha256(content).digest()


@given(st.lists(st.binary(max_size=50), max_size=6))
def test_streaming_gives_what_one_shot_gives(parts: list[bytes]) -> None:
    whole = b"".join(parts)
    hasher = WholeHasher(len(whole), git=True)
    for i, part in enumerate(parts):
        hasher.update((bytes, bytearray, memoryview)[i % 3](part))

    assert hasher.digests() == whole_digests(whole)


def test_there_is_no_git_id_of_another_length_than_promised() -> None:
    for promised in (4, 6):
        hasher = WholeHasher(promised, git=True)
        hasher.update(b"hello")
        got = hasher.digests()
        assert (got.size, got.git_sha1) == (5, None)
        assert got.sha256 == hashlib.sha256(b"hello").digest()
    with pytest.raises(ValueError, match="length"):
        WholeHasher(None, git=True)
    assert WholeHasher(None).digests().git_sha1 is None


SHA = digests.sha256_digest(hashlib.sha256(b"hello").digest())
GIT = digests.git_sha1_digest(bytes(20))


def test_the_two_kinds_are_told_apart_and_described() -> None:
    assert digests.parse_multihash(SHA) == SHA == b"\x12\x20" + digests.raw(SHA)
    assert digests.parse_multihash(GIT) == GIT == b"\x11\x14" + digests.raw(GIT)
    assert (digests.is_sha256(SHA), digests.is_git_sha1(SHA)) == (True, False)
    assert (digests.is_sha256(GIT), digests.is_git_sha1(GIT)) == (False, True)
    assert digests.describe(SHA) == "sha256:" + hashlib.sha256(b"hello").hexdigest()
    assert digests.describe(GIT) == "git:" + "0" * 40


@given(st.binary(max_size=40) | st.binary(max_size=36).map(lambda tail: b"\x12\x20" + tail))
def test_any_other_multihash_is_untrusted(data: bytes) -> None:
    good = (data[:2], len(data)) in ((b"\x12\x20", 34), (b"\x11\x14", 22))
    if good:
        assert digests.parse_multihash(data) == data
        return
    with pytest.raises(Untrusted):
        digests.parse_multihash(data)


def test_a_digest_of_the_wrong_length_is_a_bug_of_ours() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        digests.sha256_digest(bytes(20))
    with pytest.raises(ValueError, match="20 bytes"):
        digests.git_sha1_digest(bytes(32))
