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


NO_NETWORK = [
    ("HOSTS", "localhost"), ("HOSTS", "nonsense"), ("HOSTS", ""), ("HOSTS", "none"),
    ("HOSTS", "127.0.0.1, x"), ("HOSTS", "fe80::1%eth0"), ("ANNOUNCE", "x"),
    ("ANNOUNCE", "1.2.3.4"), ("ANNOUNCE", "/ip4/192.0.2.7/tcp/0"),
    ("ANNOUNCE", f"/ip4/192.0.2.7/tcp/4801/p2p/{PEERS[0]}"), ("BOOTSTRAP", "x"),
    ("BOOTSTRAP", "/ip4/192.0.2.7/tcp/4801"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text"), NO_NETWORK)
def test_addresses_that_cannot_be_are_refused_with_what_can(tmp_path, name, text):
    with pytest.raises(UsageError, match=rf"network\.{name.lower()}: .*separated by commas"):
        settings.load(tmp_path, {f"P2PCACHE_NETWORK_{name}": text})


def test_addresses_that_can_be_are_taken(tmp_path):
    here = "/ip4/192.0.2.7/tcp/4801", "/dns/a.example/tcp/4801", "/ip6/2001:db8::1/tcp/1"
    there = f"{here[0]}/p2p/{PEERS[0]}", f"{here[1]}/p2p/{PEERS[1]}"
    network = settings.load(
        tmp_path,
        {
            "P2PCACHE_NETWORK_HOSTS": "192.0.2.7,::1",
            "P2PCACHE_NETWORK_ANNOUNCE": ", ".join(here),
            "P2PCACHE_NETWORK_BOOTSTRAP": ",".join(there),
        },
    ).network
    assert network.hosts == ("192.0.2.7", "::1")
    assert (network.announce, network.bootstrap) == (here, there)
    assert settings.load(tmp_path, {"P2PCACHE_NETWORK_ANNOUNCE": "none"}).network.announce == ()


def test_a_list_in_the_file_is_refused_with_how_to_write_it(tmp_path):
    (tmp_path / "config.toml").write_text('[network]\nhosts = ["127.0.0.1", "::1"]\n')
    with pytest.raises(UsageError, match="not a plain value") as caught:
        settings.load(tmp_path, {})
    assert "one text with commas" in (caught.value.hint or "")


def test_a_zone_is_a_short_name_and_an_empty_label_of_kubernetes_is_none(tmp_path):
    said = {"P2PCACHE_NETWORK_ZONE": " eu-1a ", "P2PCACHE_NETWORK_RACK": ""}
    placed = settings.load(tmp_path, said)
    assert (placed.network.zone, placed.network.rack) == ("eu-1a", "")
    for wrong in ("z" * 65, "a\nb"):
        with pytest.raises(UsageError, match=r"network\.zone"):
            settings.load(tmp_path, {"P2PCACHE_NETWORK_ZONE": wrong})
