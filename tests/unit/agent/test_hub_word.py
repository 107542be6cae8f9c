"""What of a Hugging Face cache is for others: what its hub, asked without a token, says."""

from __future__ import annotations

import os

import pytest

from p2pcache.agent.adoption.hub_word import (
    AGAIN_S,
    CLOSED_S,
    MAX_REFS_BYTES,
    OPEN_S,
    HubWord,
    repos_of,
)
from p2pcache.errors import Denied, LocalFault, NotFound, Unavailable

HUB = "https://hub.example"
OPEN, GATED, PRIVATE = "models--org--open", "datasets--org--gated", "models--private"
FILES = {
    "a": frozenset([OPEN]),
    "b": frozenset([GATED]),
    "c": frozenset([PRIVATE]),
    "of both": frozenset([OPEN, GATED]),
    "of nobody": frozenset(),
    "of no repository": frozenset(["snapshots"]),
}


class Hub:
    """Answers as the Hub does without a token."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.is_down = False
        self.gated = {"org/gated"}
        self.now = 1000.0

    async def is_open(self, ref, endpoint) -> bool:
        assert endpoint == HUB
        self.asked.append((ref.repo_type, ref.repo_id))
        if self.is_down:
            raise Unavailable("no answer")
        if ref.repo_id == "private":
            raise NotFound("no such repository", hidden=True)
        return ref.repo_id not in self.gated


@pytest.fixture
def hub() -> Hub:
    return Hub()


@pytest.fixture
def word(hub) -> HubWord:
    return HubWord(hub.is_open, lambda: hub.now)


async def test_what_a_hub_gives_to_everybody_is_for_others_and_nothing_else(hub, word):
    assert await word.open_paths(FILES, HUB, set()) == {"a"}
    assert sorted(hub.asked) == [
        ("dataset", "org/gated"), ("model", "org/open"), ("model", "private"),
    ]  # fmt: skip


async def test_its_word_counts_for_a_time(hub, word):
    await word.open_paths(FILES, HUB, set())
    hub.asked.clear()
    hub.gated = {"org/open"}
    hub.now += CLOSED_S - 1
    assert await word.open_paths(FILES, HUB, {"a"}) == {"a"}
    assert hub.asked == []
    hub.now += 1
    assert await word.open_paths(FILES, HUB, {"a"}) == {"a", "b", "of both"}
    hub.now += OPEN_S - CLOSED_S
    assert await word.open_paths(FILES, HUB, {"a", "b", "of both"}) == {"b"}


@pytest.mark.parametrize("before", [set(), {"a"}])
async def test_a_hub_that_does_not_answer_changes_nothing_and_is_asked_once(hub, word, before):
    hub.is_down = True
    assert await word.open_paths(FILES, HUB, before) == before
    assert len(hub.asked) == 1
    hub.now += AGAIN_S - 1
    assert await word.open_paths(FILES, HUB, before) == before
    assert len(hub.asked) == 1
    hub.now += 1
    hub.is_down = False
    assert await word.open_paths(FILES, HUB, before) == {"a"}


async def test_a_hub_that_refuses_says_that_it_is_not_for_everybody(hub):
    async def denied(ref, endpoint):
        raise Denied("a token is needed")

    word = HubWord(denied, lambda: 0.0)
    assert await word.open_paths(FILES, HUB, {"a"}) == set()


async def test_a_fault_of_ours_says_nothing_of_the_repository(hub):
    async def died(ref, endpoint):
        raise LocalFault("a worker process died")

    word = HubWord(died, lambda: 0.0)
    assert await word.open_paths(FILES, HUB, {"a"}) == {"a"}


def test_a_shared_payload_is_of_all_repositories_that_link_to_it(tmp_path):
    payload = tmp_path / "blobs" / "ab"
    payload.mkdir(parents=True)
    lines = f"{OPEN}/blobs/{'a' * 64}\n\n{GATED}/blobs/{'a' * 64}\n"
    (payload / "one.refs").write_text(lines)
    (payload / "long.refs").write_bytes(b"models--a--b/blobs/x\n" + bytes(MAX_REFS_BYTES))
    (payload / "link.refs").symlink_to("one.refs")
    os.mkfifo(payload / "pipe.refs")
    (payload / "text.refs").write_bytes(b"\xff\xfe")
    names = ["one", "long", "link", "pipe", "text", "none"]
    paths = [f"blobs/ab/{name}" for name in names]
    found = repos_of(str(tmp_path), [*paths, f"{OPEN}/blobs/x", f"{OPEN}/snapshots/1/y"])
    assert found[paths[0]] == {OPEN, GATED}
    assert all(found[path] == frozenset() for path in paths[1:])
    assert found[f"{OPEN}/blobs/x"] == found[f"{OPEN}/snapshots/1/y"] == {OPEN}
