"""What users read: hosts, never paths, queries, credentials or control characters."""

from __future__ import annotations

import errno
import ssl

import pytest
import urllib3.exceptions as u3
from hypothesis import given
from hypothesis import strategies as st

from p2pcache.lanes.faults import (
    MAX_REMOTE_TEXT_CHARS,
    disk_fault,
    host_of,
    network_fault,
    plain_text,
    retry_after_s,
    status_fault,
)
from p2pcache.lanes.orders import FaultKind


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://hub.example/org/model?sig=1", "hub.example"),
        ("https://user:pw@hub.example:8443/x", "hub.example:8443"),
        ("http://[::1]:80/x", "::1:80"),
        ("http://host:port/x", "a malformed URL"),
        ("http://ho\x1bst/x", "ho st"),
        ("file:///home/me/secret", "local file"),
    ],
)
def test_only_the_host_of_a_url_is_shown(url: str, shown: str) -> None:
    assert host_of(url).startswith(shown)
    assert "\x1b" not in host_of(url)


@given(st.text(max_size=2000))
def test_remote_text_is_one_bounded_printable_line(text: str) -> None:
    shown = plain_text(text, secrets=("Bearer hf_secret",))
    assert len(shown) <= MAX_REMOTE_TEXT_CHARS
    assert shown.isprintable()


@given(st.text(max_size=50), st.text(max_size=50))
def test_a_credential_that_is_echoed_is_struck_out(before: str, after: str) -> None:
    assert "hf_secret" not in plain_text(f"{before}hf_secret{after}", ("Bearer hf_secret",))


def test_signed_urls_in_remote_text_lose_their_query() -> None:
    shown = plain_text("see https://cdn.example/f?X-Amz-Signature=abc and https://u:p@h/")
    assert shown == "see https://cdn.example/f and (URL)"


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({"Retry-After": "0"}, 0.0),
        ({"Retry-After": " 12 "}, 12.0),
        ({"Retry-After": "99999999"}, 3600.0),
        ({"Retry-After": "-5"}, None),
        ({"Retry-After": "Thu, 01 Jan 1970 00:20:00 GMT"}, 200.0),
        ({"Retry-After": "Thu, 01 Jan 1970 00:00:00 GMT"}, 0.0),
        ({"Retry-After": "Thu, 99 Foo 1970"}, None),
        ({"ratelimit": '"resolvers";r=0;t=55'}, 55.0),
        ({}, None),
    ],
)
def test_retry_after_in_all_its_forms(headers: dict[str, str], wait_s: float | None) -> None:
    assert retry_after_s(headers, now_unix_s=1000.0) == wait_s


@given(st.integers(100, 999))
def test_every_status_has_somebody_to_act(status: int) -> None:
    fault = status_fault(status, {}, "https://hub.example/f?sig=1")
    assert fault.http_status == status
    assert fault.message.startswith("hub.example ")
    assert (fault.kind is FaultKind.UNAVAILABLE) or status < 500


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_no_room_is_told_apart_from_other_disk_faults(number: int) -> None:
    assert disk_fault(OSError(number, "full"), "write").kind is FaultKind.DISK_FULL
    assert disk_fault(OSError(errno.EIO, "bad"), "write").kind is FaultKind.LOCAL


def test_our_own_shortage_of_sockets_never_blames_the_host() -> None:
    ours = ConnectionError("no socket")
    ours.__cause__ = OSError(errno.EMFILE, "Too many open files")
    assert network_fault(ours, "http://h/").kind is FaultKind.LOCAL


@pytest.mark.parametrize(
    ("exc", "kind"),
    [
        (TimeoutError("slow"), FaultKind.UNAVAILABLE),
        (ConnectionResetError(errno.ECONNRESET, "reset"), FaultKind.UNAVAILABLE),
        (u3.SSLError(ssl.SSLError("record layer failure")), FaultKind.UNAVAILABLE),
        (u3.SSLError("Fingerprints did not match. x"), FaultKind.UNTRUSTED),
        (u3.LocationParseError("http://[x"), FaultKind.UNTRUSTED),
        (u3.HTTPError("new in some version"), FaultKind.UNAVAILABLE),
    ],
)
def test_exceptions_of_the_network_blame_the_remote(exc: Exception, kind: FaultKind) -> None:
    assert network_fault(exc, "http://h/").kind is kind
