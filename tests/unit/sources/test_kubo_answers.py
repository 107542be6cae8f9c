"""What calls itself a Kubo may answer anything: only our errors come of it."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
from typing import TYPE_CHECKING

import pytest

from p2pcache.content import cid as cids
from p2pcache.content.refs import CidRef
from p2pcache.errors import NotFound, Unavailable, Untrusted
from p2pcache.sources.kubo import KuboSource
from p2pcache.sources.kubo_calls import KuboCalls
from p2pcache.sources.kubo_place import KuboPlace
from p2pcache.sources.port import Credentials

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FOLDER = CidRef(cids.make_cid(cids.DAG_PB, b"\x12\x20" + bytes(32)))
DEEP = b"[" * 200_000
HUGE = b"1" + b"0" * 400


@contextlib.contextmanager
def answering(answer: Callable[[str], tuple[int, bytes]]) -> Iterator[str]:
    """Its address; `answer`: status and body for a path."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            status, body = answer(self.path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (200, DEEP, Untrusted),
        (200, b"[]", Untrusted),
        (200, b"{", Untrusted),
        (500, DEEP, Unavailable),
        (500, b"[]", Unavailable),
        (500, b'{"Message": "not pinned"}', NotFound),
    ],
    ids=["deep", "list", "cut", "deep refusal", "list refusal", "refusal"],
)
async def test_an_answer_that_is_none_is_our_error(status, body, error):
    with answering(lambda _: (status, body)) as url, pytest.raises(error):
        await KuboCalls(url, 5.0).rpc("version")


@pytest.mark.parametrize("size", [HUGE, b"-1", b"true", b"1.5", b'"1"', b"null"])
async def test_a_size_that_is_none_is_no_bug(size):
    def answer(path: str) -> tuple[int, bytes]:
        if "pin/ls" in path:
            return 500, b'{"Message": "not pinned"}'
        if "files/stat" in path:
            told = b"" if "with-local" in path else b'"CumulativeSize":' + size
            return 200, b"{" + told + b"}"
        return 200, json.dumps({"Key": "x", "Size": 1}).encode()

    with answering(answer) as url:
        kubo = KuboSource(KuboPlace(url, url))
        with pytest.raises(NotFound, match="the rest it would have to search"):
            await kubo.list(FOLDER, Credentials())
