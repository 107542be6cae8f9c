"""What `get` answers, whatever its size."""

from __future__ import annotations

import hashlib
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace

import pytest
import trio

from p2pcache.agent.args import Args
from p2pcache.agent.get import get, get_request, pull_key
from p2pcache.agent.localapi.wire import MAX_ITEMS
from p2pcache.content.digests import sha256_digest
from p2pcache.errors import NotFound
from p2pcache.sources.port import Credentials, ListedFile, Listing
from p2pcache.transfer.pull import pull
from p2pcache.transfer.resolve import Resolution, manifest_of
from tests.support.inside import agent_inside

COUNT = MAX_ITEMS + 4


@pytest.fixture
async def inside(tmp_path):
    async with agent_inside(tmp_path / "home") as inside:
        yield inside


async def test_a_dry_run_names_more_files_than_a_frame_holds(inside, tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(COUNT):
        (folder / f"f{number:05}").write_bytes(b"x" * number)
    answer = await inside("get", ref=str(folder), dry_run=True)
    assert len(answer["dry_run"]["missing_files"]) == COUNT
    assert answer["dry_run"]["missing_bytes"] == sum(range(COUNT))


async def test_of_many_notes_the_first_are_shown_and_the_rest_counted(inside, tmp_path):
    folder, out = tmp_path / "many", tmp_path / "out"
    for each in (folder, out):
        each.mkdir()
    for number in range(200):
        (folder / f"f{number:05}").write_bytes(b"new")
        (out / f"f{number:05}").write_bytes(b"old")
    answer = await inside("get", ref=str(folder), to=str(out))
    assert len(answer["notes"]) == 51
    assert answer["notes"][-1] == "and 150 more notes like these"
    assert (out / "f00199").read_bytes() == b"new"


async def test_a_get_that_is_cancelled_stops_between_two_files(inside, tmp_path):
    folder, out = tmp_path / "many", tmp_path / "out"
    folder.mkdir()
    for number in range(3000):
        (folder / f"f{number:05}").write_bytes(b"%d" % number)
    with trio.CancelScope() as scope:

        async def emit(frame):
            if frame.get("phase") == "materialising":
                scope.deadline = trio.current_time() + 0.02
            await trio.lowlevel.checkpoint()

        args = Args({"ref": str(folder), "to": str(out)})
        await get(inside.parts, args, emit)
    assert scope.cancelled_caught
    assert len(list(out.iterdir())) < 3000


@pytest.mark.parametrize("here", [True, False])
async def test_peers_are_asked_only_for_what_is_missing(inside, tmp_path, here):
    parts, asked = inside.parts, []
    (tmp_path / "here").write_bytes(b"here")
    await inside("push", path=str(tmp_path / "here"))
    digest = sha256_digest(hashlib.sha256(b"here" if here else b"gone").digest())
    file = ListedFile("a", 4, digest, "a")
    listing = Listing("hf", "https://huggingface.co", "c" * 40, False, (file,))
    ref = get_request(Args({"ref": "hf://org/name"}), links=True).ref
    known = Resolution(ref, "hf://org/name@main", listing, manifest_of(listing), 0.0, False)

    @asynccontextmanager
    async def peers():
        asked.append(True)
        yield None

    with (
        nullcontext() if here else pytest.raises(NotFound),
        parts.store.running() as hold,
    ):
        await pull(
            parts.context, known, [file], None, Credentials(), rate_bytes_per_s=None,
            watch=lambda _: None, note=lambda _: None, hold=hold, peers=peers(),
        )  # fmt: skip
    assert asked == ([] if here else [True])


def test_calls_share_a_pull_when_user_and_origin_are_the_same():
    request = get_request(Args({"ref": "hf://org/name"}), links=True)
    file = ListedFile("a", 1, b"\x12\x20" + bytes(32), "key")
    listing = Listing("hf", "https://huggingface.co", "c" * 40, True, (file,))
    known = Resolution(request.ref, "hf://org/name@main", listing, manifest_of(listing), 0.0, False)

    def key(*, at="https://huggingface.co", **changes):
        there = replace(known, listing=replace(listing, endpoint=at))
        return pull_key(replace(request, **changes), there, [file])

    assert key() == key(links=False) == key(rate_bytes_per_s=1e6)
    others = [
        key(credentials=Credentials("token of another user")),
        key(at="https://mirror.example"),
        key(offline=True),
    ]
    assert len({key(), *others}) == 4
