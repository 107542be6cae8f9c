"""What a URL says of itself: its origin, its file name, and what of it may be shown. Pure."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

from p2pcache.content.names import safe_path
from p2pcache.errors import UsageError

MAX_SHOWN_CHARS = 300


def file_name(url: str) -> str:
    """The file name that a URL ends in. Raises UsageError when there is none."""
    parts = urlsplit(url)
    name = unquote(parts.path).rpartition("/")[2]
    if not name:
        raise UsageError(f"{shown(url)} names no file", hint="give the URL of a file")
    return safe_path(name)


def origin_of(url: str) -> str:
    """Scheme, host and port."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def shown(url: str) -> str:
    """The URL as messages show it: without the query, which may be a signature."""
    return f"{origin_of(url)}{urlsplit(url).path}"[:MAX_SHOWN_CHARS]
