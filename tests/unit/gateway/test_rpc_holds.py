"""A collection between the blocks that a call puts and its pin takes none of them."""

import json
from urllib.request import Request, urlopen

import pytest
import trio

from p2pcache.transfer.dag_pins import DagPinner
from tests.support.kubo_rpc import FILE
from tests.support.rpc_server import rpc_server


@pytest.fixture
def gone(monkeypatch):
    """What collections took that ran just before each pin."""
    pin, gone = DagPinner.pin, []

    async def collect_then_pin(self, root, *, recursive=True):
        gone.extend(await trio.to_thread.run_sync(self._store.collect_loose))
        await pin(self, root, recursive=recursive)

    monkeypatch.setattr(DagPinner, "pin", collect_then_pin)
    return gone


@pytest.mark.parametrize("call", ["add?chunker=size-4", "block/put?pin=true", "dag/put?pin=true"])
def test_what_a_call_puts_stays_until_it_is_pinned(tmp_path, gone, call):
    body = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n'
    body += b"Content-Type: application/octet-stream\r\n\r\n" + b'{"a":1}' + b"\r\n--x--\r\n"
    with rpc_server(tmp_path) as server:
        kind = {"Content-Type": "multipart/form-data; boundary=x"}
        url = f"http://{server.host}:{server.port}/api/v0/{call}"
        with urlopen(Request(url, body, kind, method="POST"), timeout=30) as answer:
            rows = [json.loads(line) for line in answer.read().splitlines()]
    assert rows
    assert gone == []


def test_what_the_files_api_writes_stays_until_its_root_is_pinned(tmp_path, gone):
    with rpc_server(tmp_path) as server:
        for call in (
            "mkdir?arg=/a/b&parents=true", "cp?arg=/a&arg=/c", "mv?arg=/c&arg=/a/d",
            "rm?arg=/a/b&recursive=true",
        ):  # fmt: skip
            said = server.post(f"files/{call}")
            assert (said.status, said.body) == (200, b""), call
        for start in (0, 9):
            call = f"files/write?arg=/a/f&create=true&chunker=size-4&offset={start}"
            said = server.upload(call, ("x", b"0123456789", FILE))
            assert (said.status, said.body) == (200, b"")
        assert server.post("files/read?arg=/a/f").body == b"0123456780123456789"
        kept = server.post("files/stat?arg=/&with-local=true").lines[0]
    assert kept["Local"]
    assert gone, "the folders as they were before a change"
