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
