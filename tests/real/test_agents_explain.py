"""What real agents that start together tell of it: copies, the bound, owners, a trace."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from p2pcache.transfer.replay import replay
from tests.support.agents import frozen
from tests.support.blobs import MIB, ServedBlob, write_blob
from tests.support.network import network, peer_id
from tests.support.nginx import nginx
from tests.support.pulling import Pull

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

SETTINGS = {"fetch.limit_rate": "8 MiB"}


@pytest.fixture(scope="module")
def blob(tmp_path_factory: pytest.TempPathFactory) -> ServedBlob:
    return write_blob(tmp_path_factory.mktemp("origin"), 48 * MIB + 12_345)


def test_three_that_start_together_hear_what_the_origin_s_own_log_says(
    tmp_path: Path, blob: ServedBlob
):
    lines: list[str] = []
    first = threading.Event()

    def note(line: str) -> None:
        lines.append(line)
        first.set()

    with (
        nginx(blob.path.parent, tmp_path / "nginx") as server,
        network(tmp_path, 3, settings=SETTINGS) as agents,
    ):
        follower = agents[0].client()
        thread = threading.Thread(target=lambda: follower.trace(note, once=True), daemon=True)
        thread.start()
        assert first.wait(20)
        ref = blob.ref(server)
        pulls = [Pull(agent, ref) for agent in agents]
        with pulls[0], pulls[1], pulls[2]:
            pass
        assert [pull.error for pull in pulls] == [None] * 3
        receipts = [agent.why() for agent in agents]
        copies = server.body_bytes() / blob.size
        thread.join(20)
        follower.close()
    assert sum(r["origin_copies"]["own"] for r in receipts) == pytest.approx(copies, abs=0.15)
    for receipt in receipts:
        assert receipt["origin_copies"]["heard"] == pytest.approx(copies, abs=0.25)
        assert sum(receipt["where"].values()) == pytest.approx(receipt["times"]["fetch_s"])
        assert receipt["bound"]["nodes"] == 3
        assert receipt["bound"]["ratio"] >= 0.99
    (found,) = replay(lines)
    assert found.difference is None
    assert found.incomplete is None


def test_an_owner_that_is_frozen_is_named_by_those_that_waited(tmp_path: Path, blob: ServedBlob):
    with (
        nginx(blob.path.parent, tmp_path / "nginx") as server,
        network(tmp_path, 3, settings=SETTINGS) as (a, b, c),
    ):
        ref = blob.ref(server)
        with Pull(a, ref) as first, Pull(b, ref) as second, Pull(c, ref) as third:
            first.wait_bytes(8 * MIB)
            with frozen(c):
                for pull in (first, second):
                    pull.wait_end()
        assert (first.error, second.error, third.error) == (None, None, None)
        name = peer_id(c)
        told = [
            incident["text"]
            for agent in (a, b)
            for incident in agent.why()["incidents"]
            if incident["source"] == name
        ]
    assert told, "both waited for it, and its pieces went to others"
    assert any("taken over" in text or "brought nothing" in text for text in told), told
