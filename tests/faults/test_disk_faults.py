"""Disks that are full, read-only, or hang: never a bad blob, never a traceback."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from p2pcache import errors
from p2pcache.content.digests import sha256_digest
from p2pcache.errors import LocalFault, Untrusted
from p2pcache.store.layout import StoreOptions
from p2pcache.store.store import Store
from p2pcache.transfer.growing import CLOSE_S, GrowingBlob
from p2pcache.transfer.want import Wanted
from tests.support.agents import no_traceback, running_agent
from tests.support.blobs import MIB, ServedBlob, sha256_file
from tests.support.hub_repo import build_repo, lfs, many_small_files
from tests.support.nginx import nginx, static_hub
from tests.support.pulling import Pull
from tests.support.second_agent import start_and_end
from tests.support.stored import content, fill, root_of
from tests.support.tmpfs import tmpfs

if TYPE_CHECKING:
    from p2pcache.store.partial import Partial

SLOWLY = {"fetch.limit_rate": "8 MiB"}  # where a test must act between two moments of a pull
TWO_AT_ONCE = {"fetch.limit_rate": "40 MiB"}  # below 32 MiB/s one stream is enough


def visible_blobs(store: Path) -> list[str]:
    return [path.name for path in (store / "blobs-v1").glob("*/*")]


# -- a full disk -----------------------------------------------------------------------------------


def test_what_cannot_fit_is_refused_before_a_byte_moves(tmp_path: Path, blob: ServedBlob):
    with (
        nginx(blob.path.parent, tmp_path / "nginx") as server,
        tmpfs(tmp_path / "disk", 16 * MIB) as disk,
        running_agent(tmp_path, settings=SLOWLY, P2PCACHE_HOME=str(disk.path)) as agent,
    ):
        with pytest.raises(errors.DiskFull) as caught:
            agent.get(blob.ref(server))
        assert caught.value.exit_code == 13
        assert f"{blob.size:,} bytes are needed" in caught.value.message
        assert caught.value.hint
        assert server.body_bytes() <= 1, "a probe of a byte"
        disk.remount("size=64m")
        agent.get(blob.ref(server))
        assert sha256_file(blob.in_store(disk.path)) == blob.sha256


def test_a_disk_that_fills_up_on_the_way_costs_only_what_was_not_verified(
    tmp_path: Path, blob: ServedBlob
):
    with (
        nginx(blob.path.parent, tmp_path / "nginx") as server,
        tmpfs(tmp_path / "disk", 48 * MIB) as disk,
        running_agent(tmp_path, settings=SLOWLY, P2PCACHE_HOME=str(disk.path)) as agent,
    ):
        with Pull(agent, blob.ref(server)) as pull:
            pull.wait_bytes(8 * MIB)
            filler = disk.fill()
        error = pull.error
        assert isinstance(error, errors.DiskFull), error
        assert error.exit_code == 13
        assert f"of {blob.size:,} bytes are verified and kept" in error.message
        assert error.hint
        assert "kept" in error.hint
        assert visible_blobs(disk.path) == [], "no half blob"
        with agent.client() as client:
            assert client.status()["pulls"] == [], "the agent lives"
        filler.unlink()
        done = agent.get(blob.ref(server))
        assert sha256_file(blob.in_store(disk.path)) == blob.sha256
        assert done["fetched_bytes"] <= blob.size - 8 * MIB
        no_traceback(agent)


def test_a_full_disk_is_not_blamed_on_the_origin(tmp_path: Path, blob: ServedBlob):
    with (
        nginx(blob.path.parent, tmp_path / "nginx") as server,
        tmpfs(tmp_path / "disk", 48 * MIB) as disk,
        running_agent(
            tmp_path,
            settings={"store.path": str(disk.path), **SLOWLY},
        ) as agent,
    ):
        with Pull(agent, blob.ref(server)) as pull:
            pull.wait_bytes(4 * MIB)
            disk.fill()
        assert isinstance(pull.error, errors.DiskFull)
        # the index lies on the full disk too: the receipt may be lost, the reason is not
        assert "127.0.0.1" not in pull.error.message


def test_a_full_disk_frees_every_blob_that_was_on_its_way(tmp_path: Path):
    """A flush that the disk refuses must not keep the leases of the other files."""
    repo = build_repo(tmp_path / "repo", {f"{n}.bin": lfs(16 * MIB, n) for n in range(4)})
    extra = static_hub(repo, tmp_path / "site")
    with (
        nginx(tmp_path / "site", tmp_path / "nginx", extra=extra) as server,
        tmpfs(tmp_path / "disk", 80 * MIB) as disk,
        running_agent(tmp_path, settings=TWO_AT_ONCE, P2PCACHE_HOME=str(disk.path)) as agent,
    ):
        options = {"credentials": {"hf_endpoint": server.url}, "to": str(tmp_path / "out")}
        with Pull(agent, "hf://demo/model", **options) as pull:
            pull.wait_bytes(4 * MIB)
            filler = disk.fill()
        assert isinstance(pull.error, errors.DiskFull), pull.error or pull.answer
        filler.unlink()
        with Pull(agent, "hf://demo/model", patience_s=20, **options) as again:
            pass
        assert again.error is None
        for file in repo.files.values():
            stored = disk.path / "blobs-v1" / file.sha256[:2] / file.sha256
            assert sha256_file(stored) == file.sha256
        no_traceback(agent)


def test_small_files_meet_a_full_disk(tmp_path: Path):
    repo = build_repo(tmp_path / "repo", many_small_files(400))
    extra = static_hub(repo, tmp_path / "site")
    with (
        nginx(tmp_path / "site", tmp_path / "nginx", extra=extra) as server,
        tmpfs(tmp_path / "disk", 16 * MIB) as disk,
        running_agent(
            tmp_path, settings={"fetch.limit_rate": "3 MiB"}, P2PCACHE_HOME=str(disk.path)
        ) as agent,
    ):
        options = {"credentials": {"hf_endpoint": server.url}, "to": str(tmp_path / "out")}
        with Pull(agent, "hf://demo/model", **options) as pull:
            pull.wait_files(100)
            filler = disk.fill()
        assert isinstance(pull.error, errors.DiskFull), pull.error or pull.answer
        for name in visible_blobs(disk.path):
            assert sha256_file(disk.path / "blobs-v1" / name[:2] / name) == name
        filler.unlink()
        disk.remount("size=64m")
        done = agent.get("hf://demo/model", **options)
        assert done["reused_bytes"] > 0
        assert done["fetched_bytes"] + done["reused_bytes"] == repo.total_bytes
        no_traceback(agent)


def test_an_agent_whose_home_is_on_a_full_disk_works_and_counts_by_reports(
    tmp_path: Path, five_blocks: ServedBlob
):
    settings = {"store.path": str(tmp_path / "store")}
    with (
        nginx(five_blocks.path.parent, tmp_path / "nginx") as server,
        tmpfs(tmp_path / "disk", 1 * MIB) as disk,
    ):
        disk.fill()
        with running_agent(tmp_path, settings=settings, P2PCACHE_HOME=str(disk.path)) as agent:
            agent.get(five_blocks.ref(server))
            with agent.client() as client:
                (origin,) = client.origins()
                client.gc(target_bytes=0)
            assert origin["bytes"] >= five_blocks.size
            assert visible_blobs(tmp_path / "store") == []
            assert "counted at their end only" in agent.log.read_text()
            no_traceback(agent)


# -- a read-only disk ------------------------------------------------------------------------------


def test_an_agent_whose_home_is_read_only_says_so(tmp_path: Path):
    with tmpfs(tmp_path / "disk", 16 * MIB) as disk:
        with running_agent(tmp_path, P2PCACHE_HOME=str(disk.path)) as agent:
            pass
        disk.remount("ro")
        refused = start_and_end(agent)
        assert refused.returncode == errors.LocalFault.exit_code
        assert "Read-only file system" in refused.stderr
        assert "hint: " in refused.stderr
        assert "P2PCACHE_HOME" in refused.stderr
        assert "Traceback" not in refused.stderr


def test_a_read_only_store_gives_what_it_has_and_says_why_it_takes_no_more(
    tmp_path: Path, blob: ServedBlob, five_blocks: ServedBlob
):
    with (
        nginx(blob.path.parent, tmp_path / "nginx") as server,
        nginx(five_blocks.path.parent, tmp_path / "nginx2") as other,
        tmpfs(tmp_path / "disk", 64 * MIB) as disk,
    ):
        settings = {"store.path": str(disk.path / "store")}
        with running_agent(tmp_path, settings=settings) as agent:
            agent.get(five_blocks.ref(other))
        disk.remount("ro")
        with running_agent(tmp_path, settings=settings) as agent:
            had = agent.get(five_blocks.ref(other), offline=True)
            assert sha256_file(Path(had["path"])) == five_blocks.sha256
            assert any("read-only" in note for note in had["notes"]), "no receipt, and it says so"
            with pytest.raises(errors.LocalFault) as caught:
                agent.get(blob.ref(server))
            assert not isinstance(caught.value, errors.DiskFull)
            assert "ead-only" in caught.value.message
            assert caught.value.hint
            assert "read-write" in caught.value.hint
            no_traceback(agent)


# -- a disk that hangs -----------------------------------------------------------------------------


class HangingPartial:
    """A partial on a disk that answers again when `answers` is set."""

    def __init__(self, inner: Partial, answers: threading.Event) -> None:
        self._inner = inner
        self._answers = answers

    def __getattr__(self, name: str):
        return getattr(self._inner, name)

    def have_count(self) -> int:
        self._answers.wait()
        return self._inner.have_count()


class HangingStore:
    def __init__(self, inner: Store, answers: threading.Event) -> None:
        self._inner = inner
        self._answers = answers

    def __getattr__(self, name: str):
        return getattr(self._inner, name)

    def partial(self, *args, **options) -> HangingPartial:
        return HangingPartial(self._inner.partial(*args, **options), self._answers)


async def test_a_disk_that_hangs_does_not_hang_the_end_of_a_pull(
    tmp_path: Path, autojump_clock: object
):
    answers = threading.Event()
    wanted = Wanted("f", 3 * MIB, sha256_digest(bytes(32)), "f")
    with Store.open(tmp_path, StoreOptions(reserve_bytes=0)) as store:
        hanging: Any = HangingStore(store, answers)
        nobody: Any = None
        growing = GrowingBlob(wanted, hanging, nobody, lambda _: None, 5.0)
        assert await growing.open() is None
        began = trio.current_time()
        await growing.aclose()
        assert trio.current_time() - began == pytest.approx(CLOSE_S)
        answers.set()
        directory = store.layout.partial(sha256_digest(bytes(32)))
        give_up = time.monotonic() + 60
        while directory.exists() and time.monotonic() < give_up:
            time.sleep(0.01)  # noqa: ASYNC251  (real time: the virtual one would run away)
        assert not directory.exists(), "done after all, when the disk answers"


class FaultyMap:
    """A partial whose map cannot be read now."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str):
        return getattr(self._inner, name)

    def block_hashes(self) -> bytes:
        raise LocalFault("Too many open files")


