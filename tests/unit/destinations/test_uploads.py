"""How many requests of a push run side by side, and what is counted of them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import MockClock

from p2pcache import errors
from p2pcache.content.s3_refs import S3Ref
from p2pcache.destinations.objects.port import Absent, Upload
from p2pcache.destinations.objects.s3 import S3Store
from p2pcache.destinations.uploads import Sent, Uploads
from p2pcache.lanes.faults import CHANGED
from p2pcache.lanes.odometer import counting, open_odometer
from p2pcache.lanes.orders import Fault, FaultKind
from p2pcache.lanes.send_part import PartOrder, PartReport
from p2pcache.sources.s3.options import S3Options
from p2pcache.sources.s3.sign import Grant

if TYPE_CHECKING:
    from pathlib import Path

ORDER = PartOrder("PUT", "https://there", (), "/file", 0, 100)


@pytest.fixture
def autojump_clock() -> MockClock:
    return MockClock(autojump_threshold=0)


async def test_under_a_limit_they_go_one_after_the_other_and_together_when_it_ends(
    autojump_clock: MockClock,
) -> None:
    running, most, limited = 0, list[int](), True

    async def send(order: PartOrder) -> PartReport:
        nonlocal running, limited
        running += 1
        most.append(running)
        await trio.sleep(1)
        running -= 1
        limited = limited and len(most) < 3
        return PartReport(200)

    uploads = Uploads(send, None, 4, None, lambda: limited)
    assert uploads.at_once == 1
    with trio.fail_after(60):
        await uploads.each([partial(_put, uploads) for _ in range(9)])
    assert most[:3] == [1, 1, 1]
    assert max(most) == 4
    assert Uploads(send, None, 4, 1e6).at_once == 1, "nor with a rate of its own"


async def _put(uploads: Uploads) -> None:
    await uploads.put(ORDER, lambda _: None)


async def test_bytes_are_counted_while_they_go_out_once(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async def send(order: PartOrder) -> PartReport:
        with counting(order.limits.counted) as count:
            count(40)
            await trio.sleep(1)
            count(60)
        return PartReport(200)

    for place in (None, tmp_path / "odometer"):
        heard: list[int] = []
        sent = Sent(heard.append)
        if place is None:
            await Uploads(send, None, 4).put(ORDER, sent.of_file())
            assert heard == [100], "at the end"
        else:
            with open_odometer(place) as odometer:
                await Uploads(send, odometer, 4).put(ORDER, sent.of_file())
            assert heard == [40, 100]
        assert sent.bytes == 100


async def test_what_signs_for_s3_is_asked_for_when_a_request_has_its_turn(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Under a limit the last one waits for longer than the first one's login lasts."""
    ages: list[float] = []

    async def send(order: PartOrder) -> PartReport:
        signs: Any = order.dress
        ages.append(trio.current_time() - float(signs.grant.access_key))
        await trio.sleep(200)
        return PartReport(200, {"etag": '"one"'})

    async def run_sync(call: object, *args: object) -> Grant:
        return Grant("https://there", "us-east-1", str(trio.current_time()), "secret")

    store = S3Store(S3Ref("models"), S3Options(), None, run_sync, Uploads(send, None, 4, 1e6))
    with trio.fail_after(2000):
        async with trio.open_nursery() as nursery:
            for key in "abcd":
                upload = Upload(key, "/file", 100, bytes(32), Absent())
                nursery.start_soon(store.put, upload, Sent(lambda _: None).of_file())
    assert len(ages) == 4
    assert max(ages) <= S3Options().grant_s


@pytest.mark.parametrize(
    ("message", "hint"), [(f"cannot read /x: {CHANGED}", "nobody writes"), ("damaged", "--repair")]
)
async def test_our_own_file_is_told_with_what_to_do(message: str, hint: str) -> None:
    async def send(order: PartOrder) -> PartReport:
        return PartReport(fault=Fault(FaultKind.LOCAL, message))

    with pytest.raises(errors.LocalFault) as caught:
        await Uploads(send, None, 4).put(ORDER, lambda _: None)
    assert hint in str(caught.value.hint)
