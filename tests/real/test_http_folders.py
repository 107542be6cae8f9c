"""Folders that web servers list: a real nginx (HTML and JSON), Python's own server, and liars."""

from __future__ import annotations

import contextlib
import json
import sys
from typing import TYPE_CHECKING

import pytest

from p2pcache import errors
from p2pcache.content.refs import FileRef, HttpRef
from p2pcache.errors import NotFound, P2PCacheError, Unavailable, Untrusted, UsageError
from p2pcache.sources.http import ONE_STREAM, HttpOptions, HttpSource
from p2pcache.sources.index_page import MAX_PAGE_BYTES
from tests.contract.check_source import ANONYMOUS, Missing, Truth, check_source
from tests.support.agents import running_agent
from tests.support.hub_stub import Answer, HubStub, hub_stub
from tests.support.nginx import Extra, nginx
from tests.support.partial_files import some_bytes
from tests.support.processes import free_port, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from p2pcache.sources.port import Listing

SOME_FILE = FileRef("/tmp/x")
FILES = {
    "config.json": b"{}\n",
    "empty": b"",
    "sub dir/größe #1&?.bin": some_bytes(70_000, b"s"),
    "sub dir/deep/er/x.bin": some_bytes(3_000_000, b"x"),
    "weights.bin": some_bytes(5_000_001, b"w"),
}
LISTS = {
    "html": Extra(server="autoindex on;"),
    "json": Extra(server="autoindex on; autoindex_format json;"),
}


@pytest.fixture
def site(tmp_path: Path) -> Path:
    root = tmp_path / "site" / "models" / "x"
    for path, body in FILES.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(body)
    (root / "nothing").mkdir()
    (tmp_path / "site" / "models" / "secret.bin").write_bytes(b"outside")
    return tmp_path / "site"


async def ask(url: str) -> Listing:
    source = HttpSource(HttpOptions())
    try:
        return await source.list(HttpRef(url), ANONYMOUS)
    finally:
        await source.aclose()


async def refusal(kind: type[P2PCacheError], url: str) -> P2PCacheError:
    with pytest.raises(P2PCacheError) as seen:
        await ask(url)
    assert type(seen.value) is kind, seen.value
    return seen.value


@pytest.mark.parametrize("how", LISTS)
async def test_a_folder_of_nginx_is_what_lies_below_it(
    site: Path, tmp_path: Path, how: str
) -> None:
    with nginx(site, tmp_path / "nginx", extra=LISTS[how]) as server:
        url = f"{server.url}/models/x/"
        listing = await check_source(
            HttpSource(), HttpRef(url), Truth(FILES, "none"),
            Missing(HttpRef(f"{server.url}/models/absent/"), NotFound), SOME_FILE,
        )  # fmt: skip
        assert {file.path: file.size for file in listing.files} == {
            path: len(body) for path, body in FILES.items()
        }
        assert all(file.validator for file in listing.files)
        (site / "models" / "x" / "config.json").write_bytes(b"{ }\n")
        assert (await ask(url)).immutable != listing.immutable
        await refusal(NotFound, f"{server.url}/models/x/nothing/")
        without_slash = await refusal(UsageError, f"{server.url}/models/x")
        assert "slash at its end" in str(without_slash.hint)


@contextlib.contextmanager
def python_server(site: Path, log: Path) -> Iterator[str]:
    port = free_port()
    argv = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)]
    with running([*argv, "--directory", str(site)], port=port, log=log):
        yield f"http://127.0.0.1:{port}"


