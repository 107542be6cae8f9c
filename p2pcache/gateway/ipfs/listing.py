"""A folder as a page. Pure. Names come from strangers: everything is escaped, nothing is loaded."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING
from urllib.parse import quote

from p2pcache.content import cid as cids
from p2pcache.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from p2pcache.content.dag.folders import Entry

MAX_ENTRIES = 100_000  # of one page; 15 MB of HTML
POLICY = "default-src 'none'; style-src 'unsafe-inline'; sandbox allow-same-origin"
_STYLE = (
    "body{font:15px system-ui,sans-serif;margin:2em auto;max-width:60em;padding:0 1em}"
    "td{padding:.15em 1em .15em 0}td:last-child{text-align:right}code{color:#666}"
)


def page(path: str, cid: bytes, entries: Iterable[Entry], parent: str | None) -> bytes:
    """`path`: as it was asked for, for people, ending in a slash; `parent`: the link one up."""
    title = f"Index of {escape(path)}"
    rows = [] if parent is None else [f'<tr><td><a href="{quote(parent)}">..</a></td></tr>']
    for entry in entries:
        name = cids.format_cid(entry.cid)
        size = "" if entry.size is None else format_bytes(entry.size)
        rows.append(
            f'<tr><td><a href="{quote(path + entry.name)}">{escape(entry.name)}</a></td>'
            f"<td><code>{name}</code></td><td>{size}</td></tr>"
        )
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{title}</h1>"
        f"<p><code>{cids.format_cid(cid)}</code></p><table>{''.join(rows)}</table></body></html>\n"
    ).encode()
