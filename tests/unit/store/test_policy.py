from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from p2pcache.store.policy import (
    Candidate,
    Hold,
    Need,
    plan_eviction,
    room_need,
    watermark_need,
)

HOLDS = [Hold.PINNED, Hold.LEASED, Hold.RUNNING, Hold.LAST_COPY]
sizes = st.integers(0, 1000)


@st.composite
def stores(draw):
    candidates = [
        Candidate(bytes([i]), size, size if draw(st.booleans()) else 0, draw(st.integers(0, 9)))
        for i, size in enumerate(draw(st.lists(sizes, max_size=12)))
    ]
    holds = {c.key: draw(st.sampled_from(HOLDS)) for c in candidates if draw(st.booleans())}
    need = Need(draw(st.integers(0, 5000)), draw(st.integers(0, 5000)))
    return candidates, holds, need


@given(stores())
def test_what_is_held_is_never_evicted(case):
    candidates, holds, need = case
    assert not {v.key for v in plan_eviction(candidates, holds, need).victims} & set(holds)


@given(stores())
def test_a_plan_meets_the_need_or_nothing_more_could_go(case):
    candidates, holds, need = case
    plan = plan_eviction(candidates, holds, need)
    store = sum(v.store_bytes for v in plan.victims)
    disk = sum(v.disk_bytes for v in plan.victims)
    assert plan.missing == Need(max(need.store_bytes - store, 0), max(need.disk_bytes - disk, 0))
    if not plan.met:
        left = [c for c in candidates if c not in plan.victims and c.key not in holds]
        if plan.missing.store_bytes:
            assert all(c.store_bytes == 0 for c in left)
        if plan.missing.disk_bytes:
            assert all(c.disk_bytes == 0 for c in left)


@given(stores())
def test_nothing_newer_goes_while_something_older_of_use_stays(case):
    candidates, holds, need = case
    plan = plan_eviction(candidates, holds, Need(store_bytes=need.store_bytes))
    for victim in plan.victims:
        for other in candidates:
            older = (other.last_used, other.key) < (victim.last_used, victim.key)
            if older and other.key not in holds and other.store_bytes:
                assert other in plan.victims


@given(stores())
def test_the_last_victim_was_needed(case):
    candidates, holds, need = case
    plan = plan_eviction(candidates, holds, need)
    if plan.victims:
        before = plan.victims[:-1]
        assert need.store_bytes > sum(v.store_bytes for v in before) or (
            need.disk_bytes > sum(v.disk_bytes for v in before)
        )


@given(stores())
def test_every_byte_is_evicted_or_kept_for_a_reason(case):
    candidates, holds, need = case
    plan = plan_eviction(candidates, holds, need)
    gone = sum(v.store_bytes for v in plan.victims)
    assert gone + sum(plan.kept.values()) == sum(c.store_bytes for c in candidates)


def test_a_blob_that_is_linked_elsewhere_frees_no_disk_and_stays():
    linked = Candidate(b"a", 100, 0, 1.0)
    plan = plan_eviction([linked], {}, Need(disk_bytes=50))
    assert not plan.victims
    assert plan.kept == {Hold.LINKED: 100}


def test_watermarks_leave_a_store_alone_until_it_is_above_the_high_one():
    assert watermark_need(95, 100, 0.95, 0.85) == Need()
    assert watermark_need(96, 100, 0.95, 0.85) == Need(store_bytes=11)
    assert watermark_need(10**15, None, 0.95, 0.85) == Need()


def test_room_counts_what_running_downloads_were_promised():
    need = room_need(10, used=50, capacity=100, promised=45, disk_free=60, reserve=20)
    assert need == Need(store_bytes=5, disk_bytes=15)
