"""The settings of what speaks IPFS."""

from __future__ import annotations

import pytest

from p2pcache.config import settings
from p2pcache.errors import UsageError


def test_bitswap_is_off_until_it_is_switched_on(tmp_path):
    assert not settings.load(tmp_path, {}).ipfs.bitswap
    (tmp_path / "config.toml").write_text("[ipfs]\nbitswap = true\n")
    assert settings.load(tmp_path, {}).ipfs.bitswap


def test_the_public_network_is_refused_with_what_there_is_instead(tmp_path):
    assert settings.load(tmp_path, {"P2PCACHE_IPFS_PUBLIC": "off"})
    with pytest.raises(UsageError, match=r"ipfs\.public: .*ipfs\.bitswap"):
        settings.load(tmp_path, {"P2PCACHE_IPFS_PUBLIC": "on"})
