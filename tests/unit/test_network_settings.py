"""The network's settings, from text and back."""

from __future__ import annotations

import pytest

from p2pcache.config import settings
from p2pcache.config.network import format_trust, trust
from p2pcache.errors import UsageError

PEERS = (
    "12D3KooWCSLtuJDDCZZqQCXzfiWVfgRkN7TQozMC3dNB9zuWfTDd",
    "12D3KooWFTGUTqiLGmhuTnVxRqVXY17w222kPm5ezCZGSpPCiq5t",
)


@pytest.mark.parametrize("text", ["any", "none", PEERS[0], ", ".join(PEERS)])
def test_whose_word_counts_is_shown_as_it_is_written(text, tmp_path):
    assert format_trust(trust(text)) == text
    config = settings.load(tmp_path, {"P2PCACHE_NAMES_TRUST": text})
    assert config.show()["names.trust"]["value"] == text


def test_every_default_is_shown_as_plain_values(tmp_path):
    for name, shown in settings.load(tmp_path, {}).show().items():
        plain = str | int | float | bool | list | tuple | None
        assert isinstance(shown["value"], plain), name


def test_what_is_no_peer_id_is_refused_by_the_settings_name(tmp_path):
    with pytest.raises(UsageError, match=r"names\.trust"):
        settings.load(tmp_path, {"P2PCACHE_NAMES_TRUST": "alice"})
