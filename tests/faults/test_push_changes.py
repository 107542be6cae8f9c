"""Files of others that change while they are pushed: nobody else is blamed, and nothing ends."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest

from p2pcache import errors
from p2pcache.lanes import send_part as lane
from p2pcache.lanes.orders import FaultKind
from p2pcache.lanes.send_part import PartOrder, hashes_of, send_part
from tests.real.test_push_s3 import OFFLINE, push, stored
from tests.support import faulty_http as fh
from tests.support.agents import running_agent
from tests.support.blobs import MIB
from tests.support.faulty_http import FaultyServer
from tests.support.minio import PASSWORD, USER, minio
from tests.support.partial_files import some_bytes
from tests.support.s3_proxy import Ask, s3_proxy
from tests.support.watched_pull import QUICK, at_most

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BODY = some_bytes(3 * MIB + 5, b"of somebody else")
HASHES = b"".join(
    hashlib.sha256(BODY[at : at + MIB]).digest() for at in range(0, len(BODY), MIB)
)  # fmt: skip


def takes_all(got: list[bytes]) -> fh.Answer:
    def answer(ask: fh.Exchange) -> bool:
        seen = ask.body
        while len(seen) < int(ask.headers["content-length"]):
            more = ask.sock.recv(1 << 16)
            if not more:
                return False
            seen += more
        got.append(seen)
        return fh.status(200)(ask)

    return answer


@dataclass(frozen=True)
class Meddles:
    """Is shown the bytes' checksum when all of them were read, before the first goes out."""

    change: Callable[[], None]
    checksum: str = "sha256"

    def __call__(self, digest: bytes) -> dict[str, str]:
        self.change()
        return {"X-Digest": digest.hex()}


def cut(path: Path) -> None:
    os.truncate(path, 2 * MIB + 100)


def written(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(MIB + 7)
        file.write(b"of another version")


@pytest.mark.parametrize("change", [cut, written])
@pytest.mark.parametrize("start", [0, MIB + 3])
def test_a_file_that_changes_under_a_part_is_said_to(
    tmp_path: Path, change: Callable[[Path], None], start: int
) -> None:
    path = tmp_path / "file"
    path.write_bytes(BODY)
    got: list[bytes] = []
    with FaultyServer() as server:
        server.on("/x", takes_all(got))
        order = PartOrder(
            "PUT", server.url("/x"), (), str(path), start, len(BODY),
            hashes_of(HASHES, start, len(BODY)), Meddles(lambda: change(path)),
        )  # fmt: skip
        report = send_part(order)
        assert report.fault is not None
        assert (report.fault.kind, got) == (FaultKind.LOCAL, [])
        assert report.fault.message.endswith("it changed while it was read")
        report = send_part(replace(order, dress=None))
        assert report.fault is not None
        assert report.fault.kind is FaultKind.LOCAL
        assert ("damaged" in report.fault.message) == (change is written), "it is as it was opened"
        path.write_bytes(BODY)
        report = send_part(replace(order, dress=Meddles(lambda: None)))
    assert (report.status, report.fault, got) == (200, None, [BODY[start:]])


def test_an_answer_that_drips_without_end_is_no_answer(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(BODY[:10])
    quick = replace(lane.LIMITS, no_progress_s=0.5)
    with FaultyServer() as server, at_most(20):
        server.on("/x", fh.drip_headers)
        report = send_part(
            PartOrder("PUT", server.url("/x"), (), str(tmp_path / "file"), 0, 10, limits=quick)
        )
    assert report.fault is not None
    assert report.fault.kind in (FaultKind.UNTRUSTED, FaultKind.UNAVAILABLE)


def test_a_file_that_is_cut_amid_a_push_ends_no_worker_and_the_user_hears_of_it(
    tmp_path: Path,
) -> None:
    body = some_bytes(64 * MIB, b"cut amid a push")
    (tmp_path / "theirs").mkdir()
    file = tmp_path / "theirs" / "big.bin"
    file.write_bytes(body)

    def meddle(ask: Ask) -> None:
        if ask.query.get("partNumber") == ["2"]:
            os.truncate(file, 17 * MIB)

    with (
        minio(tmp_path / "minio") as server,
        s3_proxy(server) as proxy,
        running_agent(tmp_path / "agent", settings=QUICK, **OFFLINE) as agent,
        agent.client() as client,
    ):
        server.bucket("cut")
        client.adopt(file.parent, wait=True)
        proxy.fault = meddle
        ref = f"sha256:{hashlib.sha256(body).hexdigest()}"
        login = {
            "aws_access_key_id": USER, "aws_secret_access_key": PASSWORD,
            "aws_endpoint_url": proxy.url,
        }  # fmt: skip
        with at_most(60), pytest.raises(errors.LocalFault, match="changed while it was read") as e:
            push(agent, ref, "s3://cut/m", login, limit_rate=100 * MIB)
        assert "when nobody writes the file" in str(e.value.hint)
        assert sum(ask.query.get("partNumber") == ["2"] for ask in proxy.seen) == 1
        assert not [key for key in stored(server, "cut") if key.endswith("big.bin")]
