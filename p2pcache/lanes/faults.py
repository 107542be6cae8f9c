"""Who must act when a request ends early: tables from HTTP statuses and exceptions to `Fault`.

All text that reaches a user is made here. It names a host, never a path, a query, a header or a
user name, because signed URLs carry their credential in any of them.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import re
import ssl
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import urllib3.exceptions as u3

from p2pcache.content.address_secrets import ended as signature_ended
from p2pcache.lanes.orders import Fault, FaultKind
from p2pcache.lanes.pace import Endless

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAX_REMOTE_TEXT_CHARS = 300  # a sentence or two; the rest of what an origin says is not for users
MAX_RETRY_AFTER_S = 3600.0  # an hour: a source that asks for more is as good as gone for this pull

# Ours even when they surface from a socket call: out of descriptors, buffers or memory.
_OUR_ERRNOS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT})

THROTTLING = frozenset({429, 503})  # statuses that may say "wait"; what others are told

CHANGED = "it changed while it was read"  # of a file that is not ours alone

MAX_INSTEAD = 3  # peers that a busy one may name
MAX_INSTEAD_CHARS = 256
_PEER = re.compile(r"[A-Za-z0-9]{1,80}")

_BY_STATUS: dict[int, tuple[FaultKind, str]] = {
    401: (FaultKind.DENIED, "wants a login"),
    403: (FaultKind.DENIED, "refuses access"),
    404: (FaultKind.NOT_FOUND, "does not have it"),
    407: (FaultKind.DENIED, "is behind a proxy that wants a login"),
    408: (FaultKind.UNAVAILABLE, "timed out"),
    410: (FaultKind.NOT_FOUND, "does not have it any more"),
    412: (FaultKind.UNTRUSTED, "has another version of it: it changed while it was fetched"),
    416: (FaultKind.UNTRUSTED, "does not have this range: its size changed"),
    425: (FaultKind.UNAVAILABLE, "asks to come back later"),
    429: (FaultKind.UNAVAILABLE, "is limiting requests"),
    451: (FaultKind.DENIED, "refuses access for legal reasons"),
}
_XML_CODE = re.compile(rb"<Code>([A-Za-z0-9]{1,64})</Code>")
_BY_CODE: dict[str, tuple[FaultKind, str]] = {  # of stores, where the status alone says less
    "RequestTimeTooSkewed": (FaultKind.LOCAL, "says that this machine's clock is wrong: set it"),
    "ExpiredToken": (FaultKind.DENIED, "says that the login has expired"),
    "InvalidObjectState": (FaultKind.DENIED, "has it in an archive: restore it first"),
    "BlobArchived": (FaultKind.DENIED, "has it in an archive: restore it first"),
}


class Ended(Exception):
    """A request ended early, for the reason in `fault`. Never leaves a worker function."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault


def ended(kind: FaultKind, message: str) -> Ended:
    """The exception for a fault that needs no more than a kind and a message."""
    return Ended(Fault(kind, message))


def host_of(url: str) -> str:
    """`host` or `host:port` of a URL, the only part that messages show."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return "a malformed URL"
    if parts.scheme == "file":
        return "local file"
    host = plain_text(host)
    return f"{host}:{port}" if port else host


def plain_text(text: str, secrets: tuple[str, ...] = ()) -> str:
    """Remote text on one line, without control characters or any of `secrets`, bounded."""
    for secret in secrets:
        for part in (secret, *secret.split()):
            if len(part) >= 4:  # "Bearer" goes too, which is harmless; "1" would mangle the text
                text = text.replace(part, "***")
    text = "".join(char if char.isprintable() else " " for char in text)
    text = re.sub(r"https?://\S+", lambda url: _without_query(url[0]), text)
    return " ".join(text.split())[:MAX_REMOTE_TEXT_CHARS]


def _without_query(url: str) -> str:
    return re.split(r"[?#]", url, maxsplit=1)[0] if "@" not in url else "(URL)"


def retry_after_s(headers: Mapping[str, str], now_unix_s: float) -> float | None:
    """What the server asked for, in seconds from now, within [0, MAX_RETRY_AFTER_S].

    `Retry-After` as seconds or as a date (RFC 9110 10.2.3), else the `t=` of the Hub's
    `ratelimit: "api";r=0;t=55`.
    """
    text = headers.get("Retry-After", "").strip()
    seconds: float | None = None
    if re.fullmatch(r"\d{1,9}", text):
        seconds = float(text)
    elif text:
        with contextlib.suppress(ValueError, TypeError, OverflowError):
            seconds = parsedate_to_datetime(text).timestamp() - now_unix_s
    if seconds is None and (found := re.search(r";\s*t=(\d{1,9})", headers.get("ratelimit", ""))):
        seconds = float(found[1])
    return None if seconds is None else min(max(seconds, 0.0), MAX_RETRY_AFTER_S)


def xml_code(body: bytes) -> str | None:
    """The one word that an object store's error is called by."""
    found = _XML_CODE.search(body)
    return None if found is None else found[1].decode()


