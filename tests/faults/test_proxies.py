"""Proxies named by the environment: plain, CONNECT, with a login, and what no_proxy leaves out."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import pytest

from p2pcache.lanes.fetch import fetch
from p2pcache.lanes.orders import BLOCK_BYTES, FaultKind, Location, Tls
from tests.support import faulty_http as fh
from tests.support.connect_proxy import ConnectProxy
from tests.support.faulty_http import FaultyServer
from tests.support.partial_files import PartialFiles, some_bytes
from tests.support.private_ca import make_private_ca

if TYPE_CHECKING:
    from pathlib import Path

BODY = some_bytes(BLOCK_BYTES)


@pytest.fixture
def partial(tmp_path: Path) -> PartialFiles:
    return PartialFiles(tmp_path / "partial", len(BODY))


@pytest.fixture(autouse=True)
def no_proxy_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def test_plain_requests_go_to_the_proxy_whole(
    partial: PartialFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultyServer() as proxy:
        proxy.on("/f", fh.ranged(BODY))
        monkeypatch.setenv("http_proxy", f"http://user:pa%20ss@127.0.0.1:{proxy.port}")
        assert fetch(partial.order("http://origin.invalid/f")).fault is None
        headers = proxy.seen[0][1]
    assert headers["host"] == "origin.invalid"
    login = base64.b64decode(headers["proxy-authorization"].split(" ")[1])
    assert login == b"user:pa ss"


def test_tls_goes_through_a_tunnel(
    partial: PartialFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ca = make_private_ca(tmp_path)
    login = base64.b64encode(b"me:secret").decode()
    with FaultyServer(tls=ca.server_context()) as origin, ConnectProxy(login) as proxy:
        location = Location(origin.on("/f", fh.ranged(BODY)), tls=Tls(ca_file=ca.ca_file))
        monkeypatch.setenv("https_proxy", f"http://me:secret@127.0.0.1:{proxy.port}")
        assert fetch(partial.order(location)).fault is None
        assert proxy.tunnels == [f"127.0.0.1:{origin.port}"]
        assert "proxy-authorization" not in origin.seen[0][1]

        monkeypatch.setenv("https_proxy", f"http://me:wrong@127.0.0.1:{proxy.port}")
        refused = fetch(partial.order(location)).fault
        assert refused is not None
        assert (refused.kind, refused.http_status) == (FaultKind.DENIED, 407)
        assert "wrong" not in refused.message


def test_no_proxy_is_respected(partial: PartialFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultyServer() as origin:
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        url = origin.on("/f", fh.ranged(BODY))
        dead = fetch(partial.order(url)).fault
        assert dead is not None
        assert dead.kind is FaultKind.UNAVAILABLE
        assert "proxy" in dead.message
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert fetch(partial.order(url)).fault is None
