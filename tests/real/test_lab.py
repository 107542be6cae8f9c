"""The acts of scripts/lab, each on a LAN of its own; and that everything is removed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import lab, preload_run
from tests.support.namespaces import can_make_namespaces, lan, mac_of, namespaces
from tests.support.wire_count import parse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.hub_repo import HubRepo

REPO = Path(__file__).resolve().parents[2]
needs_root = pytest.mark.skipif(not can_make_namespaces(), reason="needs network namespaces")

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> HubRepo:
    return lab.model(tmp_path_factory.mktemp("repo"))


@pytest.fixture
def made(tmp_path: Path) -> Iterator[lab.Lab]:
    with lab.lab(tmp_path / "lab", print) as one:
        yield one


@needs_root
@pytest.mark.slow
def test_three_find_each_other_and_share_and_a_fourth_needs_no_origin(made: lab.Lab, repo: HubRepo):
    figures = lab.share(made, repo)
    assert figures["found_s"] < lab.FOUND_S


@needs_root
@pytest.mark.slow
@pytest.mark.parametrize("how", ["cable", "interface"])
def test_a_link_that_is_down_for_ten_seconds_costs_time_and_no_byte(
    made: lab.Lab, repo: HubRepo, how: str
):
    lab.outage(made, repo, how=how)


@needs_root
@pytest.mark.slow
def test_two_networks_on_one_bridge_never_exchange_a_byte(made: lab.Lab, repo: HubRepo):
    lab.two_networks(made, repo, watch_s=8)


@needs_root
@pytest.mark.slow
def test_a_preload_outlasts_a_kill_and_lets_a_get_go_first(tmp_path: Path):
    preload_run.act(tmp_path, print)


@needs_root
def test_a_lan_is_removed_with_what_runs_on_it():
    with lan(2, tag="p2ptest") as net:
        assert len(namespaces("p2ptest")) == 3
        left = subprocess.Popen(net.argv(0, ["sleep", "600"]))
    assert left.wait(10) == -signal.SIGKILL
    assert not namespaces("p2ptest")


@needs_root
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_the_lab_removes_everything_when_it_is_interrupted(tmp_path: Path, how: signal.Signals):
    env = os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": str(REPO)}
    running = subprocess.Popen(
        [sys.executable, "-m", "scripts.lab", "share"],
        cwd=REPO, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert running.stdout is not None
    with running.stdout as said:
        assert any("network key is copied" in line for line in said), "it did not come so far"
        ours = f"p2plab{running.pid}"
        assert len(namespaces(ours)) == 6
        running.send_signal(how)
        rest = said.read()
    assert running.wait(30) == {signal.SIGINT: 130, signal.SIGTERM: 143}[how], rest
    assert not namespaces(ours)
    assert not list(tmp_path.iterdir()), "its folder is gone too"


def test_the_lab_says_that_it_needs_root(tmp_path: Path):
    if os.geteuid() == 0:
        pytest.skip("this is root")
    done = subprocess.run([REPO / "scripts" / "lab"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "only root may do" in done.stderr


def test_the_counter_counts_payload_and_not_headers():
    ethernet = bytes.fromhex((mac_of(1) + mac_of(0)).replace(":", ""))
    tcp = (4801).to_bytes(2, "big") + (50000).to_bytes(2, "big") + bytes(8) + b"\x80" + bytes(19)
    four = b"\x45\x00" + (20 + 32 + 7).to_bytes(2, "big") + bytes(5) + b"\x06" + bytes(10)
    frame = ethernet + b"\x08\x00" + four + tcp + b"payload"
    assert parse(frame, len(frame)) == ("tcp", 4801, 7)
    # a short frame is filled up on a real wire
    four_empty = four[:2] + (20 + 32).to_bytes(2, "big") + four[4:]
    padded = ethernet + b"\x08\x00" + four_empty + tcp + bytes(9)
    assert parse(padded, len(padded)) == ("tcp", 4801, 0)
    six = b"\x60\x00\x00\x00" + (32 + 5).to_bytes(2, "big") + b"\x06\x40" + bytes(32)
    frame = ethernet + b"\x86\xdd" + six + tcp + b"bytes"
    assert parse(frame, len(frame)) == ("tcp", 4801, 5)
    assert parse(ethernet + b"\x08\x06" + bytes(28), 42) == ("other", 0, 0)
