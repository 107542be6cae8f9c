"""What an answer says of its content: media type, name of a download, ETag. Pure."""

from __future__ import annotations

import hashlib
import mimetypes
from typing import TYPE_CHECKING
from urllib.parse import quote

from p2pcache.content import cid as cids
from p2pcache.gateway.ipfs.request import TYPE_OF

if TYPE_CHECKING:
    from p2pcache.gateway.ipfs.request import Ask

IMMUTABLE = "public, max-age=29030400, immutable"  # 48 weeks, what the specification writes
LISTING_AGE = "public, max-age=604800, stale-while-revalidate=2678400"  # its page may change
LISTING_VERSION = "p2pcache1"  # of the page; in the ETag
SNIFF_BYTES = 512
BYTES = "application/octet-stream"
_SUFFIX = {"raw": "bin", "car": "car", "dag-json": "json", "json": "json"}
_TYPES = mimetypes.MimeTypes(filenames=())  # what Python knows, and no file of this machine
_MORE = {
    ".md": "text/markdown",
    ".wasm": "application/wasm",
    ".safetensors": BYTES,
    ".gguf": BYTES,
    ".webp": "image/webp",
    ".mjs": "text/javascript",
    ".js": "text/javascript",
    ".toml": "text/plain",
    ".yaml": "text/plain",
    ".yml": "text/plain",
}
_TEXTS = ("text/", "application/json", "image/svg+xml")


def media_type(name: str | None, start: bytes) -> str:
    """Of a file, by its name, else by how it begins: text or bytes. Nothing is taken for HTML that
    is not called so.
    """
    suffix = "" if name is None or "." not in name else "." + name.rpartition(".")[2].lower()
    found = _MORE.get(suffix) or _TYPES.guess_type("x" + suffix)[0] if suffix else None
    if found is None:
        found = "text/plain" if _is_text(start) else BYTES
    return found + "; charset=utf-8" if found.startswith(_TEXTS) else found


def _is_text(start: bytes) -> bool:
    if b"\0" in start:
        return False
    try:
        start[:SNIFF_BYTES].decode()
    except UnicodeDecodeError as exc:  # it may end within a character
        return exc.end == len(start[:SNIFF_BYTES]) and exc.reason == "unexpected end of data"
    return True


def disposition(ask: Ask, cid: bytes) -> str | None:
    """Content-Disposition; None where a browser may decide."""
    form = ask.format
    name = ask.filename
    if form in ("raw", "car"):
        below = f"_{ask.path[-1]}" if form == "car" and ask.path else ""
        stem = cids.format_cid(ask.root if form == "car" else cid)
        name = name or f"{stem}{below}.{_SUFFIX[form]}"
        return _named("attachment", name)
    if form is not None and name is None:
        name = f"{cids.format_cid(cid)}.{_SUFFIX.get(form, 'cbor')}"
    if name is not None:
        shown = form in ("json", "dag-json", None) and not ask.download
        return _named("inline" if shown else "attachment", name)
    if ask.download:
        return _named("attachment", ask.path[-1] if ask.path else cids.format_cid(cid))
    return None


def _named(kind: str, name: str) -> str:
    """RFC 6266: the name in ASCII for old clients, then as it is."""
    plain = "".join(c if " " <= c <= "~" and c not in '"\\' else "_" for c in name)
    return f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


def etag(ask: Ask, cid: bytes) -> str:
    """Of the content that `cid` names, in the format that is asked for. A CAR is named by what was
    asked for, and weakly: its bytes may be ordered otherwise.
    """
    name = cids.format_cid(cid)
    if ask.format is None:
        return f'"{name}"'
    if ask.format != "car":
        return f'"{name}.{ask.format}"'
    car = ask.car
    said = f"{ask.path} {car.scope} {car.entity_bytes} {car.duplicates}"
    return f'W/"{cids.format_cid(ask.root)}.car.{hashlib.sha256(said.encode()).hexdigest()[:16]}"'


def listing_etag(cid: bytes) -> str:
    """Of the page that shows a folder."""
    return f'"DirIndex-{LISTING_VERSION}_CID-{cids.format_cid(cid)}"'


def content_type(ask: Ask) -> str:
    """Of an answer in the format that is asked for."""
    assert ask.format is not None, "asked for a file or folder"
    media = TYPE_OF[ask.format]
    if ask.format != "car":
        return media
    return f"{media}; version=1; order=dfs; dups={'y' if ask.car.duplicates else 'n'}"
