"""What a request to the gateway asks for. Pure: raises `Refusal`, awaits nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from p2pcache.content import cid as cids
from p2pcache.errors import UsageError

if TYPE_CHECKING:
    from typing import Literal

    from p2pcache.content.dag.traverse import Scope
    from p2pcache.gateway.messages import Request

    Format = Literal["raw", "car", "dag-json", "dag-cbor", "json", "cbor"]

MAX_FILENAME_CHARS = 255
MEDIA_TYPES: dict[str, Format] = {
    "application/vnd.ipld.raw": "raw",
    "application/vnd.ipld.car": "car",
    "application/vnd.ipld.dag-json": "dag-json",
    "application/vnd.ipld.dag-cbor": "dag-cbor",
    "application/json": "json",
    "application/cbor": "cbor",
}
TYPE_OF = {name: media for media, name in MEDIA_TYPES.items()}
_KNOWN_ELSEWHERE = {  # of the specifications, and not served here
    "application/x-tar": "tar",
    "application/vnd.ipfs.ipns-record": "ipns-record",
}
_BYTES = re.compile(r"(-?[0-9]{1,18}):(\*|-?[0-9]{1,18})")


class Refusal(Exception):
    """An answer without content. `message` is for people."""

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers or {}


@dataclass(frozen=True, slots=True)
class CarAsk:
    """Parameters of a CAR. `entity_bytes`: first and last, both belong to it; None is the end."""

    scope: Scope = "all"
    entity_bytes: tuple[int, int | None] | None = None
    duplicates: bool = False


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. `root` as written; `path`: components below it; `slash`: it ends with one.

    `format` None: whatever the content is (a path gateway's answer).
    """

    root: bytes
    path: tuple[str, ...]
    slash: bool
    text: str  # /ipfs/<cid>/a%20b as it came
    format: Format | None
    by_accept: bool  # the format is of a header, or another one than that asks for
    car: CarAsk
    wants_html: bool
    filename: str | None
    download: bool
    only_if_cached: bool
    head: bool


def parse(request: Request) -> Ask:
    """Raises Refusal."""
    if request.method not in ("GET", "HEAD"):
        raise Refusal(405, "only GET and HEAD work here", {"Allow": "GET, HEAD"})
    root, path, slash = _path(request.path)
    worker = (request.header("service-worker") or "").strip().lower() == "script"
    if worker and not path and not slash:  # its scope would be all of /ipfs/
        raise Refusal(400, "no service worker can be registered for all content of a gateway")
    form, parameters, by_accept = _format(request)
    filename = request.arg("filename")
    if filename is not None and len(filename) > MAX_FILENAME_CHARS:
        raise Refusal(400, f"`filename` has more than {MAX_FILENAME_CHARS} characters")
    caching = (request.header("cache-control") or "").lower()
    return Ask(
        root, path, slash, request.path, form, by_accept,
        _car(request, parameters) if form == "car" else CarAsk(),
        "text/html" in (request.header("accept") or "").lower(),
        filename or None,
        request.arg("download") == "true",
        "only-if-cached" in [word.strip() for word in caching.split(",")],
        request.method == "HEAD",
    )  # fmt: skip


def _path(text: str) -> tuple[bytes, tuple[str, ...], bool]:
    """The root, the components below it, and whether it ends with a slash."""
    try:
        words = unquote_to_bytes(text).decode().split("/")
    except UnicodeDecodeError as exc:
        raise Refusal(400, "a path that is not UTF-8") from exc
    if words[1] == "ipns":
        raise Refusal(501, "names of IPNS are not served here: resolve them to /ipfs/<cid> first")
    if words[1] != "ipfs":
        raise Refusal(404, "a gateway of IPFS: content is at /ipfs/<cid>[/path]")
    components = [word for word in words[2:] if word]
    if any(component in (".", "..") or "\0" in component for component in components):
        raise Refusal(400, "a path with `.`, `..` or NUL in it")
    try:
        root = cids.parse_cid_as_written(components[0] if components else "")
    except UsageError as exc:
        raise Refusal(400, f"invalid CID: {exc.message}") from exc
    return root, tuple(components[1:]), not words[-1]


def _format(request: Request) -> tuple[Format | None, dict[str, str], bool]:
    """The format, the parameters of its media type, and whether the URL does not tell it. The query
    counts more than `Accept`.
    """
    accepted = _accepted(request.header("accept") or "")
    text = request.arg("format")
    if text is not None:
        form = next((name for name in MEDIA_TYPES.values() if name == text), None)
        if form is None:
            status = 406 if text in _KNOWN_ELSEWHERE.values() else 400
            raise Refusal(status, f"the format `{text[:32]}` is not served here")
        said = [media for media, _ in accepted if media in MEDIA_TYPES]
        parameters = next((more for media, more in accepted if media == TYPE_OF[form]), {})
        return form, parameters, bool(said) and TYPE_OF[form] not in said
    for media, more in accepted:
        if media in MEDIA_TYPES:
            return MEDIA_TYPES[media], more, True
    plain = {"*/*", "text/*", "text/html", "application/*"}
    for media, _ in accepted:
        if media in _KNOWN_ELSEWHERE and not plain.intersection(media for media, _ in accepted):
            raise Refusal(406, f"`{media}` is not served here")
    return None, {}, False


def _accepted(header: str) -> list[tuple[str, dict[str, str]]]:
    """Media types in their order, which browsers write by preference; `q=0` is none."""
    found = []
    for part in header[:4096].split(","):
        media, *rest = (word.strip() for word in part.split(";"))
        more = dict(word.partition("=")[::2] for word in rest)
        more = {key.strip().lower(): value.strip().strip('"') for key, value in more.items()}
        if more.get("q") not in ("0", "0.0", "0.00", "0.000"):
            found.append((media.lower(), more))
    return found


def _car(request: Request, parameters: dict[str, str]) -> CarAsk:
    """The query counts more than the parameters of the media type."""

    def said(argument: str, parameter: str, default: str, known: tuple[str, ...]) -> str:
        value = request.arg(argument) or parameters.get(parameter) or default
        if value not in known:
            raise Refusal(400, f"`{argument}` is one of {', '.join(known)}, not `{value[:32]}`")
        return value

    said("car-version", "version", "1", ("1",))
    said("car-order", "order", "dfs", ("dfs", "unk"))
    duplicates = said("car-dups", "dups", "n", ("y", "n")) == "y"
    scopes: dict[str, Scope] = {"all": "all", "entity": "entity", "block": "block"}
    text = request.arg("entity-bytes")
    implied = "entity" if text else "all"
    scope = scopes[said("dag-scope", "", implied, tuple(scopes))]
    if not text:
        return CarAsk(scope, None, duplicates)
    span = _span(text)
    return CarAsk(scope, span if scope == "entity" else None, duplicates)


def _span(text: str) -> tuple[int, int | None]:
    found = _BYTES.fullmatch(text)
    if found is None:
        raise Refusal(400, "`entity-bytes` is FROM:TO, TO may be `*`, negative counts from the end")
    first, last = int(found[1]), None if found[2] == "*" else int(found[2])
    same_side = last is not None and (first < 0) == (last < 0)
    if same_side and last is not None and last < first:
        raise Refusal(400, "`entity-bytes` ends before it begins")
    return first, last