def test_a_folder_of_pythons_server_is_pulled_verified_and_shared_by_its_cid(
    site: Path, tmp_path: Path
) -> None:
    out, two = tmp_path / "out", tmp_path / "two"
    with (
        python_server(site, tmp_path / "log") as url,
        running_agent(tmp_path / "agent", settings={"resolve.ttl": "0s"}) as agent,
    ):
        done = agent.get(f"{url}/models/x/", to=str(out))
        shown = {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}
        assert shown == FILES
        assert ONE_STREAM in done["notes"], "it ignores ranges"
        part = agent.get(f"{url}/models/x/", to=str(two), include=["sub dir/*"])
        assert part["files"] == 2
        by_name = agent.get(done["manifest"], to=str(tmp_path / "three"), offline=True)
        assert (by_name["files"], by_name["fetched_bytes"]) == (len(FILES), 0)
        with pytest.raises(errors.NotFound):
            agent.get(f"{url}/models/y/")


def index(*hrefs: str) -> Answer:
    body = "<title>Index of /</title>" + "".join(f'<a href="{href}">x</a>' for href in hrefs)
    return Answer(200, body.encode(), (("Content-Type", "text/html"),))


@pytest.fixture
def server() -> Iterator[HubStub]:
    with hub_stub() as running_one:
        yield running_one


async def test_a_page_that_lists_nothing_says_what_to_do(server: HubStub) -> None:
    server.replies["/d/"] = Answer(200, b"<html><title>Hello</title><a href='a.bin'>a</a>")
    seen = await refusal(UsageError, f"{server.url}/d/")
    assert "no list of files" in seen.message
    assert "SHA256SUMS" in str(seen.hint)
    with pytest.raises(UsageError, match="no sha256"):
        await HttpSource().list(HttpRef(f"{server.url}/d/", b"x" * 32), ANONYMOUS)


@pytest.mark.parametrize("href", ["%2e%2e/%2e%2e/x", "%2e%2e", "..%2fx", "a%5c..%5cx"])
async def test_a_name_that_leads_out_of_the_folder_is_refused(server: HubStub, href: str) -> None:
    server.replies["/d/a.bin"] = Answer(200, b"a")
    server.replies["/d/"] = index("a.bin", href)
    if "/" in href:  # below another page: that is none of this folder's
        assert [file.path for file in (await ask(f"{server.url}/d/")).files] == ["a.bin"]
    else:
        await refusal(Untrusted, f"{server.url}/d/")


async def test_a_folder_that_leads_elsewhere_is_refused(server: HubStub) -> None:
    server.replies["/d/sub/"] = Answer(302, b"", (("Location", f"{server.url}/e/"),))
    server.replies["/d/"] = index("sub/")
    server.replies["/e/"] = index("x.bin")
    assert "leads out" in (await refusal(Untrusted, f"{server.url}/d/")).message


async def test_a_folder_without_end_ends(server: HubStub) -> None:
    server.replies["/d/"] = index("d/")  # a reply counts for what is below it, too
    assert "folders" in (await refusal(Untrusted, f"{server.url}/d/")).message


async def test_folders_that_list_more_folders_than_are_asked_are_refused_at_once(
    server: HubStub,
) -> None:
    names = [f"{n:05}" for n in range(8_000)]
    rows = [{"name": name, "type": "directory"} for name in names]
    page = Answer(200, json.dumps(rows).encode())
    server.replies["/wide/"] = page
    for name in names[:10]:
        server.replies[f"/wide/{name}/"] = page
    assert "more than 20000 files" in (await refusal(Untrusted, f"{server.url}/wide/")).message
    assert len(server.asked) <= 4, "what is known is bounded, not only what was asked"


async def test_what_is_too_long_or_fails_is_said(server: HubStub) -> None:
    server.replies["/long/"] = Answer(200, b"<title>Index of /</title>" + b" " * MAX_PAGE_BYTES)
    assert "longer than" in (await refusal(Untrusted, f"{server.url}/long/")).message
    server.replies["/many/"] = Answer(
        200, json.dumps([{"name": f"{n}", "type": "file"} for n in range(20_001)]).encode()
    )
    assert "more than 20000 files" in (await refusal(Untrusted, f"{server.url}/many/")).message
    server.replies["/d/a.bin"] = Answer(503, b"")
    server.replies["/d/"] = index("a.bin")
    await refusal(Unavailable, f"{server.url}/d/")
