"""An origin that lists closed content for everybody opens it with its bytes, and with no name."""

from __future__ import annotations

import pytest
import trio

from p2pcache.agent.access import open_to_all
from p2pcache.agent.openings import RANGE_BYTES, Openings
from p2pcache.content.digests import sha256_digest
from p2pcache.content.manifest import FileEntry, Manifest
from p2pcache.content.refs import HfRef
from p2pcache.content.verify import verify
from p2pcache.lanes.faults import host_of
from p2pcache.lanes.orders import FetchLimits
from p2pcache.sources.port import Credentials
from p2pcache.store.records import Resolution
from p2pcache.transfer.budgets import month_of, origin_key
from tests.support.hub_repo import build_repo, lfs, text
from tests.support.hub_stub import GOOD_TOKEN, hub_stub
from tests.support.inside import agent_inside

REPO = HfRef("model", "demo/model")
SIZE = 3 * RANGE_BYTES + 5


class Chosen:
    """The first range at the start, the others at the end."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, n: int) -> int:
        self.calls += 1
        return 0 if self.calls == 1 else n - 1


@pytest.fixture
def hub(tmp_path):
    files = {"weights": lfs(SIZE, 3), "LICENSE": text("a licence\n"), "empty": text("")}
    repo = build_repo(tmp_path / "repo", files)
    with hub_stub(repo) as running:
        yield running


@pytest.fixture
async def inside(tmp_path, hub):
    """All files are here as a gated repository's; the open one at the hub only names them."""
    repo = hub.repos["models", "demo/model"]
    async with agent_inside(tmp_path / "home") as inside:
        store = inside.parts.store
        entries = []
        for path, file in repo.files.items():
            name = sha256_digest(bytes.fromhex(file.sha256))
            blob = store.put_bytes(verify(name, file.on_disk.read_bytes()))
            entries.append(FileEntry(f"of/{path}", blob.size, name))
        manifest = store.put_manifest(Manifest.from_entries(entries))
        row = Resolution("hf://org/gated@main", manifest, None, "hf", "x", 1.0, gated=True)
        store.record_resolution(row)
        await inside.parts.resolver.resolve(REPO, Credentials(GOOD_TOKEN, hub.url))
        hub.asked.clear()
        yield inside


def openings(inside, choose=lambda n: n // 2, **more):
    parts = inside.parts
    spending = parts.origins.spending
    made = Openings(
        parts.store, parts.resolver, parts.workers, FetchLimits(), spending, choose, **more
    )
    return made, open_to_all(parts.store, parts.now)


def shown(inside, shows, hub) -> set[str]:
    """The files that everybody may read."""
    store, files = inside.parts.store, hub.repos["models", "demo/model"].files
    found = {path: store.find(sha256_digest(bytes.fromhex(f.sha256))) for path, f in files.items()}
    return {path for path, blob in found.items() if shows(blob)}


async def test_who_has_the_bytes_opens_them_and_is_asked_without_a_token(inside, hub):
    ours, shows = openings(inside)
    told: list[bytes] = []

    async def opened(manifests):
        told.extend(manifests)

    ours.opened = opened
    assert shown(inside, shows, hub) == set()
    assert await ours.look()
    assert shown(inside, shows, hub) == {"weights", "LICENSE", "empty"}
    assert {one.authorization for one in hub.asked} == {None}
    (resolution,) = [r for r in inside.parts.store.resolutions() if not r.gated]
    assert told == [resolution.manifest]
    asked = len(hub.asked)
    assert await ours.look()
    assert len(hub.asked) == asked, "it is known"


FAULTS = {
    "other bytes": lambda path, body: bytes(len(body)),
    "the first half": lambda path, body: body[: len(body) // 2] + bytes(-(-len(body) // 2)),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_other_bytes_open_nothing_and_are_not_asked_for_again(inside, hub, fault):
    ours, shows = openings(inside, Chosen())
    hub.corrupt = FAULTS[fault]
    assert await ours.look(), "all of it is known"
    assert shown(inside, shows, hub) <= {"empty"}
    hub.corrupt = None
    asked = len(hub.asked)
    assert await ours.look()
    assert (shown(inside, shows, hub) <= {"empty"}, len(hub.asked)) == (True, asked)


async def test_a_repository_that_wants_a_token_by_now_opens_nothing(inside, hub):
    ours, shows = openings(inside)
    hub.gated.add("demo/model")
    assert await ours.look()
    assert shown(inside, shows, hub) <= {"empty"}


async def test_an_origin_that_cannot_be_reached_is_asked_again(inside, hub):
    ours, shows = openings(inside)
    hub.down = True
    with trio.fail_after(60):
        assert not await ours.look()
        assert shown(inside, shows, hub) <= {"empty"}
        hub.down = False
        assert await ours.look()
    assert shown(inside, shows, hub) == {"weights", "LICENSE", "empty"}


async def test_what_is_refused_keeps_nothing_behind_it_closed(inside, hub):
    """One at a time: each look at the store finds those first that were refused before."""
    ours, shows = openings(inside, at_a_time=1)
    hub.corrupt = lambda path, body: body if "LICENSE" in path else bytes(len(body))
    with trio.fail_after(60):
        assert await ours.look()
    assert shown(inside, shows, hub) == {"LICENSE", "empty"}


async def test_of_an_origin_that_does_not_answer_nothing_more_is_asked(inside, hub):
    ours, _ = openings(inside, at_a_time=1)
    hub.down = True
    with trio.fail_after(60):
        assert not await ours.look()
    assert len(hub.asked) == 1


async def test_what_is_asked_of_an_origin_counts_to_its_budget(inside, hub):
    ours, _ = openings(inside)
    assert await ours.look()
    spending, month = inside.parts.origins.spending, month_of(inside.parts.now())
    spent = spending.ledger.ours(origin_key(host_of(hub.url)), month)
    assert (spent.requests_total, spent.bytes_total) == (5, 4 * RANGE_BYTES + len("a licence\n"))
