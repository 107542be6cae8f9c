"""Presigned addresses of a real MinIO: their end is said, and they are written down nowhere."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from p2pcache import errors
from tests.support.agents import running_agent
from tests.support.blobs import MIB
from tests.support.minio import Minio, minio
from tests.support.partial_files import some_bytes
from tests.support.pulling import Pull

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BODY = some_bytes(12 * MIB, b"signed")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Minio]:
    with minio(tmp_path_factory.mktemp("minio")) as running:
        running.bucket("signed", {"m.bin": BODY})
        yield running


def signed(server: Minio, valid_s: int) -> str:
    url = server.client().generate_presigned_url(
        "get_object", Params={"Bucket": "signed", "Key": "m.bin"}, ExpiresIn=valid_s
    )
    assert "X-Amz-Signature" in url
    return str(url)


def test_one_that_ended_says_when_and_a_new_one_goes_on_from_there(
    server: Minio, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    settings = {"fetch.limit_rate": "2 MiB", "fetch.max_streams": "1", "resolve.ttl": "0s"}
    with running_agent(tmp_path / "agent", settings=settings) as agent:
        short = signed(server, 1)
        time.sleep(2)
        with pytest.raises(errors.Denied, match=r"its signature expired at 20\d\d-.* UTC") as seen:
            agent.get(short, to=str(out))
        assert "new URL" in str(seen.value.hint)
        assert "Signature=" not in f"{seen.value.message} {seen.value.hint}"
        assert not out.exists()
        first = signed(server, 600)
        with Pull(agent, first, to=str(out)) as pull:
            pull.wait_bytes(6 * MIB)
            agent.kill()
    with running_agent(tmp_path / "agent", settings={"resolve.ttl": "0s"}) as agent:
        time.sleep(1)
        second = signed(server, 600)
        assert second != first
        done = agent.get(second, to=str(out))
        assert (out / "m.bin").read_bytes() == BODY
        assert done["fetched_bytes"] < len(BODY) - MIB, "what was verified is kept"
        again = agent.get(signed(server, 500), to=str(tmp_path / "two"))
        assert again["fetched_bytes"] == 0, "it is the same file, whoever signed"
        with agent.client() as client:
            said: list[Any] = [done, client.why(second), client.why(first), client.ls()]
            said.append(client.status())
            client.rm(second)
            assert client.ls() == []
    _unwritten([first, second, short], json.dumps(said), tmp_path / "agent")


def test_one_that_ends_on_its_way_says_so(server: Minio, tmp_path: Path) -> None:
    """Its ranges are asked one after the other, and the last ones come too late."""
    settings = {"fetch.limit_rate": "2 MiB", "fetch.max_streams": "1"}
    with (
        running_agent(tmp_path / "agent", settings=settings) as agent,
        pytest.raises(errors.Denied, match=r"expired at 20\d\d-.* UTC"),
    ):
        agent.get(signed(server, 3), to=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def _unwritten(urls: list[str], said: str, folder: Path) -> None:
    """Neither said nor in any file of an agent."""
    texts = [said.encode()]
    texts += [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    for word in (b"X-Amz-Signature", *(url.partition("Signature=")[2].encode() for url in urls)):
        assert not any(word in text for text in texts)
