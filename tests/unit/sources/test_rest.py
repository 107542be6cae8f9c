"""Stores that answer a question without ever coming to an end, or in another alphabet."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

from p2pcache.errors import Unavailable, Untrusted
from p2pcache.sources.azure.listing import read_xml
from p2pcache.sources.rest import Rest
from p2pcache.sources.rest_options import RestOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

OPTIONS = RestOptions(request_timeout_s=5, deadline_s=1)


@contextlib.contextmanager
def dripping(start: bytes) -> Iterator[str]:
    """A server that sends `start`, and then a byte from time to time."""
    stop = threading.Event()

    def answer() -> None:
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(start)
                while not stop.wait(0.1):
                    connection.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        finally:
            stop.set()
            thread.join()


@pytest.mark.parametrize(
    "start",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-Long: ",
    ],
    ids=["body", "body to the end", "header"],
)
def test_an_answer_by_drops_ends_at_the_deadline(start: bytes) -> None:
    began = time.monotonic()
    with (
        dripping(start) as url,
        Rest("the store", OPTIONS) as rest,
        pytest.raises(Unavailable, match="longer than 1 s"),
    ):
        rest.ask("GET", url, {})
    assert time.monotonic() - began < 4


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8"])
def test_entities_are_refused_in_every_encoding(encoding: str) -> None:
    text = f'<?xml version="1.0" encoding="{encoding}"?><!DOCTYPE x [<!ENTITY a "b">]><x>&a;</x>'
    with pytest.raises(Untrusted):
        read_xml(text.encode(encoding), "the store")


def test_an_encoding_that_nobody_knows_is_no_bug_of_ours() -> None:
    text = '<?xml version="1.0" encoding="foo"?><x>\N{EURO SIGN}</x>'
    assert read_xml(b"\xef\xbb\xbf" + text.encode(), "the store").text == "\N{EURO SIGN}"


def test_a_proxy_that_answers_by_drops_ends_at_the_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    began = time.monotonic()
    with (
        dripping(b"HTTP/1.1 200 OK\r\nX-Long: ") as proxy,
        Rest("the store", OPTIONS) as rest,
    ):
        monkeypatch.setenv("HTTPS_PROXY", proxy)
        with pytest.raises(Unavailable, match="longer than 1 s"):
            rest.ask("GET", "https://store.example/", {})
    assert time.monotonic() - began < 4


def test_a_handshake_by_drops_ends_at_the_deadline() -> None:
    hello = b"\x16\x03\x03\x40\x00"  # a record of 16 KiB, of which a byte comes now and then:
    # Python's own timeout is for each of them
    began = time.monotonic()
    with (
        dripping(hello) as url,
        Rest("the store", OPTIONS) as rest,
        pytest.raises(Unavailable, match="longer than 1 s"),
    ):
        rest.ask("GET", url.replace("http://", "https://"), {})
    assert time.monotonic() - began < 4
