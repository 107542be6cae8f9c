"""Limits of one agent: of all it gets, of all it gives, and by the hour."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.adopted import adopt, write_old
from tests.support.agents import running_agent
from tests.support.blobs import MIB, sha256_file, write_blob
from tests.support.kubo_daemon import kubo_daemon
from tests.support.network import network
from tests.support.nginx import nginx
from tests.support.pulling import Pull
from tests.support.registry import registry
from tests.support.wallclock import wall_clock

if TYPE_CHECKING:
    from pathlib import Path

    from p2pcache.agent.localapi.answers import Progress
    from tests.support.agents import Agent

pytestmark = pytest.mark.slow

NOON_S = 12 * 3600


def until_noon_s() -> int:
    """Seconds from now to an hour after noon by UTC."""
    return int(NOON_S + 3600 - time.time() % 86400)


def limits_of(agent: Agent) -> dict[str, Any]:
    with agent.client() as client:
        return dict(client.status()["limits"])


def test_all_pulls_together_keep_to_the_limit_and_the_hour_changes_it(tmp_path: Path):
    """In the night there is none: what began under the limit ends without it."""
    clock = wall_clock(tmp_path)
    clock.shift(until_noon_s())
    settings = {
        "limits.down": "4MiB", "limits.up": "2MiB", "limits.night": "22:00-06:00 up=none down=none",
    }  # fmt: skip
    blobs = [write_blob(tmp_path / "site", size * MIB, size) for size in (5, 6, 48)]
    env = {**clock.env, "TZ": "UTC"}
    with (
        nginx(tmp_path / "site", tmp_path / "nginx") as origin,
        running_agent(tmp_path / "a", settings=settings, **env) as agent,
    ):
        assert limits_of(agent) == {
            "up_bytes_per_s": 2 * MIB, "down_bytes_per_s": 4 * MIB, "by_the_hour": True,
        }  # fmt: skip
        began = time.monotonic()
        with Pull(agent, blobs[0].ref(origin)), Pull(agent, blobs[1].ref(origin)):
            pass
        took_s = time.monotonic() - began
        assert took_s > 0.75 * 11 / 4, "11 MiB at 4 MiB/s, in two pulls at once"
        with Pull(agent, blobs[2].ref(origin)) as pull:
            pull.wait_bytes(2 * MIB)
            clock.shift(until_noon_s() + NOON_S)
            night = time.monotonic()
        assert pull.error is None
        assert time.monotonic() - night < 9, "46 MiB at 4 MiB/s are 11 s"
        assert limits_of(agent)["down_bytes_per_s"] is None
        told = subprocess.run(
            [sys.executable, "-m", "p2pcache", "status"], env=agent.env, capture_output=True,
            check=True, text=True,
        )  # fmt: skip
        assert "limits   up no limit, down no limit at this hour" in told.stdout


def test_what_others_get_is_limited_by_the_hour(tmp_path: Path):
    clock = wall_clock(tmp_path)
    clock.shift(until_noon_s())
    large = write_old(
        tmp_path / "theirs" / "large", write_blob(tmp_path, 40 * MIB).path.read_bytes()
    )
    small = write_old(
        tmp_path / "theirs" / "small", write_blob(tmp_path, 5 * MIB).path.read_bytes()
    )
    settings = {"limits.night": "06:00-22:00 up=3MiB"}
    env = {**clock.env, "TZ": "UTC"}
    with network(tmp_path, 2, each={0: settings}, env=env) as (a, b):
        adopt(a, large.parent)
        refs = [f"sha256:{sha}" for sha in map(sha256_file, (small, large))]
        began = time.monotonic()
        b.get(refs[0])
        assert time.monotonic() - began > 0.75 * 5 / 3, "5 MiB at 3 MiB/s"
        with Pull(b, refs[1]) as pull:
            pull.wait_bytes(2 * MIB)
            clock.shift(until_noon_s() + NOON_S)
            night = time.monotonic()
        assert pull.error is None
        assert time.monotonic() - night < 9, "38 MiB at 3 MiB/s are 13 s"


def test_pushes_together_keep_to_the_limit_and_the_hour_changes_it(tmp_path: Path):
    """To a registry; what began under the limit ends without it."""
    clock = wall_clock(tmp_path)
    clock.shift(until_noon_s())
    settings = {
        "limits.up": "4MiB", "limits.night": "22:00-06:00 up=none", "network.enabled": "off",
    }  # fmt: skip
    blobs = [write_blob(tmp_path, size * MIB, size).path for size in (5, 6, 64)]
    env = {**clock.env, "TZ": "UTC"}
    with (
        registry(tmp_path / "registry") as there,
        running_agent(tmp_path / "a", settings=settings, **env) as agent,
        ThreadPoolExecutor(2) as pool,
    ):
        sent_bytes = 0

        def push(path: Path) -> None:
            def watch(progress: Progress) -> None:
                nonlocal sent_bytes
                if progress.get("phase") == "sending":
                    sent_bytes = progress.get("done_bytes", 0)

            with agent.client() as client:
                client.push(str(path), to=f"oci://{there.host}/{path.name}:v1", on_progress=watch)

        began = time.monotonic()
        list(pool.map(push, blobs[:2]))
        assert time.monotonic() - began > 0.75 * 11 / 4, "11 MiB at 4 MiB/s, in two pushes at once"
        sent_bytes = 0
        pushing = pool.submit(push, blobs[2])
        while sent_bytes < 2 * MIB:
            assert not pushing.done()
            time.sleep(0.05)
        clock.shift(until_noon_s() + NOON_S)
        night = time.monotonic()
        pushing.result()
        assert time.monotonic() - night < 12, "62 MiB at 4 MiB/s are 15 s"


def test_a_push_to_a_kubo_keeps_to_the_limit_and_to_its_own(tmp_path: Path):
    settings = {"limits.up": "4MiB", "network.enabled": "off"}
    (tmp_path / "repo").mkdir()
    with (
        kubo_daemon(tmp_path / "repo", None) as kubo,
        running_agent(tmp_path / "a", settings=settings) as agent,
        agent.client() as client,
    ):
        for mib, rate in ((12, None), (5, 2 * MIB)):
            path = write_blob(tmp_path, mib * MIB, mib).path
            began = time.monotonic()
            client.push(str(path), to="ipfs", kubo=str(kubo.repo), limit_rate=rate)
            assert time.monotonic() - began > (2.0 if rate is None else 1.8)
