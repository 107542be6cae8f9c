"""What a web server lists of a folder: HTML and JSON pages to names. Pure.

Taken for a list of files: JSON as nginx (`autoindex_format json`) and Caddy write it; HTML whose
title or heading says that it is one, as nginx, Apache, lighttpd, Jetty and Python's http.server
write it. Of its links those to a name directly below the page count; all others (the
parent, other orders, icons, other hosts) are left out.
"""

from __future__ import annotations

import html
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urljoin, urlsplit

from p2pcache.content.names import safe_path
from p2pcache.errors import Untrusted
from p2pcache.sources.urls import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MAX_PAGE_BYTES = 4 << 20  # nginx writes 100 to 200 bytes a file
MAX_LINKS = 50_000  # different ones of a page: more than a walk takes files, and 0.7 s of a core
ACCEPT = "application/json, text/html;q=0.9, */*;q=0.1"  # Caddy gives JSON where it is wanted

_HEADING = re.compile(r"<(?:title|h1)\b[^<>]{0,200}>([^<]{0,300})", re.I)
_IS_INDEX = re.compile(
    r"\s*(index of|directory listing|directory:|listing of|files within|folder listing)\b", re.I
)
# Each part ends at the next `<`, so that a hostile page is read in linear time.
_LINK = re.compile(
    r"<a\b[^<>]{0,2000}?\bhref\s{0,9}=\s{0,9}"
    r"(?:\"([^\"<>]{0,8192})\"|'([^'<>]{0,8192})'|([^\s\"'<>]{1,8192}))",
    re.I,
)


@dataclass(frozen=True, slots=True)
class Entry:
    """A name directly below a page, and its own address."""

    name: str
    is_folder: bool
    url: str


def read_index(page: bytes, url: str) -> list[Entry] | None:
    """What a page at `url` (which ends with a slash) lists, each name once, by name; None: it is no
    list of files. Raises Untrusted for a name that is none.
    """
    text = page.decode("utf-8", "replace")
    if text.lstrip("\ufeff \t\r\n")[:1] == "[":
        found = _of_json(text, url)
    elif any(_IS_INDEX.match(html.unescape(one)) for one in _HEADING.findall(text[:65536])):
        found = _of_html(text, url)
    else:
        return None
    return None if found is None else _by_name(found, url)


def _of_json(text: str, url: str) -> list[Entry] | None:
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        return None
    found = []
    for row in rows:
        name, kind = row.get("name"), _kind(row)
        if not isinstance(name, str) or kind is None:
            return None
        if kind != "other":  # a device, a socket
            is_folder = kind == "directory"
            name = name.removesuffix("/") if is_folder else name
            found.append(Entry(name, is_folder, url + _quoted(name) + "/" * is_folder))
    return found


def _kind(row: dict[str, Any]) -> str | None:
    """`type` of nginx, `is_dir` of Caddy; None: of neither."""
    if isinstance(is_dir := row.get("is_dir"), bool):
        return "directory" if is_dir else "file"
    kind = row.get("type")
    return kind if kind in ("file", "directory", "other") else None


def _of_html(text: str, url: str) -> list[Entry]:
    """Each address is read once, however often the page has it."""
    hrefs: dict[str, None] = {}
    for found in _LINK.finditer(text):
        hrefs["".join(found.groups(""))] = None
        if len(hrefs) > MAX_LINKS:
            raise Untrusted(f"{shown(url)} has more than {MAX_LINKS} links")
    return list(_links(hrefs, url))


def _links(hrefs: Iterable[str], url: str) -> Iterator[Entry]:
    base = urlsplit(url)
    for href in hrefs:
        try:
            link = urlsplit(urljoin(url, html.unescape(href).strip()))
        except ValueError:
            continue
        if (link.scheme, link.netloc) != (base.scheme, base.netloc) or link.query or link.fragment:
            continue
        rest = link.path.removeprefix(base.path)
        segment = rest.removesuffix("/")
        if not segment or "/" in segment:  # not below the page, or not directly
            continue
        try:
            name = unquote(segment, errors="strict")
        except UnicodeDecodeError as exc:
            raise Untrusted(f"{shown(url)} lists a name that is not UTF-8") from exc
        is_folder = rest.endswith("/")
        where = quote(segment, safe="%!$&'()*+,;=:@~")
        yield Entry(name, is_folder, f"{url}{where}" + "/" * is_folder)


def _quoted(name: str) -> str:
    try:
        return quote(name, safe="")
    except UnicodeEncodeError as exc:
        raise Untrusted("an index page lists a name that is not UTF-8") from exc


def _by_name(entries: list[Entry], url: str) -> list[Entry]:
    """Every name checked, and once; Untrusted where it is both a file and a folder."""
    found: dict[str, Entry] = {}
    for entry in entries:
        if "/" in safe_path(entry.name):
            raise Untrusted(f"{shown(url)} lists the name {entry.name[:80]!a}, which has a slash")
        if found.setdefault(entry.name, entry).is_folder != entry.is_folder:
            raise Untrusted(f"{shown(url)} lists {entry.name[:80]!a} as a file and as a folder")
    return [found[name] for name in sorted(found)]
