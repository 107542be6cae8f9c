"""What was seen of truss-transfer to go wrong, and does not here."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

import pytest

from p2pcache import errors
from p2pcache.formats.bptr.pointers import (
    MODEL_PATH,
)
from tests.support.agents import Agent, running_agent
from tests.support.bptr_files import DATA, pointer, pull, unique, written
from tests.support.faulty_http import FaultyServer, ranged
from tests.support.tmpfs import tmpfs

if TYPE_CHECKING:
    from pathlib import Path


def test_corrupted_bytes_of_the_right_size_are_refused_and_not_shown(
    tmp_path: Path, agent: Agent, server: FaultyServer
) -> None:
    data, sha256 = unique("corrupted")
    url = server.on("/m.bin", ranged(data[:-1] + b"x"))
    file = written(tmp_path, pointer(url, hash=sha256, size=len(data)))
    with pytest.raises(errors.Untrusted):
        pull(agent, file, tmp_path / "to")
    assert not (tmp_path / "to" / "model.bin").exists()


def test_a_pull_that_failed_in_the_middle_leaves_no_file_and_goes_on_from_there(
    tmp_path: Path, agent: Agent, server: FaultyServer
) -> None:
    data, sha256 = unique("in the middle")
    healthy, first_sent = ranged(data), threading.Event()

    def later_blocks_fail(exchange: Any) -> bool:
        asked = exchange.range
        if asked is not None and asked[0] >= 1 << 20:
            first_sent.wait(5)
            exchange.wait(1)  # for whoever asked for the first block to verify it
            exchange.head(404, Content_Length=0)
            return True
        healthy(exchange)
        if asked is not None and asked[1] == 1 << 20:
            first_sent.set()
        return True

    url = server.on("/m.bin", later_blocks_fail)
    file = written(tmp_path, pointer(url, hash=sha256, size=len(data)))
    with pytest.raises(errors.P2PCacheError):
        pull(agent, file, tmp_path / "to")
    assert not (tmp_path / "to" / "model.bin").exists()
    server.on("/m.bin", healthy)
    done = pull(agent, file, tmp_path / "to")
    assert done["fetched_bytes"] == len(data) - (1 << 20), "the first block was kept"
    assert (tmp_path / "to" / "model.bin").read_bytes() == data


def test_a_damaged_file_of_the_right_size_is_replaced(
    tmp_path: Path, agent: Agent, server: FaultyServer
) -> None:
    file = written(tmp_path, pointer(server.on("/m.bin", ranged(DATA))))
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "model.bin").write_bytes(bytes(len(DATA)))
    done = pull(agent, file, tmp_path / "to")
    assert (tmp_path / "to" / "model.bin").read_bytes() == DATA
    assert any("replaced" in note for note in done["notes"])


@pytest.mark.parametrize("name", ["../../../x", "/etc/x", f"{MODEL_PATH}/../x", "a/../../x", ""])
def test_no_name_leaves_the_folder_and_no_byte_is_asked_for(
    tmp_path: Path, agent: Agent, server: FaultyServer, name: str
) -> None:
    file = written(tmp_path, pointer(server.on("/m.bin", ranged(DATA)), file_name=name))
    with pytest.raises(errors.Untrusted):
        pull(agent, file, tmp_path / "to")
    assert server.seen == []


def test_what_is_cached_on_the_same_disk_is_both_in_the_folder_and_in_the_store(
    tmp_path: Path, agent: Agent, server: FaultyServer
) -> None:
    data, sha256 = unique("same disk")
    url = server.on("/m.bin", ranged(data))
    file = written(tmp_path, pointer(url, hash=sha256, size=len(data)))
    pull(agent, file, tmp_path / "to")
    asked = len(server.seen)
    # Whatever room is left on the disk: there is no headroom below which nothing is kept.
    again = pull(agent, file, tmp_path / "to2")
    assert (again["fetched_bytes"], len(server.seen)) == (0, asked)
    for folder in ("to", "to2"):
        assert (tmp_path / folder / "model.bin").read_bytes() == data


def test_across_disks_the_file_is_whole_and_the_store_still_has_it(
    tmp_path: Path, agent: Agent, server: FaultyServer
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can mount another disk")
    data, sha256 = unique("across disks")
    url = server.on("/m.bin", ranged(data))
    file = written(tmp_path, pointer(url, hash=sha256, size=len(data)))
    with tmpfs(tmp_path / "disk", 16 << 20) as other:
        assert pull(agent, file, other.path / "to")["made"] == {"copy": 1}
        assert (other.path / "to" / "model.bin").read_bytes() == data
        (other.path / "to" / "model.bin").unlink()
        assert pull(agent, file, other.path / "to")["fetched_bytes"] == 0
        assert (other.path / "to" / "model.bin").read_bytes() == data


def test_pointers_are_brought_through_the_proxy_of_the_environment(tmp_path: Path) -> None:
    data, sha256 = unique("proxy")
    file = written(tmp_path, pointer("http://origin.invalid/m.bin", hash=sha256, size=len(data)))
    with FaultyServer() as proxy:
        proxy.on("/m.bin", ranged(data))
        with running_agent(tmp_path / "new", http_proxy=f"http://127.0.0.1:{proxy.port}") as fresh:
            pull(fresh, file, tmp_path / "to")
        assert {headers["host"] for _, headers in proxy.seen} == {"origin.invalid"}
    assert (tmp_path / "to" / "model.bin").read_bytes() == data