def status_fault(
    status: int,
    headers: Mapping[str, str],
    url: str,
    secrets: tuple[str, ...] = (),
    code: str | None = None,
) -> Fault:
    """The fault of a final response whose status is neither 200 nor 206. `code`: `xml_code`."""
    kind, text = _BY_STATUS.get(status, (FaultKind.UNTRUSTED, "gave an unexpected answer"))
    if status >= 500:
        kind, text = FaultKind.UNAVAILABLE, "has a problem of its own"
    elif status >= 400 and status not in _BY_STATUS:
        kind, text = FaultKind.DENIED, "does not accept the request"  # nor the same one later
    kind, text = _BY_CODE.get(code or "", (kind, text))
    said = f"HTTP {status}" if code is None else f"HTTP {status}, {code}"
    message = f"{host_of(url)} {text} ({said})"
    if kind is FaultKind.DENIED and (moment := signature_ended(url, time.time())) is not None:
        message += f": the address that it was asked by expired at {moment}"
    if words := plain_text(headers.get("X-Error-Message", ""), secrets):
        message += f": {words}"
    wait_s = retry_after_s(headers, time.time()) if kind is FaultKind.UNAVAILABLE else None
    return Fault(
        kind, message, retry_after_s=wait_s, http_status=status, instead=_instead(status, headers)
    )


def _instead(status: int, headers: Mapping[str, str]) -> tuple[str, ...]:
    """Whom a busy peer names (lanes/serve/crowd)."""
    text = headers.get("X-P2PCache-Ask", "") if status == 503 else ""
    names = text[:MAX_INSTEAD_CHARS].split(",")
    return tuple(name for name in names if _PEER.fullmatch(name))[:MAX_INSTEAD]


def disk_fault(exc: OSError, what: str) -> Fault:
    """The fault of a failed call on our own disk."""
    kind = FaultKind.DISK_FULL if exc.errno in _FULL_ERRNOS else FaultKind.LOCAL
    return Fault(kind, f"cannot {what}: {exc.strerror or exc}")


def network_fault(exc: Exception, url: str) -> Fault:
    """The fault of an exception that left urllib3, http.client, ssl or a socket."""
    host = host_of(url)
    chain = list(_causes(exc))
    for cause in chain:
        if isinstance(cause, OSError) and cause.errno in _OUR_ERRNOS:
            return Fault(FaultKind.LOCAL, f"cannot open a connection: {cause.strerror}")
        if isinstance(cause, ssl.SSLCertVerificationError):
            why = plain_text(cause.verify_message or "name mismatch")
            return Fault(FaultKind.UNTRUSTED, f"{host}: certificate is not trusted: {why}")
        if "Fingerprints did not match" in str(cause):
            return Fault(FaultKind.UNTRUSTED, f"{host}: certificate is not the pinned one")
        if isinstance(cause, Endless):
            return Fault(FaultKind.UNTRUSTED, f"{host}: {cause}")
        if isinstance(cause, u3.ProxyError) and "407" in str(cause):
            return Fault(FaultKind.DENIED, "the proxy wants a login (HTTP 407)", http_status=407)
    return Fault(*_network_kind(exc, chain, host))


def _network_kind(exc: Exception, chain: list[BaseException], host: str) -> tuple[FaultKind, str]:
    def has(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in chain)

    if has(u3.NameResolutionError):
        return FaultKind.UNAVAILABLE, f"{host}: the name does not resolve"
    if has(u3.ProxyError):
        return FaultKind.UNAVAILABLE, f"{host}: the proxy does not connect us"
    if has(u3.NewConnectionError, ConnectionRefusedError):  # a ConnectTimeoutError to urllib3
        return FaultKind.UNAVAILABLE, f"{host}: cannot connect"
    if has(u3.ConnectTimeoutError):
        return FaultKind.UNAVAILABLE, f"{host}: no connection in time"
    if has(TimeoutError, u3.ReadTimeoutError):
        return FaultKind.UNAVAILABLE, f"{host}: no progress in time"
    if has(ConnectionError, http.client.IncompleteRead):
        return FaultKind.UNAVAILABLE, f"{host}: the connection was cut"
    if has(u3.LocationParseError, http.client.InvalidURL, UnicodeError):
        return FaultKind.UNTRUSTED, f"{host}: the URL cannot be asked for"
    if has(ssl.SSLError):
        return FaultKind.UNAVAILABLE, f"{host}: TLS failed"
    if has(http.client.HTTPException, ValueError):
        return FaultKind.UNTRUSTED, f"{host}: what it answers is not HTTP"
    return FaultKind.UNAVAILABLE, f"{host}: {type(exc).__name__}"


def _causes(exc: BaseException) -> Iterator[BaseException]:
    """An exception, what it wraps in `args`, and what it came from; each once."""
    todo: list[BaseException] = [exc]
    seen: set[int] = set()
    while todo:
        one = todo.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        todo += [arg for arg in one.args if isinstance(arg, BaseException)]
        todo += [up for up in (one.__cause__, one.__context__) if up is not None]
