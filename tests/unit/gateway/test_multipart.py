"""Bodies of the RPC: what they hold comes out however they arrive, and what is none is refused."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pcache.content.dag.build import PROFILES, FileBuilder, Root
from p2pcache.errors import UsageError
from p2pcache.gateway.kubo_rpc.add import Adder, Written, chunk_bytes
from p2pcache.gateway.kubo_rpc.multipart import (
    Data,
    Event,
    File,
    FileEnd,
    Folder,
    Parts,
    Symlink,
    clean_path,
)
from p2pcache.gateway.kubo_rpc.query import BadRequest, Query
from tests.support.kubo_rpc import FILE, FOLDER, SYMLINK, multipart

BODY = multipart(
    [
        ("d", b"", FOLDER),
        ("d%2Fa+b%C3%BC", b"hello\r\n--X", FILE),
        ("d/ln", b"../x", SYMLINK),
        ("", b"", FILE),
    ]
)


def events(body: bytes, step: int) -> list[Event]:
    """What comes of a body that arrives `step` bytes at a time; bytes of one file in one piece."""
    parts = Parts(b"XX")
    found: list[Event] = []
    for at in range(0, len(body), step):
        for event in parts.feed(body[at : at + step]):
            if isinstance(event, Data) and found and isinstance(found[-1], Data):
                found[-1] = Data(found[-1].data + event.data)
            else:
                found.append(event)
        parts.feed(b"").clear()
    parts.close()
    return found


@pytest.mark.parametrize("step", [1, 2, 7, 64, 10_000])
def test_a_body_is_the_same_however_it_arrives(step):
    assert events(BODY, step) == [
        Folder("d"), File("d/a bü"), Data(b"hello\r\n--X"), FileEnd(), Symlink("d/ln", "../x"),
        File(""), FileEnd(),
    ]  # fmt: skip


@given(st.binary(max_size=300), st.integers(1, 300))
def test_whatever_comes_is_a_body_or_refused(data, cut):
    for body in (data, BODY[:cut] + data, BODY[:cut] + data + BODY[cut:]):
        with suppress(UsageError):
            events(body, 50)


def test_a_body_cut_short_is_refused():
    for cut in (10, 100, len(BODY) - 5):
        with pytest.raises(BadRequest):
            events(BODY[:cut], 64)


def test_headers_without_end_are_refused_as_they_come():
    for body in (
        b'--XX\r\nContent-Disposition: form-data; filename="' + b"x" * (1 << 16),
        b"--XX\r\n" + b"A: b\r\n" * 1000,
    ):
        with pytest.raises(BadRequest):
            Parts(b"XX").feed(body)


def test_a_symlink_to_far_too_much_is_refused():
    with pytest.raises(UsageError):
        events(multipart([("ln", b"x" * 4097, SYMLINK)]), 1000)
    with pytest.raises(UsageError):
        events(multipart([("ln", b"\xff", SYMLINK)]), 1000)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("a/b", "a/b"),
        ("../x", "x"),
        ("a/../../x", "x"),
        ("/abs//./x/", "abs/x"),
        ("..", ""),
        ("", ""),
    ],
)
def test_names_stay_below_the_root(name, path):
    assert clean_path(name) == path


def test_names_that_no_folder_holds_are_refused():
    for name in ("a\0b", "x" * 4097, "a\udcff"):
        with pytest.raises(UsageError):
            clean_path(name)
    with pytest.raises(UsageError):
        events(multipart([("%FF%", b"", FILE)]).replace(b"%FF%", b"\xff"), 100)


async def taken(adder: Adder, path: str, root: Root) -> list[object]:
    return [row async for row in adder.take(path, root)]


async def test_a_name_that_comes_twice_or_is_a_file_and_a_folder_is_refused():
    profile = PROFILES["unixfs-v1-2025"]
    root = FileBuilder(profile).finish()
    for paths in (("d/a", "d/a"), ("d/a", "d/a/b"), ("d/a/b", "d/a")):
        adder = Adder(profile, Written(None), None, wrap=False, silent=False)
        assert await taken(adder, paths[0], root)
        with pytest.raises(UsageError):
            await taken(adder, paths[1], root)


def test_options_as_clients_send_them():
    query = Query(
        [("pin", "True"), ("w", "true"), ("n", ""), ("offset", "0x10"), ("timeout", "1m2.5s")]
    )
    assert query.flag("pin")
    assert query.flag("wrap-with-directory", "w")
    assert query.flag("only-hash", "n")
    assert not query.flag("quiet")
    assert query.integer("offset") == 16
    assert query.seconds("timeout") == 62.5
    for bad in ([("pin", "maybe")], [("pin", "1"), ("pin", "0")]):
        with pytest.raises(BadRequest):
            Query(bad).flag("pin")
    for bad in ("x", "9" * 30, "1e3"):
        with pytest.raises(BadRequest):
            Query([("offset", bad)]).integer("offset")
    with pytest.raises(BadRequest):
        Query([("timeout", "soon")]).seconds("timeout")
    with pytest.raises(UsageError, match="nocopy"):
        Query([("nocopy", "true")]).unsupported("nocopy")
    Query([("nocopy", "false")]).unsupported("nocopy")


def test_chunkers():
    assert chunk_bytes(None, 7) == 7
    assert chunk_bytes("default", 7) == 262144
    assert chunk_bytes("size-1", 7) == 1
    for bad in ("size-0", "size-", "size--1", "size-2097152", "rabin-1-2-3", "buzhash", "x" * 1000):
        with pytest.raises(UsageError):
            chunk_bytes(bad, 7)
