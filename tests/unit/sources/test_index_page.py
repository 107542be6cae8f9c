"""Index pages as servers write them, and as somebody writes them who wants more than to list."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pcache.errors import P2PCacheError, Untrusted
from p2pcache.sources.index_page import MAX_LINKS, MAX_PAGE_BYTES, read_index

URL = "http://h:81/models/x/"

# As Apache 2.4 wrote it (Debian's, FancyIndexing HTMLTable), below another folder.
APACHE = """\
<!DOCTYPE HTML PUBLIC "-//W3C//DTD HTML 4.01//EN" "http://www.w3.org/TR/html4/strict.dtd">
<html>
 <head>
  <title>Index of /models/x</title>
 </head>
 <body>
<h1>Index of /models/x</h1>
  <table>
   <tr><th valign="top">&nbsp;</th><th><a href="?C=N;O=D">Name</a></th><th>\
<a href="?C=M;O=A">Last modified</a></th><th><a href="?C=S;O=A">Size</a></th></tr>
   <tr><th colspan="5"><hr></th></tr>
<tr><td valign="top">&nbsp;</td><td><a href="/models/">Parent Directory</a></td><td>&nbsp;</td></tr>
<tr><td valign="top">&nbsp;</td><td><a href="a%20b.bin">a b.bin</a>                </td></tr>
<tr><td valign="top">&nbsp;</td><td><a href="gr%c3%b6%c3%9fe&amp;1.txt">größe&amp;1.txt</a></td>
<tr><td valign="top">&nbsp;</td><td><a href="sub/">sub/</a>                   </td></tr>
   <tr><th colspan="5"><hr></th></tr>
</table>
</body></html>
"""
LISTED = [("a b.bin", False), ("größe&1.txt", False), ("sub", True)]


def names(page: str | bytes, url: str = URL) -> list[tuple[str, bool]] | None:
    found = read_index(page if isinstance(page, bytes) else page.encode(), url)
    return None if found is None else [(entry.name, entry.is_folder) for entry in found]


def page(*hrefs: str) -> str:
    links = "".join(f'<a href="{href}">x</a>\n' for href in hrefs)
    return f"<html><title>Index of /</title><body>{links}</body></html>"


def test_a_page_of_apache() -> None:
    assert names(APACHE) == LISTED
    found = read_index(APACHE.encode(), URL)
    assert found is not None
    assert [entry.url for entry in found] == [
        f"{URL}a%20b.bin", f"{URL}gr%c3%b6%c3%9fe&1.txt", f"{URL}sub/",
    ]  # fmt: skip


def test_json_of_nginx_and_of_caddy() -> None:
    nginx = [
        {"name": "a b.bin", "type": "file", "mtime": "Sun, 22 Nov 2026 13:39:37 GMT", "size": 4},
        {"name": "größe&1.txt", "type": "file", "size": 2},
        {"name": "sub", "type": "directory"},
        {"name": "sock", "type": "other"},
    ]
    rest = {"mod_time": "2026-11-22T13:39:37.082218509Z", "mode": 420, "is_symlink": False}
    caddy = [  # as 2.8.4 wrote it
        {"name": "sub/", "size": 4096, "url": "./sub/", **rest, "is_dir": True},
        {"name": "a b.bin", "size": 4, "url": "./a%20b.bin", **rest, "is_dir": False},
        {"name": "größe&1.txt", "size": 2, "url": "./gr%C3%B6%C3%9Fe&1.txt", **rest,
         "is_dir": False},
    ]  # fmt: skip
    for rows in (nginx, caddy):
        found = read_index(json.dumps(rows).encode(), URL)
        assert found is not None
        assert [(entry.name, entry.is_folder) for entry in found] == LISTED
        assert found[1].url == f"{URL}gr%C3%B6%C3%9Fe%261.txt"


@pytest.mark.parametrize(
    "other",
    ["", "<html><title>My models</title><a href='a.bin'>a</a>", "hello", "[1, 2]", "[", "{}",
     '[{"name": "a"}]', '[{"type": "file"}]', "<title>The index of my life</title>"],
)  # fmt: skip
def test_another_page_is_no_index(other: str) -> None:
    assert names(other) is None


def test_only_what_is_directly_below_the_page_counts() -> None:
    assert names(
        page(
            "../", "/", "./", ".", "#top", "?C=M;O=A", "a?x=1", "http://other/models/x/a",
            "https://h:81/models/x/a", "//evil/models/x/a", "/models/xy", "/models/x/deep/file",
            "javascript:alert(1)", "mailto:a@b", "http://[::1", "../../etc/passwd", "a.bin",
            "/models/x/b.bin", "http://h:81/models/x/c.bin", "./d.bin", "a.bin", "sub/",
        )
    ) == [*((f"{letter}.bin", False) for letter in "abcd"), ("sub", True)]  # fmt: skip


@pytest.mark.parametrize(
    "href",
    ["%2e%2e", "%2e%2e/", "a%2fb", "..%2f..%2fetc%2fpasswd", "a%5cb", "a%00", "a%0Ab", "C%3Ax",
     "%ff%fe", "a" * 300],
)  # fmt: skip
def test_a_name_that_is_none_is_refused(href: str) -> None:
    with pytest.raises(Untrusted):
        names(page("good.bin", href))


@pytest.mark.parametrize("name", ["..", "../x", "/etc/passwd", "a/b", "a\\b", "", "a\0", "\ud800"])
@pytest.mark.parametrize("kind", ["file", "directory"])
def test_a_name_in_json_that_is_none_is_refused(name: str, kind: str) -> None:
    with pytest.raises(Untrusted):
        names(json.dumps([{"name": name, "type": kind}]))


def test_a_name_is_not_both() -> None:
    with pytest.raises(Untrusted, match="as a file and as a folder"):
        names(page("a", "a/"))


@pytest.mark.parametrize("bait", ["<a ", "<a href", '<a href="', "<a href='x", "<h1", "[", "&#"])
def test_the_longest_page_is_read_in_time(bait: str) -> None:
    head = b"<title>Index of /</title>" if bait != "[" else b""
    body = head + bait.encode() * ((MAX_PAGE_BYTES - len(head)) // len(bait))
    started = time.process_time()
    read_index(body, URL)
    assert time.process_time() - started < 10.0


def test_a_link_that_a_page_repeats_is_read_once_and_too_many_are_refused() -> None:
    head, line = b"<title>Index of /</title>", b"<a href=x>"
    started = time.process_time()
    assert read_index(head + line * (MAX_PAGE_BYTES // len(line)), URL) is not None
    many = b"".join(b"<a href=%x>" % number for number in range(300_000))
    with pytest.raises(Untrusted, match=f"more than {MAX_LINKS} links"):
        read_index(head + many, URL)
    assert time.process_time() - started < 4.0


@given(st.binary(max_size=300), st.sampled_from([b"", b"<h1>Index of /</h1>", b"["]))
def test_whatever_a_page_is_only_our_errors_come_out(body: bytes, head: bytes) -> None:
    try:
        for entry in read_index(head + body, URL) or []:
            assert entry.url.startswith(URL)
            assert "/" not in entry.name
    except P2PCacheError:
        pass
