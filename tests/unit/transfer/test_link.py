"""A limit of the agent, as each request sees it."""

from __future__ import annotations

from p2pcache.lanes.orders import FetchLimits
from p2pcache.lanes.pace import Pacer, pacer_for
from p2pcache.lanes.throttle import allowed, open_throttle
from p2pcache.transfer.link import Link

URL = "https://origin.example/file"


def test_all_requests_that_run_have_the_same_part_at_every_moment(tmp_path):
    with open_throttle(tmp_path / "run" / "throttle") as throttle:
        link, part = Link(throttle), allowed(str(throttle.path))
        assert part() is None
        assert not link.is_limited
        link.set(1e6)
        assert link.is_limited
        with link.request(URL, FetchLimits()) as one:
            assert one.throttle == str(throttle.path)
            assert part() == 1e6
            with link.request(URL, FetchLimits()):
                assert part() == 5e5
                link.set(None)
                assert part() is None
                link.set(4e6)
                assert part() == 2e6
            assert part() == 4e6
        assert part() == 4e6
    assert not throttle.path.exists()


def test_what_is_no_download_and_an_agent_without_a_limit_is_not_held(tmp_path):
    limits = FetchLimits()
    without = Link()
    without.set(1e6)
    assert not without.is_limited
    with without.request(URL, limits) as same:
        assert same is limits
    with open_throttle(tmp_path / "throttle") as throttle:
        link = Link(throttle)
        link.set(1e6)
        for url in ("file:///x", "data:;base64,aGk="):
            with link.request(url, limits) as same:
                assert same is limits
                assert allowed(str(throttle.path))() == 1e6


def test_a_request_keeps_to_the_lower_of_its_own_rate_and_the_agents(tmp_path):
    now = 0.0
    part: float | None = None
    pacer = Pacer(1000.0, lambda: now, lambda: part)
    assert pacer.delay_s(1000) == 1.0
    part, now = 100.0, 10.0
    assert round(pacer.delay_s(1000), 6) == 9.75, "and no more than a moment is caught up with"
    free = Pacer(None, lambda: now, lambda: None)
    assert (free.delay_s(1 << 30), free.step_bytes) == (0.0, None)
    assert pacer_for(FetchLimits()) is None
    assert pacer_for(FetchLimits(throttle=str(tmp_path / "gone"))) is not None
