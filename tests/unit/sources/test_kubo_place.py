"""Where a Kubo is: what may be typed, and what it says itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from p2pcache.config.settings import load
from p2pcache.sources.kubo_place import KuboPlace, find_kubo, gateway_url, http_url, parse_kubo

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("http://127.0.0.1:5001", "http://127.0.0.1:5001"),
        ("http://127.0.0.1:5001/", "http://127.0.0.1:5001"),
        ("kubo.lan:5001", "http://kubo.lan:5001"),
        ("https://kubo.lan", "https://kubo.lan"),
        ("http://localhost:5001", "http://127.0.0.1:5001"),
        ("/ip4/127.0.0.1/tcp/5001", "http://127.0.0.1:5001"),
        ("/ip6/::1/tcp/5001", "http://[::1]:5001"),
        ("/dns/kubo.lan/tcp/443/https", "https://kubo.lan:443"),
        ("/data/ipfs/", "/data/ipfs"),
        (" auto ", "auto"),
    ],
)
def test_what_may_be_typed(typed: str, meant: str) -> None:
    assert parse_kubo(typed) == meant


@pytest.mark.parametrize(
    "typed",
    ["", "ftp://x", "http://", "http://me:secret@x", "http://x/api/v0", "http://x?y", "http://x:y"],
)
def test_what_may_not(typed: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_kubo(typed)


def test_a_repository_tells_where_its_daemon_listens_now(tmp_path: Path) -> None:
    assert find_kubo(str(tmp_path)) is None, "no daemon runs"
    (tmp_path / "api").write_text("/ip4/127.0.0.1/tcp/41234\n")
    assert find_kubo(str(tmp_path)) == KuboPlace("http://127.0.0.1:41234")
    (tmp_path / "gateway").write_text("http://127.0.0.1:41235")
    assert find_kubo(str(tmp_path)) == KuboPlace("http://127.0.0.1:41234", "http://127.0.0.1:41235")
    assert find_kubo(str(tmp_path), "http://g:1") == KuboPlace(
        "http://127.0.0.1:41234", "http://g:1"
    )
    assert find_kubo("http://k:5001") == KuboPlace("http://k:5001")


@pytest.mark.parametrize(
    ("value", "url"),
    [
        ("/ip4/127.0.0.1/tcp/8080", "http://127.0.0.1:8080"),
        ("/ip4/0.0.0.0/tcp/8080", "http://10.0.0.7:8080"),
        (["/unix/x", "/ip4/127.0.0.1/tcp/8080"], "http://127.0.0.1:8080"),
        ("/ip4/127.0.0.1/tcp/0", None),
        ([], None),
        (None, None),
        (7, None),
    ],
)
def test_where_its_configuration_has_the_gateway(value: object, url: str | None) -> None:
    assert gateway_url(value, "http://10.0.0.7:5001") == url


@pytest.mark.parametrize("text", ["", "/ip4/1.2.3.4/udp/5", "/ip4/1.2.3.4/tcp/x", "x/y/z/tcp/1", 3])
def test_other_addresses_are_no_url(text: object) -> None:
    assert http_url(text) is None


def test_the_setting_and_what_auto_means(tmp_path: Path) -> None:
    assert load(tmp_path, {}).ipfs.kubo is None
    asked = {"P2PCACHE_IPFS_KUBO": "auto", "IPFS_PATH": str(tmp_path / "ipfs")}
    assert load(tmp_path, asked).ipfs.kubo == str(tmp_path / "ipfs")
    both = {"P2PCACHE_IPFS_KUBO": "k:5001", "P2PCACHE_IPFS_KUBO_GATEWAY": "k:8080"}
    assert load(tmp_path, both).ipfs.kubo_gateway == "http://k:8080"
