"""The files below a web server's index page: page by page, then a probe of each file."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from p2pcache.errors import NotFound, Unavailable, Untrusted, UsageError
from p2pcache.sources.index_page import ACCEPT, MAX_PAGE_BYTES, Entry, read_index
from p2pcache.sources.urls import shown

if TYPE_CHECKING:
    from p2pcache.sources.http_probe import Prober

MAX_FILES = 20_000  # one probe each: some 1,000 a second of a server that is near
MAX_PAGES = 2_000
READ_S = 30.0  # to read a page: 4 MiB take 0.2 s
MAX_DEPTH = 32  # folders in folders: a link of the server's that leads to itself ends here
SUMS_HINT = "the folder has {name}: by its address each file is checked against it"


@dataclass(frozen=True, slots=True)
class Found:
    """A file below the folder: its path from there, and its address."""

    path: str
    url: str


async def walk(prober: Prober, url: str) -> list[Found]:
    """Every file below an index page, by path. A page is asked after the other: it is the server
    that is spared. Raises as `Prober.get`, UsageError where there is no index, NotFound where it
    lists nothing, Untrusted for names that are none and for more than the limits.
    """
    files: list[Found] = []
    first, pages = await _page(prober, url)
    todo = deque(_below("", pages))
    asked = 1
    while todo:
        path, entry = todo.popleft()
        if not entry.is_folder:
            files.append(Found(path, entry.url))
            if len(files) > MAX_FILES:
                raise Untrusted(f"{shown(first)} lists more than {MAX_FILES} files")
            continue
        asked += 1
        if asked > MAX_PAGES or path.count("/") >= MAX_DEPTH:
            raise Untrusted(
                f"{shown(first)} has more than {MAX_PAGES} folders, or {MAX_DEPTH} in each other",
                hint="get one of the folders below it",
            )
        where, more = await _page(prober, entry.url)
        if where != entry.url:
            raise Untrusted(f"{shown(entry.url)} leads out of the folder, to {shown(where)}")
        todo.extend(_below(f"{path}/", more))
        if len(files) + len(todo) > MAX_FILES + MAX_PAGES:  # each page may list 100,000 of them
            raise Untrusted(f"{shown(first)} lists more than {MAX_FILES} files")
    if not files:
        raise NotFound(f"{shown(url)} lists no file")
    return sorted(files, key=lambda file: file.path)


def _below(start: str, entries: list[Entry]) -> list[tuple[str, Entry]]:
    return [(start + entry.name, entry) for entry in entries]


async def _page(prober: Prober, url: str) -> tuple[str, list[Entry]]:
    """Where a page is in the end, and what it lists."""
    where, page = await prober.get_page(url, MAX_PAGE_BYTES, ACCEPT)
    where = where.partition("?")[0]
    if not where.endswith("/"):
        raise UsageError(f"{shown(url)} leads to {shown(where)}, which is no folder")
    try:
        with trio.fail_after(READ_S):
            entries = await trio.to_thread.run_sync(read_index, page, where, abandon_on_cancel=True)
    except trio.TooSlowError as exc:
        raise Unavailable(f"{shown(url)} is a page that takes too long to read") from exc
    if entries is None:
        raise UsageError(
            f"{shown(url)} is a page, and no list of files",
            hint="give the URL of a file, or of a SHA256SUMS; the server may list a folder if its "
            "owner turns that on",
        )
    return where, entries
