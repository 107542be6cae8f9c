"""`verify` takes out what is damaged, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from p2pcache.errors import LocalFault
from p2pcache.lanes.orders import Fault, FaultKind, FollowOrder, FollowReport
from tests.support.inside import agent_inside
from tests.support.stored import MIB, content


class OutOfDescriptors:
    """Workers on a machine that cannot open the files of blobs whose path has `where` in it."""

    def __init__(self, inner, where: str = "", *, dies: bool = False) -> None:
        self.inner, self.where, self.dies = inner, where, dies

    async def follow(self, order: FollowOrder) -> FollowReport:
        if self.where not in order.data_path:
            return await self.inner.follow(order)
        if self.dies:
            raise LocalFault("a worker process died")
        fault = Fault(FaultKind.LOCAL, "cannot hash the blob: Too many open files")
        return FollowReport(b"", None, None, 0.0, fault)


@pytest.fixture
async def inside(tmp_path):
    async with agent_inside(tmp_path / "home") as inside:
        yield inside


async def pushed(inside, folder, name: str, data: bytes):
    (folder / name).write_bytes(data)
    answer = await inside("push", path=str(folder / name))
    return inside.parts.store.find(b"\x12\x20" + bytes.fromhex(answer["sha256"]))


@pytest.mark.parametrize("dies", [False, True])
async def test_a_blob_that_cannot_be_read_now_stays_and_is_reported(inside, tmp_path, dies):
    blob = await pushed(inside, tmp_path, "a", b"good" * 100)
    other = await pushed(inside, tmp_path, "b", b"fine" * 100)
    fault = OutOfDescriptors(inside.parts.workers, blob.sha256.hex(), dies=dies)
    inside.parts = replace(inside.parts, workers=fault)
    answer = await inside("verify", repair=True)
    assert answer["bad"] == []
    (unread,) = answer["unread"]
    assert unread["sha256"] == blob.sha256.hex()
    assert unread["problem"]
    assert answer["checked"] == 1, "the other one was"
    assert blob.path.read_bytes() == b"good" * 100
    assert inside.parts.store.find(other.digest) == other


async def test_a_blob_of_the_wrong_length_is_damaged(inside, tmp_path):
    data = content(3 * MIB)
    blob = await pushed(inside, tmp_path, "a", data)
    blob.path.chmod(0o644)
    blob.path.write_bytes(data[: MIB + 5])
    answer = await inside("verify")
    (bad,) = answer["bad"]
    assert bad["bad_blocks"] == 2
    assert "length" in bad["problem"]
    assert inside.parts.store.find(blob.digest) is None
