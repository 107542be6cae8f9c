"""What of a web address may be stored and shown, and until when it is signed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pcache.content.address_secrets import ended, expires_at, secret_in, without_secrets
from p2pcache.content.refs import canonical, parse_ref, shown_ref
from p2pcache.errors import UsageError

AWS = (
    "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKID%2F20260102%2Feu%2Fs3%2Faws4_request"
    "&X-Amz-Date=20260102T030405Z&X-Amz-Expires=600&X-Amz-SignedHeaders=host"
    "&X-Amz-Security-Token=s3cret&X-Amz-Signature=5ecre7"
)
SAS = "sv=2023-11-03&se=2026-01-02T03%3A14%3A05Z&sr=b&sp=r&sig=5ecre7%3D"
GOOGLE = (
    "X-Goog-Algorithm=GOOG4-RSA-SHA256&X-Goog-Credential=a%40b&X-Goog-Date=20260102T030405Z"
    "&X-Goog-Expires=600&X-Goog-SignedHeaders=host&X-Goog-Signature=5ecre7"
)
FRONT = "Expires=1767323645&Signature=5ecre7&Key-Pair-Id=APKA&Policy=p"
OLD_S3 = "AWSAccessKeyId=AKID&Signature=5ecre7&Expires=1767323645"
SWIFT = "temp_url_sig=5ecre7&temp_url_expires=1767323645&temp_url_prefix=b"
SWIFT_ISO = "temp_url_expires=2026-01-02T03:14:05Z&temp_url_sig=sha256%3A5ecre7"
UNTIL = 1767323645.0  # 2026-01-02 03:14:05 UTC


@pytest.mark.parametrize(
    ("signed", "mark"),
    [(AWS, "x-amz-signature"), (SAS, "sig"), (GOOGLE, "x-goog-signature"), (FRONT, "signature"),
     (OLD_S3, "signature"), (SWIFT, "temp_url_sig"), (SWIFT_ISO, "temp_url_sig")],
)  # fmt: skip
def test_who_signed_an_address_and_until_when_is_no_part_of_its_name(
    signed: str, mark: str
) -> None:
    url = f"https://h:9000/b/m.bin?versionId=7&{signed}"
    plain = f"https://h:9000/b/m.bin?versionId=7&{mark}=~"
    assert canonical(parse_ref(url)) == plain
    assert canonical(parse_ref(plain)) == plain
    assert secret_in(plain), "it is not for everybody"
    assert without_secrets(f"https://h/m.bin?{signed}") == f"https://h/m.bin?{mark}=~"
    assert shown_ref(url) == plain
    assert expires_at(url) == UNTIL
    assert ended(url, UNTIL - 1) is None
    assert ended(url, UNTIL) == "2026-01-02 03:14:05 UTC"


@pytest.mark.parametrize(
    "url",
    [
        "https://h/m.bin",
        "https://h/m.bin?key=a&session=2&policy=x&Expires=7&se=1&sr=c&temp_url_expires=7",
        "https://h/m.bin?a=1&&b=%20x+y;c",
        "https://h/m.bin?response-content-disposition=attachment",
    ],
)
def test_what_chooses_the_content_stays(url: str) -> None:
    assert canonical(parse_ref(url)) == url
    assert expires_at(url) is None


def test_other_secrets_leave_a_digest_so_that_two_addresses_stay_two() -> None:
    one, two = (canonical(parse_ref(f"https://h/m?id=3&api-token={word}")) for word in "ab")
    assert one != two
    assert one.startswith("https://h/m?id=3&api-token=~")
    assert canonical(parse_ref(one)) == one
    assert "5ecre7" not in canonical(parse_ref("https://h/m?sig=5ecre7"))


@pytest.mark.parametrize(
    "said",
    ["X-Amz-Date=x&X-Amz-Expires=9", "X-Amz-Date=20260102T030405Z&X-Amz-Expires=9e9",
     "sig=a&se=later", "temp_url_sig=a&temp_url_expires=soon", "Signature=a&Expires=soon",
     f"Signature=a&Expires={'9' * 40}"],
)  # fmt: skip
def test_a_time_that_is_none_says_nothing(said: str) -> None:
    assert expires_at(f"https://h/m?{said}") is None
    assert ended(f"https://h/m?{said}", 1e12) is None


@pytest.mark.parametrize(
    "text",
    ["https://u:5ecre7@h/m", "https://5ecre7@h/m?x=1", "https://h:x/m?Signature=5ecre7",
     "https://u:5ecre7@h:x/m", "https://h/m?sig=5ecre7#part", "http://[::5ecre7@"],
)  # fmt: skip
def test_an_address_that_is_refused_is_not_quoted_with_its_secret(text: str) -> None:
    with pytest.raises(UsageError) as seen:
        parse_ref(text)
    assert "5ecre7" not in f"{seen.value.message} {seen.value.hint}"


@given(st.text(max_size=200))
def test_whatever_a_query_is_it_is_made_plain_once(query: str) -> None:
    try:
        once = without_secrets(f"https://h/m?{query}")
    except ValueError:
        return
    assert without_secrets(once) == once
    expires_at(once)
