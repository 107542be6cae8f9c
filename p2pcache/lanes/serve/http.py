"""A request's head to an `Ask`, or to the refusal that it gets. Pure: h11 parses, this decides.

    GET|HEAD /blob/<hex of the blob's name>   one range or none
    POST /bundle                              names of small blobs in its body (lanes/bundle_wire)
    Authorization: Ticket <token>             on each

No file path is ever made from a target: what is not exactly one of these two is not found.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

from p2pcache.lanes.bundle_wire import MAX_ASK_BYTES

if TYPE_CHECKING:
    import h11

MAX_HEAD_BYTES = 8 << 10  # request line and headers; ours have about 500

_BLOB = re.compile(rb"/blob/((?:[0-9a-f]{2}){1,64})")
_BUNDLE = b"/bundle"
_LENGTH = re.compile(rb"\d{1,9}")
_RANGE = re.compile(r"([0-9]{0,19}) *- *([0-9]{0,19})")
_MAX_RANGE_CHARS = 4096  # more never fits a head; 10,000 ranges end there or at the first comma


class Refusal(Exception):
    """An answer without a body. `text` is fit for whoever asked; `close` ends the connection."""

    def __init__(
        self,
        status: int,
        text: str,
        headers: tuple[tuple[str, str], ...] = (),
        *,
        close: bool = False,
    ) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.headers = headers
        self.close = close


@dataclass(frozen=True, slots=True)
class Ask:
    """`name` None: a bundle, whose names are in the body of `body_bytes`."""

    name: bytes | None
    token: str
    wants_body: bool = True
    range_text: str | None = None
    if_range: str | None = None
    body_bytes: int = 0


def parse_request(request: h11.Request) -> Ask:
    """What is asked. Raises `Refusal`."""
    headers = _headers(request)
    found = _BLOB.fullmatch(request.target)
    if found is None and request.target != _BUNDLE:
        raise Refusal(HTTPStatus.NOT_FOUND, "there is no such thing here", close=True)
    allowed = (b"GET", b"HEAD") if found else (b"POST",)
    if request.method not in allowed:
        allow = b", ".join(allowed).decode()
        raise Refusal(
            HTTPStatus.METHOD_NOT_ALLOWED, f"only {allow} works here", (("Allow", allow),),
            close=True,
        )  # fmt: skip
    body_bytes = _body_bytes(headers, is_bundle=found is None)
    token = _token(headers)
    if found is None:
        return Ask(None, token, body_bytes=body_bytes)
    ranges = headers.get(b"range")
    condition = headers.get(b"if-range")
    return Ask(
        bytes.fromhex(found[1].decode()),
        token,
        request.method == b"GET",
        None if ranges is None else ranges.decode("latin-1"),
        None if condition is None else condition.decode("latin-1"),
    )


def _headers(request: h11.Request) -> dict[bytes, bytes]:
    """By lower-case name. Of what matters here nothing may be said twice."""
    found: dict[bytes, bytes] = {}
    for name, value in request.headers:
        if name in found and name in (b"range", b"authorization", b"if-range"):
            raise Refusal(HTTPStatus.BAD_REQUEST, f"two {name.decode()} headers", close=True)
        found[name] = value
    return found


def _body_bytes(headers: dict[bytes, bytes], *, is_bundle: bool) -> int:
    if b"transfer-encoding" in headers:
        raise Refusal(HTTPStatus.LENGTH_REQUIRED, "a body needs a length", close=True)
    length = headers.get(b"content-length", b"0")
    if not _LENGTH.fullmatch(length) or int(length) > (MAX_ASK_BYTES if is_bundle else 0):
        raise Refusal(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "a body that is too long here", close=True
        )
    return int(length)


def _token(headers: dict[bytes, bytes]) -> str:
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() != b"ticket":
        raise unauthorized("a ticket is needed")
    return token.strip().decode("latin-1")


def unauthorized(text: str) -> Refusal:
    """The refusal of whoever has no ticket, or not the right one."""
    challenge = (("WWW-Authenticate", "Ticket"),)
    return Refusal(HTTPStatus.UNAUTHORIZED, text, challenge)


def etag(name: bytes) -> str:
    """Strong, and true for ever: the name is the content's."""
    return f'"{name.hex()}"'


def span_of(ask: Ask, size: int) -> tuple[int, int] | None:
    """The half-open span that is asked for, None for the whole blob.

    RFC 9110 14.2: an unknown unit is ignored; what is not a range at all is a 400; a range that
    runs backwards, starts behind the end, or comes with others is a 416 that tells the size.
    """
    if ask.range_text is None or (ask.if_range not in (None, etag(ask.name or b""))):
        return None
    unit, equals, ranges = ask.range_text[:_MAX_RANGE_CHARS].partition("=")
    if unit.strip().lower() != "bytes":
        return None
    unsatisfiable = (("Content-Range", f"bytes */{size}"),)
    if "," in ranges:
        raise Refusal(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, "one range only", unsatisfiable)
    found = _RANGE.fullmatch(ranges.strip()) if equals else None
    if found is None or found[1] == found[2] == "":
        raise Refusal(HTTPStatus.BAD_REQUEST, "a malformed range")
    if found[1]:
        start, end = int(found[1]), min(int(found[2]) + 1, size) if found[2] else size
    else:
        start, end = max(size - int(found[2]), 0), size
    if start >= end:
        raise Refusal(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, "no such range", unsatisfiable)
    return start, end
