"""Headers from outside: what is understood, and that nonsense is nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pcache.sources import headers

NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("retry_after", "ratelimit", "wait_s"),
    [
        ("7", None, 7.0),
        (" 0 ", None, 0.0),
        ("Tue, 14 Nov 2023 22:13:50 GMT", None, 30.0),
        ("Tue, 14 Nov 2000 22:13:50 GMT", None, 0.0),  # in the past: now
        ("99999999999999999999", None, headers.MAX_RETRY_AFTER_S),
        ("-5", None, None),
        ("soon", None, None),
        ("٣", None, None),  # a digit to str.isdigit, not to HTTP
        (None, '"api";r=0;t=55', 55.0),
        (None, "t=12", 12.0),
        (None, '"api";r=0', None),
        ("3", '"api";r=0;t=55', 3.0),
        (None, None, None),
    ],
)
def test_waiting_times(
    retry_after: str | None, ratelimit: str | None, wait_s: float | None
) -> None:
    assert headers.retry_after_s(retry_after, ratelimit, now_unix_s=NOW) == wait_s


@pytest.mark.parametrize(
    ("etag", "strong"),
    [
        ('"abc-1"', "abc-1"),
        ("abc", "abc"),  # olah
        ('W/"abc"', None),
        ('""', None),
        ('"a"b"', None),
        ('"a b"', None),
        ('"' + "x" * 300 + '"', None),
        ("", None),
        (None, None),
    ],
)
def test_only_strong_etags_name_bytes(etag: str | None, strong: str | None) -> None:
    assert headers.strong_etag(etag) == strong


@pytest.mark.parametrize(
    ("content_range", "total"),
    [
        ("bytes 0-0/123", 123),
        ("bytes */0", 0),
        ("bytes 0-0/*", None),
        ("bytes 0-0/-1", None),
        ("bytes 0-0/9999999999999999999", None),
        ("items 0-0/3", None),
        ("", None),
        (None, None),
    ],
)
def test_totals(content_range: str | None, total: int | None) -> None:
    assert headers.total_bytes(content_range) == total


@given(st.text(max_size=60))
def test_no_text_breaks_a_reader(text: str) -> None:
    headers.retry_after_s(text, text, now_unix_s=NOW)
    for length in (headers.total_bytes(text), headers.length_bytes(text)):
        assert length is None or 0 <= length <= headers.MAX_BLOB_BYTES
    headers.strong_etag(text)
    headers.is_encoded(text)
