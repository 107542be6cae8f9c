"""The settings of what speaks IPFS."""

from __future__ import annotations

import pytest

from p2pcache.config import settings
from p2pcache.config.ipfs import IpfsSettings, Public
from p2pcache.errors import UsageError

PEER = "12D3KooWGRUa4KSNjz3JcWQeHYrLT4DBYdYWzYbGhDfFMYQUJDnc"


def test_bitswap_is_off_until_it_is_switched_on(tmp_path):
    assert not settings.load(tmp_path, {}).ipfs.bitswap
    (tmp_path / "config.toml").write_text("[ipfs]\nbitswap = true\n")
    assert settings.load(tmp_path, {}).ipfs.bitswap


def test_the_public_network_is_off_until_it_is_switched_on(tmp_path):
    def load(**said: str) -> IpfsSettings:
        variables = {f"P2PCACHE_IPFS_PUBLIC{key.upper()}": text for key, text in said.items()}
        return settings.load(tmp_path, variables).ipfs

    assert load().public is Public.OFF
    assert load(**{"": "off"}).public is Public.OFF
    assert load(**{"": "fetch"}).public is Public.FETCH
    shares = load(**{"": "Share", "_listen": "/ip4/0.0.0.0/tcp/0, /ip6/::/tcp/4001"})
    assert shares.public is Public.SHARE
    assert shares.public_listen == ("/ip4/0.0.0.0/tcp/0", "/ip6/::/tcp/4001")
    assert load(_limit_up="1 MiB").public_limit_up_bytes_per_s == 1 << 20


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("", "on"),
        ("_LISTEN", "/dns/a.example/tcp/1"),
        ("_LISTEN", "/ip4/1.2.3.4"),
        ("_LISTEN", "/ip4/127.0.0.1/udp/1"),
        ("_LISTEN", f"/ip4/127.0.0.1/tcp/1/p2p/{PEER}"),
        ("_LISTEN", "4802"),
        ("_BOOTSTRAP", "/ip4/127.0.0.1/tcp/1"),
        ("_BOOTSTRAP", "/ip4/127.0.0.1/tcp/1/p2p/QmNnooDu7bfjPFoTZYxMNLWUQJyrVwtbZg5gBMjTezGAJN"),
        ("_ANNOUNCE", f"/ip4/127.0.0.1/tcp/1/p2p/{PEER}"),
    ],
)
def test_what_means_nothing_is_refused(tmp_path, name, text):
    key = rf"ipfs\.public{name.lower()}: "
    with pytest.raises(UsageError, match=key):
        settings.load(tmp_path, {f"P2PCACHE_IPFS_PUBLIC{name}": text})
