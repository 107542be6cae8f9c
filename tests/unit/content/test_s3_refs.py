"""Refs of buckets: what they mean, and that one text comes back for each."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pcache.content.names import safe_path
from p2pcache.content.refs import canonical, parse_ref
from p2pcache.content.s3_refs import S3Ref
from p2pcache.errors import Untrusted, UsageError

ACCOUNT = "0123456789abcdef" * 2


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("s3://models", S3Ref("models")),
        ("s3://models/", S3Ref("models")),
        ("S3://models/llama", S3Ref("models", "llama")),
        ("s3://models/llama/", S3Ref("models", "llama", folder=True)),
        ("s3://models/a/b.bin@3HL4kqtJvjVBH40N", S3Ref("models", "a/b.bin", "3HL4kqtJvjVBH40N")),
        ("s3://models/v@1/b.bin", S3Ref("models", "v@1/b.bin")),
        ("s3://models/v@1/", S3Ref("models", "v@1", folder=True)),
        ("s3://models/b%402x.bin", S3Ref("models", "b@2x.bin")),
        ("s3://models/100%25 sure", S3Ref("models", "100% sure")),
        ("s3://my.old_bucket/k", S3Ref("my.old_bucket", "k")),
        ("cw://models/a/b.bin", S3Ref("cw:models", "a/b.bin")),
        ("CW://models", S3Ref("cw:models")),
        (f"r2://{ACCOUNT}.models/a/", S3Ref(f"r2:{ACCOUNT}.models", "a", folder=True)),
    ],
)
def test_what_a_ref_means(text: str, ref: S3Ref) -> None:
    assert parse_ref(text) == ref
    assert parse_ref(canonical(ref)) == ref


@pytest.mark.parametrize(
    "text",
    [
        "s3:models/a", "s3://", "s3:///a", "s3://m/a", "s3://a..b/c", "s3://mod els/a", "s3://-m-/a",
        "s3://models//a", "s3://models/../a", "s3://models/a/./b", "s3://models/a//",
        "s3://models/%2e%2e/a", "s3://models/a%00b", "s3://models/a\\b", "s3://models/a@",
        "s3://models/a@v 1", "s3://models/" + "a/" * 600 + "b", "s3://user:pw@models/a",
        "cw:models/a", "cw://", "cw://m/a", "s3://cw:models/a", "cw://cw:models/a", "r2://models/a",
        "r2://account.models/a", f"r2://{ACCOUNT}/models/a", f"r2://{ACCOUNT}.MODELS/a",
    ],
)  # fmt: skip
def test_what_names_no_object_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_ref(text)


def test_a_revision_is_for_hubs() -> None:
    with pytest.raises(UsageError, match="no revisions"):
        parse_ref("s3://models/a", revision="main")


def is_safe(key: str) -> bool:
    try:
        return bool(safe_path(key)) and len(key.encode()) <= 1024
    except (Untrusted, UnicodeEncodeError):
        return False


@given(
    key=st.text(st.characters(codec="utf-8"), min_size=1, max_size=40).filter(is_safe),
    version=st.none() | st.from_regex(r"[A-Za-z0-9._-]{1,40}", fullmatch=True),
)
def test_every_key_comes_back(key: str, version: str | None) -> None:
    ref = S3Ref("models", key, version)
    assert parse_ref(canonical(ref)) == ref
