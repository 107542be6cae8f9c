"""What may leave this machine, and what it is called there."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from trio.testing import wait_all_tasks_blocked

from p2pcache import errors
from p2pcache.agent.give import give
from p2pcache.content import digests
from p2pcache.content.refs import parse_ref
from p2pcache.destinations.port import Amount, Pushed, Waiting
from p2pcache.sources.port import ListedFile, Listing
from tests.support.inside import agent_inside
from tests.support.memory_objects import content

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from p2pcache.destinations.port import Content, Place

NOBODY = "http://127.0.0.1:9"  # whoever asks it finds that it is not there


async def test_restricted_content_leaves_only_when_the_user_says_so(tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(b"weights nobody may see")
    async with agent_inside(tmp_path / "home", network_enabled="off") as inside:
        pushed = await inside("push", path=str(tmp_path / "model"))
        inside.parts.store.forget_ref(pushed["ref"])
        digest = digests.sha256_digest(bytes.fromhex(pushed["sha256"]))
        files = (ListedFile("model", 22, digest, "model"),)
        listing = Listing("hf", "https://huggingface.co", "c" * 40, False, files, gated=True)
        inside.parts.resolver.record(parse_ref("hf://org/gated@main"), listing)
        for ref in ("hf://org/gated@main", pushed["manifest"], f"sha256:{pushed['sha256']}"):
            with pytest.raises(errors.Denied, match="gated or private"):
                await inside("push", ref=ref, to="ipfs", kubo=NOBODY)
            with pytest.raises(errors.Unavailable):
                await inside("push", ref=ref, to="ipfs", kubo=NOBODY, allow_gated=True)


async def test_a_dry_run_brings_nothing_here(tmp_path: Path) -> None:
    async with agent_inside(tmp_path / "home", network_enabled="off") as inside:
        with pytest.raises(errors.NotFound):
            await inside("push", ref="hf://org/model", to="ipfs", kubo=NOBODY, dry_run=True)


async def test_a_destination_that_is_none_is_told_before_anything_is_taken_in(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").write_bytes(b"x")
    async with agent_inside(tmp_path / "home", network_enabled="off") as inside:
        with pytest.raises(errors.UsageError, match="no destination"):
            await inside("push", path=str(tmp_path / "file"), to="nowhere")
        with pytest.raises(errors.UsageError, match="no destination") as told:
            await inside("push", path=str(tmp_path / "file"), to="cw://models/folder")
        assert told.value.hint is not None
        assert "s3://BUCKET" in told.value.hint
        with pytest.raises(errors.UsageError, match="no Kubo is configured"):
            await inside("push", path=str(tmp_path / "file"), to="ipfs")
        assert not inside.parts.store.every_blob()


async def test_a_folder_without_files_is_refused_where_only_files_are_kept(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    async with agent_inside(tmp_path / "home", network_enabled="off") as inside:
        with pytest.raises(errors.UsageError, match="has no files"):
            await inside("push", path=str(tmp_path / "empty"), to="oci://127.0.0.1:9/a/b:v1")


async def test_a_push_has_a_rate_of_its_own_beside_the_agents(tmp_path: Path) -> None:
    seen: list[Place] = []

    async def spy(place: Place) -> NoReturn:
        seen.append(place)
        raise errors.UsageError("that is all")

    async with agent_inside(tmp_path / "home", network_enabled="off", limits_up="1 MiB") as inside:
        inside.parts = replace(inside.parts, destinations={"spy": spy})
        with pytest.raises(errors.UsageError, match="that is all"):
            await inside("push", ref="hf://org/model", to="spy://x", limit_rate=1 << 22)
        assert inside.parts.workers.uplink.is_limited
    assert [place.rate_bytes_per_s for place in seen] == [1 << 22]


@pytest.mark.parametrize(("source", "goes"), [("s3", True), ("hf", False)])
async def test_files_of_this_machine_go_again_to_a_store_that_wants_a_login_and_gated_ones_do_not(
    tmp_path: Path, source: str, goes: bool
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "model").write_bytes(b"the user's own, or a hub's")
    async with agent_inside(tmp_path / "home", network_enabled="off") as inside:
        pushed = await inside("push", path=str(tmp_path / "in"))
        digest = inside.parts.store.every_blob()[0].digest
        files = (ListedFile("model", 26, digest, "model"),)
        ref = "s3://bucket/m" if source == "s3" else "hf://org/gated@main"
        listing = Listing(source, "https://there", "c" * 40, False, files, gated=True)
        inside.parts.resolver.record(parse_ref(ref), listing)
        assert pushed["files"] == 1
        refused = errors.Unavailable if goes else errors.Denied
        with pytest.raises(refused):
            await inside("push", path=str(tmp_path / "in"), to="ipfs", kubo=NOBODY)
        with pytest.raises(errors.Denied):
            await inside("push", ref=ref, to="ipfs", kubo=NOBODY)


class Waits:
    """A place where another agent has its turn first; then some of a file is there already."""

    name, where = "s3", "s3://bucket/"
    endpoint: str | None = "https://there"

    async def plan(self, content: Content) -> None:
        return None

    def missing(self, plan: None) -> Amount:
        return Amount(bytes=100, objects=1)

    async def send(
        self, content: Content, plan: None, watch: Callable[[int | Waiting], None]
    ) -> Pushed:
        for news in (Waiting("another agent", 30, 90), 40, 100):
            watch(news)
            await wait_all_tasks_blocked()
        return Pushed(Amount(bytes=60, objects=1), content.root, resumed_bytes=40)

    async def aclose(self) -> None:
        return None


async def test_a_push_tells_whom_it_waits_for_and_what_was_there_before() -> None:
    heard: list[tuple[object, ...]] = []

    async def emit(frame: Mapping[str, Any]) -> None:
        told = ("phase", "waiting_for", "done_bytes", "total_bytes")
        heard.append(tuple(frame[name] for name in told))

    answer = await give(Waits(), content({"a": b"x" * 100}), emit, dry_run=False)
    assert heard == [
        ("planning", None, 0, 0), ("waiting", "another agent", 30, 90),
        ("sending", None, 40, 100), ("sending", None, 100, 100),
    ]  # fmt: skip
    assert (answer["missing_bytes"], answer["sent_bytes"], answer["resumed_bytes"]) == (100, 60, 40)