class FaultyMaps:
    def __init__(self, inner: Store) -> None:
        self._inner = inner

    def __getattr__(self, name: str):
        return getattr(self._inner, name)

    def partial(self, *args, **options) -> FaultyMap:
        return FaultyMap(self._inner.partial(*args, **options))


@pytest.mark.parametrize("ends", ["cancelled", "cannot be read"])
async def test_a_download_that_ends_before_its_root_was_checked_is_kept(tmp_path: Path, ends: str):
    data = content(3 * MIB + 5, 1)
    root = root_of(data)
    with Store.open(tmp_path, StoreOptions(reserve_bytes=0)) as store:
        given: Any = FaultyMaps(store) if ends == "cannot be read" else store
        nobody: Any = None
        wanted = Wanted("p", len(data), None, "p", root=root)
        growing = GrowingBlob(wanted, given, nobody, lambda _: None, 5.0)
        assert await growing.open() is None
        fill(growing.partial, data)
        if ends == "cancelled":
            with trio.CancelScope() as scope:
                scope.cancel()
                await growing.finish(again=False)
            assert scope.cancelled_caught
        else:
            with pytest.raises(LocalFault, match="Too many"):
                await growing.finish(again=False)
        await growing.aclose()
        assert store.others_progress(root) == 4, "nothing said that a block is wrong"


async def test_a_download_that_is_not_the_root_that_was_asked_for_is_not_kept(tmp_path: Path):
    data = content(3 * MIB + 5, 1)
    with Store.open(tmp_path, StoreOptions(reserve_bytes=0)) as store:
        nobody: Any = None
        wanted = Wanted("p", len(data), None, "p", root=root_of(data))
        growing = GrowingBlob(wanted, store, nobody, lambda _: None, 5.0)
        assert await growing.open() is None
        fill(growing.partial, content(3 * MIB + 5, 2))
        with pytest.raises(Untrusted):
            await growing.finish(again=False)
        await growing.aclose()
        assert store.others_progress(root_of(data)) == 0
