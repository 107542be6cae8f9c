"""Pushes to one folder in virtual time: who sends, who waits, who takes over, what is kept."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import MockClock

from p2pcache.content import push_record
from p2pcache.content.push_record import PUSHING_KEY, REF_KEY
from p2pcache.destinations.objects.lease import decode_claim, own_claim
from p2pcache.destinations.objects.push import ObjectsDestination
from p2pcache.destinations.port import Waiting
from p2pcache.errors import Conflict, Denied, Unavailable
from tests.support.memory_objects import Bucket, MemoryStore, content, failing

if TYPE_CHECKING:
    from collections.abc import Callable

    from p2pcache.destinations.objects.port import Condition, Upload
    from p2pcache.destinations.port import Content, Pushed
    from p2pcache.destinations.uploads import Count

FILES = {"a": b"a" * 1000, "b": b"b" * 3000, "c": b""}  # 40 s of sending
ELSEWHERE = "0123456789abcdef"  # a machine


@pytest.fixture
def autojump_clock() -> MockClock:
    return MockClock(autojump_threshold=0)


async def push(
    bucket: Bucket, what: Content, store: type[MemoryStore] = MemoryStore,
    watch: Callable[[int | Waiting], None] = lambda _: None,
) -> Pushed:  # fmt: skip
    one = ObjectsDestination(store(bucket), lambda: 0.5)
    with trio.fail_after(600):
        return await one.send(what, await one.plan(what), watch)


def is_right(bucket: Bucket, what: Content) -> bool:
    told = push_record.parse(bucket.bodies[REF_KEY])
    return PUSHING_KEY not in bucket.objects and all(
        (told.files[path].sha256, told.files[path].version)
        == (file.sha256, bucket.objects[path].version)
        and bucket.objects[path].sha256 == file.sha256
        for path, file in what.places.items()
    )


async def test_of_many_one_sends_and_all_say_that_it_is_there(autojump_clock: MockClock) -> None:
    bucket, what, done = Bucket(), content(FILES), []

    async def one() -> None:
        done.append(await push(bucket, what))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(one)
    assert is_right(bucket, what)
    assert set(bucket.sent.values()) == {1}
    assert sum(told.sent.bytes for told in done) == 4000
    assert sum(bool(told.notes) for told in done) == 19


async def test_who_waits_says_for_whom_and_how_far_they_are(autojump_clock: MockClock) -> None:
    for theirs, kind in ((FILES, "the same"), ({**FILES, "b": b"x" * 3000}, "other content")):
        bucket, heard = Bucket(), list[int | Waiting]()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(push, bucket, content(theirs))
            await trio.sleep(1)
            await push(bucket, content(FILES), watch=heard.append)
        told = [one for one in heard if isinstance(one, Waiting)]
        assert {one.who for one in told} == {
            f"another agent of this machine (process {os.getpid()}), which pushes {kind} there"
        }
        assert [(one.done_bytes, one.total_bytes) for one in told][-1] == (1000, 4000), "a of a, b"
        assert isinstance(heard[0], Waiting), "at once"
    bucket, heard = Bucket(), []
    await MemoryStore(bucket).put_small(PUSHING_KEY, b"no claim", None)
    await push(bucket, content(FILES), watch=heard.append)
    assert heard[0] == Waiting("another agent, which pushes there")
    claim = {**asdict(own_claim("x", "y")), "done_bytes": 2**80, "total_bytes": -1}
    bounded = decode_claim(json.dumps(claim).encode())
    assert bounded is not None
    assert (bounded.done_bytes, bounded.total_bytes) == (2**62, 0)


async def test_a_file_whose_answer_was_lost_is_not_sent_again(autojump_clock: MockClock) -> None:
    bucket, what = Bucket(fault=failing("upload", times=1, done=True)), content(FILES)
    done = await push(bucket, what)
    assert set(bucket.sent.values()) == {1}
    assert (done.sent.bytes, done.sent.objects) == (4000, 3)
    assert is_right(bucket, what)


async def test_what_an_upload_had_before_is_told_and_what_a_retry_finds_is_not(
    autojump_clock: MockClock,
) -> None:
    class Resumes(MemoryStore):
        tries = 0

        async def put(self, upload: Upload, count: Count) -> str:
            count(100 if upload.key == "b" else 0, resumed=True)
            Resumes.tries += 1
            if Resumes.tries <= 2:
                count(5)
                raise Unavailable("not now")
            return await super().put(upload, count)

    bucket, heard = Bucket(), list[int | Waiting]()
    done = await push(bucket, content(FILES), Resumes, heard.append)
    assert done.resumed_bytes == 100
    assert heard[-1] == done.sent.bytes + 100


async def test_one_that_stands_still_is_replaced_and_one_that_is_slow_is_not(
    autojump_clock: MockClock,
) -> None:
    bucket, what = Bucket(), content(FILES)
    dead = replace(own_claim("somebody", "bafy"), machine=ELSEWHERE)
    await MemoryStore(bucket).put_small(PUSHING_KEY, dead.encode(), None)
    began = trio.current_time()
    assert (await push(bucket, what)).sent.bytes == 4000
    assert 20 + 30 <= trio.current_time() - began < 60
    assert is_right(bucket, what)
    slow = Bucket(bytes_per_s=10.0)  # 300 s for one file
    async with trio.open_nursery() as nursery:
        nursery.start_soon(push, slow, what)
        await trio.sleep(1)
        nursery.start_soon(push, slow, what)
    assert set(slow.sent.values()) == {1}, "its lease was renewed all the time"


async def test_a_process_of_this_machine_that_is_gone_is_not_waited_for(
    autojump_clock: MockClock,
) -> None:
    bucket, what = Bucket(), content({"a": b"1"})
    gone = replace(own_claim("somebody", "bafy"), pid=2**22 - 1)
    await MemoryStore(bucket).put_small(PUSHING_KEY, gone.encode(), None)
    began = trio.current_time()
    await push(bucket, what)
    assert trio.current_time() - began < 2
    assert is_right(bucket, what)


async def test_a_push_whose_login_may_not_delete_is_not_waited_for_by_the_next_one(
    autojump_clock: MockClock,
) -> None:
    class Keeps(MemoryStore):
        async def delete(self, key: str) -> None:
            raise Denied("this login may write alone")

    bucket = Bucket()
    await push(bucket, content({"a": b"1"}), Keeps)
    assert PUSHING_KEY in bucket.objects
    began = trio.current_time()
    await push(bucket, content({"a": b"2"}), Keeps)
    assert trio.current_time() - began < 2


async def test_who_was_taken_for_dead_stops_and_what_it_sent_is_there(
    autojump_clock: MockClock,
) -> None:
    bucket, what = Bucket(), content(FILES)

    class CutOff(MemoryStore):
        async def put_small(self, key: str, data: bytes, condition: Condition) -> str:
            renewed = key == PUSHING_KEY and json.loads(data)["beat"] > 0
            if renewed and trio.current_time() - began < 24:
                raise Unavailable("its renewals do not arrive")
            return await super().put_small(key, data, condition)

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(push, bucket, what, CutOff)
        await trio.sleep(0.5)
        nursery.start_soon(push, bucket, what)
    assert is_right(bucket, what)
    assert bucket.sent["a"] == 1, "the small one was there when the second began"


@pytest.mark.parametrize("name", ["list", "look", "get", "put", "upload", "delete"])
@pytest.mark.parametrize("done", [False, True])
async def test_what_fails_a_few_times_is_tried_again(
    autojump_clock: MockClock, name: str, done: bool
) -> None:
    bucket, what = Bucket(fault=failing(name, times=3, done=done)), content(FILES)
    await push(bucket, what)
    assert is_right(bucket, what)


async def test_what_goes_on_failing_is_told_and_the_lease_is_given_back(
    autojump_clock: MockClock,
) -> None:
    bucket = Bucket(fault=failing("upload", times=1000))
    with pytest.raises(Unavailable):
        await push(bucket, content(FILES))
    assert all(push_record.is_ours(key) for key in bucket.objects)
    assert not {REF_KEY, PUSHING_KEY} & bucket.objects.keys()


async def test_a_store_without_conditions_is_said_to_be_one(autojump_clock: MockClock) -> None:
    bucket, what = Bucket(conditional=False), content(FILES)
    done = await push(bucket, what)
    assert "no conditional writes" in done.notes[0]
    assert is_right(bucket, what)


async def test_what_is_there_already_by_another_hand_counts_and_what_differs_is_a_conflict(
    autojump_clock: MockClock,
) -> None:
    what = content(FILES)
    for there, ends in ((what.places["b"].sha256, None), (bytes(32), Conflict)):
        bucket = Bucket()
        one = ObjectsDestination(MemoryStore(bucket), lambda: 0.5)
        plan = await one.plan(what)
        bucket.write("b", 3000, there, None)
        if ends is None:
            done = await one.send(what, plan, lambda _: None)
            assert done.sent.objects == 2
            assert is_right(bucket, what)
        else:
            with pytest.raises(ends):
                await one.send(what, plan, lambda _: None)
            assert REF_KEY not in bucket.objects


async def test_a_record_that_somebody_writes_meanwhile_is_not_overwritten(
    autojump_clock: MockClock,
) -> None:
    bucket, what = Bucket(), content(FILES)

    def meddle(name: str, key: str, done: bool) -> None:
        if name == "put" and key == REF_KEY and not done and REF_KEY not in bucket.objects:
            bucket.write(REF_KEY, 2, bytes(32), None)
            bucket.bodies[REF_KEY] = b"{}"

    bucket.fault = meddle
    with pytest.raises(Conflict):
        await push(bucket, what)
    assert bucket.bodies[REF_KEY] == b"{}"
    await push(bucket, what)
    assert is_right(bucket, what), "what is no record is replaced"


async def test_a_denial_is_not_tried_again(autojump_clock: MockClock) -> None:
    asked: list[str] = []

    def deny(name: str, key: str, done: bool) -> None:
        asked.append(name)
        raise Denied("no")

    with pytest.raises(Denied):
        await push(Bucket(fault=deny), content(FILES))
    assert asked == ["list"]


async def test_an_answer_that_was_lost_is_no_conflict_with_ourselves(
    autojump_clock: MockClock,
) -> None:
    for name, key in (("put", REF_KEY), ("put", PUSHING_KEY), ("upload", "b")):
        bucket, what = Bucket(fault=failing(name, times=1, done=True, key=key)), content(FILES)
        await push(bucket, what)
        assert is_right(bucket, what), key


@pytest.mark.parametrize("pid", ["1e999", "9" * 3900, "0", "-1", str(2**31)])
async def test_a_claim_of_no_process_is_waited_for_and_no_fault_of_ours(
    autojump_clock: MockClock, pid: str
) -> None:
    bucket, what = Bucket(), content({"a": b"1"})
    us = own_claim("", "")
    told = json.dumps(asdict(us)).replace(f'"pid": {us.pid}', f'"pid": {pid}')
    assert pid in told
    await MemoryStore(bucket).put_small(PUSHING_KEY, told.encode(), None)
    began = trio.current_time()
    await push(bucket, what)
    assert trio.current_time() - began >= 20
    assert is_right(bucket, what)


async def test_what_was_pushed_between_the_look_and_our_turn_is_not_sent_again(
    autojump_clock: MockClock,
) -> None:
    bucket, what = Bucket(), content(FILES)
    late = ObjectsDestination(MemoryStore(bucket), lambda: 0.5)
    plan = await late.plan(what)
    await push(bucket, replace(what, ref="hf://another/name"))
    done = await late.send(what, plan, lambda _: None)
    assert done.sent.bytes == 0
    assert set(bucket.sent.values()) == {1}
    assert is_right(bucket, what)


async def test_where_it_lies_on_this_machine_is_not_told_to_a_bucket(
    autojump_clock: MockClock,
) -> None:
    bucket, what = Bucket(), content({"a": b"1"})
    await push(bucket, replace(what, ref="file:/home/somebody/secret%20project"))
    told = push_record.parse(bucket.bodies[REF_KEY])
    assert told.ref == told.manifest
    assert not any(b"somebody" in body for body in bucket.bodies.values())
