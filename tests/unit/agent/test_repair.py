"""`verify` takes out what is damaged, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio

from p2pcache.errors import LocalFault
from p2pcache.lanes.orders import Fault, FaultKind, FollowOrder, FollowReport
from tests.support.inside import agent_inside
from tests.support.stored import MIB, content, verified


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


async def test_a_blob_that_is_gone_ends_nothing(inside, tmp_path):
    stored = await pushed(inside, tmp_path, "a", b"stored" * 100)
    fine = await pushed(inside, tmp_path, "b", content(2 * MIB))
    theirs = tmp_path / "theirs"
    theirs.write_bytes(content(2 * MIB, seed=2))
    inside.parts.store.adopt(theirs, verified(theirs.read_bytes()), theirs.stat())
    stored.path.unlink()
    theirs.unlink()
    answer = await inside("verify")
    assert (answer["checked"], answer["bad"], answer["unread"]) == (1, [], [])
    assert inside.parts.store.every_blob() == [fine], "what is gone is forgotten"


class GoneMeanwhile:
    """Workers that are overtaken by an eviction."""

    async def follow(self, order: FollowOrder) -> FollowReport:
        await trio.Path(order.data_path).unlink()
        fault = Fault(FaultKind.LOCAL, "cannot hash the blob: No such file or directory")
        return FollowReport(b"", None, None, 0.0, fault)


async def test_a_blob_that_is_evicted_while_it_is_checked_is_no_fault(inside, tmp_path):
    await pushed(inside, tmp_path, "a", b"stored" * 100)
    inside.parts = replace(inside.parts, workers=GoneMeanwhile())
    answer = await inside("verify")
    assert (answer["checked"], answer["bad"], answer["unread"]) == (0, [], [])


async def test_a_damaged_blob_that_cannot_be_taken_out_does_not_end_the_rest(inside, tmp_path):
    first = await pushed(inside, tmp_path, "a", content(2 * MIB, 1))
    second = await pushed(inside, tmp_path, "b", content(2 * MIB, 2))
    held = inside.parts.store.partial(first.digest, first.size)  # by whoever fetches it again
    for blob in (first, second):
        blob.path.chmod(0o644)
        blob.path.write_bytes(content(2 * MIB, 3))
    answer = await inside("verify")
    held.close()
    rows = {row["sha256"]: row for row in answer["bad"]}
    assert len(rows) == 2
    assert "in use" in rows[first.sha256.hex()]["reason"]
    assert not second.path.exists()


async def test_names_that_still_show_the_damaged_bytes_are_counted_and_replaced_by_a_get(
    inside, tmp_path
):
    data = content(2 * MIB)
    blob = await pushed(inside, tmp_path, "a", data)
    out = tmp_path / "out"
    await inside("get", ref=str(tmp_path / "a"), to=str(out))
    assert (out / "a").samefile(blob.path)
    blob.path.chmod(0o644)
    blob.path.write_bytes(content(2 * MIB, 3))
    answer = await inside("verify", repair=True)
    (bad,) = answer["bad"]
    assert (bad["repaired"], bad["linked"]) == (True, 1)
    assert (out / "a").read_bytes() != data
    await inside("get", ref=str(tmp_path / "a"), to=str(out))
    assert (out / "a").read_bytes() == data


async def damaged(inside, tmp_path, data: bytes):
    blob = await pushed(inside, tmp_path, "model", data)
    blob.path.chmod(0o644)
    blob.path.write_bytes(b"x" + data[1:])
    return blob


@pytest.mark.parametrize("size", [100, 3 * MIB])
async def test_what_an_earlier_verify_took_out_is_said_again_and_can_be_repaired(tmp_path, size):
    home = tmp_path / "home"
    async with agent_inside(home) as inside:
        blob = await damaged(inside, tmp_path, content(size))
        (first,) = (await inside("verify"))["bad"]
    async with agent_inside(home) as inside:  # the next command's
        again = await inside("verify")
        (bad,) = again["bad"]
        assert (bad["sha256"], bad["bad_blocks"]) == (blob.sha256.hex(), first["bad_blocks"] == 1)
        assert again["incomplete"] == [f"file:{tmp_path}/model"]
        repaired = await inside("verify", repair=True)
        assert (repaired["repaired"], repaired["incomplete"]) == (1, [])
        assert inside.parts.store.find(blob.digest) is not None
        assert (await inside("verify"))["bad"] == []


async def test_what_nobody_lists_any_more_is_not_said_again(inside, tmp_path):
    blob = await damaged(inside, tmp_path, content(3 * MIB))
    await inside("verify")
    await inside("rm", ref=str(tmp_path / "model"))
    assert (await inside("verify"))["bad"] == []
    assert not inside.parts.store.layout.partial(blob.digest).exists()
