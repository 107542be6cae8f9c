"""A collection between the blocks that a call puts and its pin takes none of them."""

import json
from urllib.request import Request, urlopen

import pytest
import trio

from p2pcache.transfer.dag_pins import DagPinner
from tests.support.rpc_server import rpc_server


@pytest.mark.parametrize("call", ["add?chunker=size-4", "block/put?pin=true", "dag/put?pin=true"])
def test_what_a_call_puts_stays_until_it_is_pinned(tmp_path, monkeypatch, call):
    pin, gone = DagPinner.pin, []

    async def collect_then_pin(self, root, *, recursive=True):
        gone.extend(await trio.to_thread.run_sync(self._store.collect_loose))
        await pin(self, root, recursive=recursive)

    monkeypatch.setattr(DagPinner, "pin", collect_then_pin)
    body = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n'
    body += b"Content-Type: application/octet-stream\r\n\r\n" + b'{"a":1}' + b"\r\n--x--\r\n"
    with rpc_server(tmp_path) as server:
        kind = {"Content-Type": "multipart/form-data; boundary=x"}
        url = f"http://{server.host}:{server.port}/api/v0/{call}"
        with urlopen(Request(url, body, kind, method="POST"), timeout=30) as answer:
            rows = [json.loads(line) for line in answer.read().splitlines()]
    assert rows
    assert gone == []
