"""Origins that lie about what a file is, or that have another version of it a moment later."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from p2pcache import errors
from tests.support import faulty_http as fh
from tests.support.agents import Agent, running_agent
from tests.support.blobs import MIB, left_behind, sha256_file
from tests.support.faulty_http import FaultyServer
from tests.support.partial_files import some_bytes
from tests.support.pulling import Pull
from tests.support.watched_pull import QUICK

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    with running_agent(tmp_path_factory.mktemp("agent"), settings=QUICK) as running:
        yield running


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer() as running:
        yield running


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("claimed", [3 * MIB, 6 * MIB, 9 * MIB])
def test_who_lies_about_a_digest_does_not_block_it_for_the_honest(
    agent: Agent, server: FaultyServer, claimed: int
) -> None:
    good = some_bytes(6 * MIB, b"good %d" % claimed)
    pin = f"#sha256={sha256(good)}"
    evil = server.on("/evil", fh.ranged(some_bytes(claimed, b"evil"))) + pin
    with pytest.raises(errors.Untrusted):
        agent.get(evil)
    assert left_behind(agent.home) == [], "the bytes of a lie are not kept"
    done = agent.get(server.on("/good", fh.ranged(good)) + pin)
    assert done["fetched_bytes"] == len(good)
    assert sha256_file(next((agent.home / "blobs-v1").rglob(sha256(good)))) == sha256(good)


def test_the_progress_of_the_honest_does_not_stop_at_a_lie_about_the_size(
    agent: Agent, server: FaultyServer
) -> None:
    good = some_bytes(6 * MIB, b"stopped on its way")
    pin = f"#sha256={sha256(good)}"
    half = fh.first(2, fh.cut(good, 2 * MIB, fh.hang_up), fh.status(404))
    with pytest.raises(errors.P2PCacheError):
        agent.get(server.on("/half", fh.first(1, fh.ranged(good), half)) + pin)
    with pytest.raises(errors.Untrusted):
        agent.get(server.on("/evil", fh.ranged(some_bytes(3 * MIB, b"evil"))) + pin)
    agent.get(server.on("/good", fh.ranged(good)) + pin)
    assert left_behind(agent.home) == []


def versions(old: bytes, new: bytes, after: int, **headers: object) -> fh.Answer:
    """`old` for so many requests, then `new`; each with its ETag unless `headers` say otherwise."""
    old_headers = {"ETag": '"v1"'} if not headers else {}
    new_headers = {"ETag": '"v2"'} if not headers else {}
    return fh.first(after, fh.ranged(old, **old_headers), fh.ranged(new, **new_headers))


@pytest.mark.parametrize("after", [1, 3])
def test_a_file_that_changes_on_its_way_is_not_mixed_of_two_versions(
    agent: Agent, server: FaultyServer, tmp_path: Path, after: int
) -> None:
    old, new = some_bytes(48 * MIB, b"old %d" % after), some_bytes(48 * MIB, b"new %d" % after)
    url = server.on("/model.bin", versions(old, new, after))
    with pytest.raises(errors.Untrusted, match="changed while it was fetched"):
        agent.get(url, to=str(tmp_path / "out"))
    assert not (tmp_path / "out" / "model.bin").exists()
    agent.get(url, to=str(tmp_path / "out"))  # now it is the new one all through
    assert (tmp_path / "out" / "model.bin").read_bytes() == new
    asked = server.headers_of("/model.bin")
    assert any(headers.get("if-range") == '"v2"' for headers in asked)


def test_without_a_version_to_tell_by_only_one_whole_stream_counts(
    agent: Agent, server: FaultyServer, tmp_path: Path
) -> None:
    old, new = some_bytes(4 * MIB, b"old nameless"), some_bytes(4 * MIB, b"new nameless")

    def broken(ask: fh.Exchange) -> bool:
        if ask.range:  # the probe
            return fh.ranged(old)(ask)
        return fh.cut(old, 2 * MIB + 5, fh.hang_up)(ask)

    url = server.on("/model.bin", fh.first(2, broken, fh.ranged(new)))
    agent.get(url, to=str(tmp_path / "out"))
    assert (tmp_path / "out" / "model.bin").read_bytes() == new
    sha = agent.why()["manifest"]
    assert sha is not None
    with agent.client() as client:
        assert client.verify()["bad"] == [], "named by the bytes that are there"
    assert all("range" not in headers for headers in server.headers_of("/model.bin")[1:])


def test_a_file_of_this_machine_that_is_rewritten_is_not_mixed_either(tmp_path: Path) -> None:
    old, new = some_bytes(24 * MIB, b"old file"), some_bytes(24 * MIB, b"new file")
    file = tmp_path / "ckpt.bin"
    file.write_bytes(old)
    settings = {**QUICK, "fetch.limit_rate": "8 MiB"}
    with running_agent(tmp_path / "agent", settings=settings) as slow:
        with Pull(slow, str(file)) as pull:
            pull.wait_bytes(8 * MIB)
            file.write_bytes(new)
        assert isinstance(pull.error, errors.Untrusted), pull.error or pull.answer
        assert "changed while it was fetched" in pull.error.message
    with running_agent(tmp_path / "agent", settings=QUICK) as again, again.client() as client:
        assert client.push(str(file))["sha256"] == sha256(new)
        assert client.verify()["bad"] == []
        assert not list((again.home / "partial-v1").iterdir()), "the old version's blocks are gone"
