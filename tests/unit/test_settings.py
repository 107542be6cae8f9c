"""Settings: what is refused, and that it says which one."""

from __future__ import annotations

import pytest

from p2pcache.config import settings
from p2pcache.errors import UsageError


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("P2PCACHE_FETCH_LIMIT_RATE", "0"),
        ("P2PCACHE_FETCH_NO_PROGRESS", "0s"),
        ("P2PCACHE_FETCH_CONNECT_TIMEOUT", "0s"),
        ("P2PCACHE_FETCH_PATIENCE", "0ms"),
        ("P2PCACHE_RESOLVE_TIMEOUT", "0s"),
        ("P2PCACHE_STORE_CAPACITY", "0"),
        ("P2PCACHE_FETCH_PATIENCE", "nan"),
    ],
)
def test_a_setting_that_cannot_work_is_refused(tmp_path, variable, text):
    with pytest.raises(UsageError):
        settings.load(tmp_path, {variable: text})


def test_other_variables_are_not_ours_to_judge(tmp_path):
    there = {"P2PCACHE_HOME": "/x", "P2PCACHE_NO_PROGRESS": "1", "PATH": "/bin", "P2P_OTHER": "1"}
    loaded = settings.load(tmp_path, {**there, "P2PCACHE_FETCH_LIMIT_RATE": "1 MiB/s"})
    assert loaded.fetch.rate_bytes_per_s == 1 << 20
    assert loaded.unknown == ()
    assert settings.load(tmp_path, {"P2PCACHE_RESOLVE_TTL": "0s"}).resolve.ttl_s == 0


def test_a_mistyped_variable_is_named_and_those_of_kubernetes_are_not(tmp_path):
    there = ["P2PCACHE_FETCH_NO_PROGRES", "P2PCACHE_TYPO", "P2PCACHE_PORTS"]
    injected = ["P2PCACHE_SERVICE_HOST", "P2PCACHE_SERVICE_PORT_HTTP", "P2PCACHE_PORT",
                "P2PCACHE_PORT_8080_TCP_ADDR"]  # fmt: skip
    loaded = settings.load(tmp_path, dict.fromkeys([*injected, *there], "1"))
    assert loaded.unknown == tuple(sorted(there))


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("store.reserve", 1 << 29, "512 MiB"), ("store.reserve", 0, "0"),
        ("store.capacity", None, "none"), ("store.capacity", 1_000_000_001, "1000000001 B"),
        ("fetch.patience", 120.0, "120s"), ("fetch.patience", 0.25, "0.25s"),
        ("fetch.limit_rate", 3 << 20, "3 MiB"), ("fetch.max_streams", 16, "16"),
        ("lanes.tls", True, "on"), ("network.mdns", False, "off"), ("lanes.port", 0, "0"),
        ("network.hosts", ("0.0.0.0", "::"), "0.0.0.0, ::"), ("network.dns", (), "none"),
    ],
)  # fmt: skip
def test_a_value_is_shown_as_it_may_be_written(key, value, text):
    (setting,) = (one for one in settings.SETTINGS if one.key == key)
    assert setting.text(value) == text
    assert setting.show(setting.parse(text)) == value


def test_every_setting_can_be_set_to_what_is_shown_of_it(tmp_path):
    for one in settings.SETTINGS:
        shown = settings.load(tmp_path, {}).show()[one.key]["text"]
        again = settings.load(tmp_path, {one.variable: shown}).show()[one.key]
        assert again["text"] == shown


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[agent]\nlabels = 'a=b=c'", "`a=b=c` is no label"),
        ("[fetch]\nmax_streams = 1000000000", "`1000000000` is more than 256"),
        ("[store]\nreserve = true", "'true' is not a size"),
        ("[store]\ncapacty = 1", "unknown setting `store.capacty`"),
    ],
)
def test_what_makes_no_sense_is_refused_as_it_was_written(tmp_path, text, says):
    (tmp_path / "config.toml").write_text(text)
    with pytest.raises(UsageError) as caught:
        settings.load(tmp_path, {})
    assert says in caught.value.message
    if "capacty" in text:
        assert caught.value.hint == "did you mean `store.capacity`?"
