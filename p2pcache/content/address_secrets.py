"""Web addresses that open what they lead to: those are for who was given them. Pure.

A presigned address is the plain one and fields that say who may read it, and until when: S3's and
Google's (AWS Signature 4, and their older forms), CloudFront's, Azure's shared access signatures,
Swift's temporary URLs.
"""

from __future__ import annotations

import datetime
import hashlib
import re
from urllib.parse import parse_qsl, unquote_plus, urlsplit

_SECRET_WORDS = frozenset(  # in the names of a query's fields: presigned addresses, keys, tokens
    ("signature", "sig", "credential", "token", "accesstoken", "key", "apikey", "secret",
     "password", "passwd", "pwd", "pass", "auth", "authorization", "jwt", "session", "policy")
)  # fmt: skip


def secret_in(url: str) -> str | None:
    """What of a web address looks like a secret, for people, without its value; None: nothing."""
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None:
        return "a user name or password"
    for name, _ in parse_qsl(parts.query.replace(";", "&"), keep_blank_values=True):
        words = set(re.split(r"[^a-z0-9]+", name.lower()))
        if words & _SECRET_WORDS:
            return f"`{name[:40]}` in its query"
    return None


# What a signature is made of, by the fields without which there is none; in lower case. Whatever
# else a query says (a version, a name to save it under) chooses the content, and stays.
_SCHEMES: tuple[tuple[str, set[str], frozenset[str]], ...] = (
    ("x-amz-signature", {"x-amz-signature"}, frozenset(
        ("x-amz-algorithm", "x-amz-credential", "x-amz-date", "x-amz-expires", "x-amz-signature",
         "x-amz-signedheaders", "x-amz-security-token", "x-amz-content-sha256", "x-id")
    )),
    ("x-goog-signature", {"x-goog-signature"}, frozenset(
        ("x-goog-algorithm", "x-goog-credential", "x-goog-date", "x-goog-expires",
         "x-goog-signature", "x-goog-signedheaders")
    )),
    ("sig", {"sig", "sv"}, frozenset(
        ("sv", "ss", "srt", "sr", "sp", "st", "se", "spr", "sip", "si", "sig", "skoid", "sktid",
         "skt", "ske", "sks", "skv", "saoid", "suoid", "scid", "sdd", "ses")
    )),
    ("signature", {"signature"}, frozenset(
        ("awsaccesskeyid", "googleaccessid", "key-pair-id", "policy", "signature", "expires",
         "x-amz-security-token")
    )),
    ("temp_url_sig", {"temp_url_sig"}, frozenset(
        ("temp_url_sig", "temp_url_expires", "temp_url_prefix", "temp_url_ip_range")
    )),
)  # fmt: skip
_PLAIN_SECRETS = _SECRET_WORDS - {"key", "session", "policy", "credential"}  # those may be names
_MASKED = re.compile(r"~([0-9a-f]{12})?")


def without_secrets(url: str) -> str:
    """The address that may be stored and shown: without what signs it, but for a mark that it was
    signed, so that it stays known for one that is not for everybody. Of any other field that is
    called like a secret a digest of its value is left: two addresses stay two. Idempotent.
    """
    parts = urlsplit(url)
    if not parts.query:
        return url
    fields = [(field, unquote_plus(field.partition("=")[0]).lower())
              for field in parts.query.split("&")]  # fmt: skip
    signed = {name for _, name in fields}
    schemes = [(first, made) for first, marks, made in _SCHEMES if signed >= marks]
    dropped = frozenset().union(*(made for _, made in schemes))
    kept = [_masked(field, name) for field, name in fields if name not in dropped]
    kept += [f"{first}=~" for first, _ in schemes[:1]]
    if kept == [field for field, _ in fields]:
        return url
    return parts._replace(query="&".join(kept)).geturl()


def plain_key(key: str) -> str:
    """A source's key of a file, as it may be stored: an address without its secrets."""
    return without_secrets(key) if key.startswith(("http:", "https:")) else key


def _masked(field: str, name: str) -> str:
    shown, equals, value = field.partition("=")
    words = set(re.split(r"[^a-z0-9]+", name))
    if not words & _PLAIN_SECRETS or not value or _MASKED.fullmatch(value):
        return field
    return f"{shown}{equals}~{hashlib.sha256(value.encode()).hexdigest()[:12]}"


def expires_at(url: str) -> float | None:
    """Until when (unix seconds) an address says that it is signed; None: it says nothing of it."""
    said: dict[str, str] = {}
    for name, value in parse_qsl(urlsplit(url).query, keep_blank_values=True):
        said.setdefault(name.lower(), value)
    for kind in ("amz", "goog"):
        since, for_s = said.get(f"x-{kind}-date", ""), said.get(f"x-{kind}-expires", "")
        began = _moment(since)
        if began is not None and re.fullmatch(r"\d{1,9}", for_s):
            return began + int(for_s)
    if "sig" in said:
        return _moment(said.get("se", ""))
    for mark, field in (("signature", "expires"), ("temp_url_sig", "temp_url_expires")):
        until = said.get(field, "")
        if mark in said and re.fullmatch(r"\d{1,11}", until):
            return float(until)
    return _moment(said.get("temp_url_expires", "")) if "temp_url_sig" in said else None


def ended(url: str, now_unix_s: float) -> str | None:
    """When the signature of an address ended, for people; None: it says no such thing."""
    until = expires_at(url)
    if until is None or until > now_unix_s:
        return None
    moment = datetime.datetime.fromtimestamp(until, datetime.UTC)
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")


def _moment(text: str) -> float | None:
    """`20260102T030405Z`, or ISO 8601 as Azure writes it."""
    try:
        moment = datetime.datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=datetime.UTC)
        return moment.timestamp()
    except (ValueError, OverflowError):
        return None
