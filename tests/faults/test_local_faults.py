"""Faults of our own machine: its disk, clock, files. Never a bad blob, never a traceback."""

from __future__ import annotations

import shutil
import signal
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
from tests.support.agents import Agent, running_agent
from tests.support.blobs import MIB, ServedBlob, left_behind, sha256_file, write_blob
from tests.support.hub_repo import Recipe, build_repo, lfs, many_small_files, text
from tests.support.hub_stub import hub_stub
from tests.support.hubs import VERSIONS, HubClient, hub_python
from tests.support.nginx import nginx, static_hub
from tests.support.proctable import tree_pss_bytes
from tests.support.pulling import Pull
from tests.support.second_agent import start_and_end
from tests.support.stored import content, fill, root_of
from tests.support.tmpfs import tmpfs
from tests.support.wallclock import wall_clock

if TYPE_CHECKING:
    from p2pcache.store.partial import Partial

DAY_S = 86_400
SLOWLY = {"fetch.limit_rate": "8 MiB"}  # where a test must act between two moments of a pull
TWO_AT_ONCE = {"fetch.limit_rate": "40 MiB"}  # below 32 MiB/s one stream is enough


@pytest.fixture(scope="module")
def blob(tmp_path_factory: pytest.TempPathFactory) -> ServedBlob:
    return write_blob(tmp_path_factory.mktemp("origin"), 24 * MIB + 1)


@pytest.fixture(scope="module")
def five_blocks(tmp_path_factory: pytest.TempPathFactory) -> ServedBlob:
    return write_blob(tmp_path_factory.mktemp("origin"), 5 * MIB, seed=5)


def no_traceback(agent: Agent) -> None:
    assert "Traceback" not in agent.log.read_text()


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


# -- damage ----------------------------------------------------------------------------------------


def damage(path: Path, at: int) -> None:
    """Flip a byte, as a failing disk does: neither length nor mode change."""
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 0xFF]))
    path.chmod(0o444)


@pytest.mark.parametrize("how", ["get", "repair"])
def test_a_damaged_blob_is_found_and_only_its_bad_block_is_fetched_again(
    tmp_path: Path, five_blocks: ServedBlob, how: str
):
    with (
        nginx(five_blocks.path.parent, tmp_path / "nginx") as server,
        running_agent(tmp_path) as agent,
        agent.client() as client,
    ):
        ref = five_blocks.ref(server)
        client.get(ref)
        stored = five_blocks.in_store(agent.home)
        damage(stored, 2 * MIB + 77)
        sent = server.body_bytes()
        if how == "get":
            (found,) = client.verify()["bad"]
            assert not stored.exists(), "it is out of sight"
            client.get(ref)
        else:
            (found,) = client.verify(repair=True)["bad"]
            assert found["repaired"]
        assert found["sha256"] == five_blocks.sha256
        assert found["bad_blocks"] == 1
        assert sha256_file(stored) == five_blocks.sha256
        assert MIB <= server.body_bytes() - sent <= MIB + 1, "a block, and a probe"
        assert client.verify()["bad"] == []
        assert left_behind(agent.home) == []


def test_a_repair_is_not_fooled_by_an_origin_that_changed(tmp_path: Path, five_blocks: ServedBlob):
    origin = tmp_path / "origin"
    origin.mkdir()
    changing = origin / five_blocks.path.name
    changing.write_bytes(five_blocks.path.read_bytes())
    with (
        nginx(origin, tmp_path / "nginx") as server,
        running_agent(tmp_path, settings={"fetch.patience": "3s"}) as agent,
        agent.client() as client,
    ):
        client.get(five_blocks.ref(server))
        stored = five_blocks.in_store(agent.home)
        damage(stored, 2 * MIB + 77)
        damage(changing, 2 * MIB + 78)
        (found,) = client.verify(repair=True)["bad"]
        assert not found["repaired"]
        assert found["reason"]
        assert not stored.exists()
        with pytest.raises(errors.Untrusted):
            client.get(five_blocks.ref(server))
        damage(changing, 2 * MIB + 78)
        client.get(five_blocks.ref(server))
        assert sha256_file(stored) == five_blocks.sha256


def test_a_file_of_an_adopted_cache_that_changes_is_trusted_no_more(tmp_path: Path):
    repo = build_repo(tmp_path / "repo", {"a.txt": text("a\n"), "model.bin": lfs(3 * MIB, 3)})
    model = repo.files["model.bin"]
    with hub_stub(repo) as hub, running_agent(tmp_path) as agent:
        library = HubClient(
            hub_python(VERSIONS[0]), agent.hub_cache.parent, endpoint=hub.url,
            extra_env={"HF_HUB_DISABLE_XET": "1"},
        )  # fmt: skip
        library.call("snapshot_download", repo_id=repo.repo_id)
        options = {"credentials": {"hf_endpoint": hub.url}, "to": str(tmp_path / "out")}
        assert agent.get("hf://demo/model", **options)["fetched_bytes"] == 0, "it was adopted"
        theirs = agent.hub_cache / "models--demo--model" / "blobs" / model.etag
        damage(theirs, MIB + 5)
        again = agent.get("hf://demo/model", **options)
        assert again["fetched_bytes"] == model.size
        assert sha256_file(tmp_path / "out" / "model.bin") == model.sha256
        assert sha256_file(theirs) != model.sha256, "what is not ours is not mended"


# -- the clock -------------------------------------------------------------------------------------


@pytest.mark.parametrize("jump_s", [-30 * DAY_S, 30 * DAY_S])
def test_a_clock_that_jumps_by_weeks_amid_a_pull_changes_nothing(
    tmp_path: Path, blob: ServedBlob, jump_s: int
):
    clock = wall_clock(tmp_path)
    settings = {"store.path": str(tmp_path / "store"), **SLOWLY}
    with (
        nginx(blob.path.parent, tmp_path / "nginx") as server,
        running_agent(tmp_path / "a", settings=settings, **clock.env) as first,
        running_agent(tmp_path / "b", settings=settings, **clock.env) as second,
    ):
        with Pull(first, blob.ref(server)) as one:
            one.wait_bytes(2 * MIB)
            with Pull(second, blob.ref(server)) as two:
                time.sleep(0.5)  # it has looked at the lease by now
                clock.shift(jump_s)
        assert one.error is None
        assert two.error is None
        assert server.body_bytes() <= blob.size + MIB, "nobody took a live lease for a dead one"
        assert sha256_file(blob.in_store(tmp_path / "store")) == blob.sha256
        assert first.why()["seconds"] < DAY_S, "what it took is measured, not computed from dates"


def test_eviction_and_resolutions_survive_a_clock_that_was_set_back(tmp_path: Path):
    clock = wall_clock(tmp_path)
    blobs = [write_blob(tmp_path / "origin", 3 * MIB, seed) for seed in (11, 12, 13, 14)]
    first, second, third, fourth = blobs
    settings = {"store.capacity": "10 MiB", "resolve.ttl": "60s"}
    repo = build_repo(tmp_path / "repo", {"a.txt": text("a\n")})
    with (
        hub_stub(repo) as hub,
        nginx(tmp_path / "origin", tmp_path / "nginx") as server,
        running_agent(tmp_path, settings=settings, **clock.env) as agent,
        agent.client() as client,
    ):
        credentials = {"hf_endpoint": hub.url}
        client.get(first.ref(server))
        clock.shift(30 * DAY_S)
        client.get(second.ref(server))
        client.resolve("hf://demo/model", credentials=credentials)
        clock.shift(-30 * DAY_S)
        client.get(third.ref(server))
        hub.asked.clear()
        client.resolve("hf://demo/model", credentials=credentials)
        assert hub.asked, "an answer from the future is not fresh for ever"
        client.get(fourth.ref(server))  # needs room: somebody must go, and it must not fail
        present = {path.name for path in (agent.home / "blobs-v1").glob("*/*")}
        assert fourth.sha256 in present
        assert len(present & {b.sha256 for b in blobs}) == 3
        assert client.verify()["bad"] == []


# -- a process that holds what we want, and sleeps -------------------------------------------------


def test_who_holds_a_file_and_brings_nothing_is_named_after_a_while(
    tmp_path: Path, blob: ServedBlob
):
    home = tmp_path / "both"
    settings = {"store.path": str(home), "fetch.patience": "2s", **SLOWLY}
    with (
        nginx(blob.path.parent, tmp_path / "nginx") as server,
        running_agent(tmp_path / "frozen", settings=settings) as frozen,
        running_agent(tmp_path / "waiting", settings=settings) as waiting,
    ):
        with Pull(frozen, blob.ref(server)) as first:
            first.wait_bytes(2 * MIB)
            assert frozen.process is not None
            frozen.process.send_signal(signal.SIGSTOP)
            try:
                with Pull(waiting, blob.ref(server), patience_s=20) as second:
                    second.wait_phase(f"waiting for process {frozen.process.pid}")
                assert isinstance(second.error, errors.LocalFault), second.answer
                assert f"process {frozen.process.pid}" in second.error.message
            finally:
                frozen.process.send_signal(signal.SIGCONT)
        assert first.error is None
        no_traceback(waiting)


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
        give_up = time.monotonic() + 10
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


# -- our own settings ------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [None, "no certificate in here"])
def test_a_file_of_authorities_that_cannot_be_read_is_said_at_the_start(
    tmp_path: Path, text: str | None
):
    ca_file = tmp_path / "ca.pem"
    if text is not None:
        ca_file.write_text(text)
    with running_agent(tmp_path) as agent:
        agent.stop()
        ended = start_and_end(agent, P2PCACHE_TLS_CA_FILE=str(ca_file))
    assert ended.returncode == 1
    assert str(ca_file) in ended.stderr
    assert "tls.ca_file" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("size", [1000, 2 * MIB])
def test_a_token_that_no_header_can_carry_is_the_callers_fault_at_once(tmp_path: Path, size: int):
    """Also when the meaning of the ref is known, so that only the bytes need the token."""
    repo = build_repo(tmp_path / "repo", {"f.bin": lfs(size, 1)})
    with hub_stub(repo) as hub, running_agent(tmp_path) as agent, agent.client() as client:
        ref = f"hf://demo/model@{repo.commit}"
        client.resolve(ref, credentials={"hf_endpoint": hub.url})
        began = time.monotonic()
        with pytest.raises(errors.UsageError, match="token"):
            client.get(ref, credentials={"hf_endpoint": hub.url, "hf_token": "hf_\x07bell"})
        assert time.monotonic() - began < 10, "asking again would not help"


# -- sizes -----------------------------------------------------------------------------------------


def test_an_empty_file(tmp_path: Path):
    empty = write_blob(tmp_path / "origin", 0)
    with (
        nginx(tmp_path / "origin", tmp_path / "nginx") as server,
        running_agent(tmp_path) as agent,
    ):
        for ref in (empty.ref(server), f"{server.url}/{empty.path.name}"):
            done = agent.get(ref, to=str(tmp_path / "out"))
            assert Path(done["path"]).read_bytes() == b""
        assert agent.get(empty.ref(server), offline=True)["fetched_bytes"] == 0
        with agent.client() as client:
            assert client.verify()["bad"] == []


@pytest.mark.slow
def test_five_thousand_small_files(tmp_path: Path):
    recipes = many_small_files(5_000)
    recipes["empty.txt"] = Recipe(data=b"")
    repo = build_repo(tmp_path / "repo", recipes)
    extra = static_hub(repo, tmp_path / "site")
    with (
        nginx(tmp_path / "site", tmp_path / "nginx", extra=extra) as server,
        running_agent(tmp_path) as agent,
    ):
        options = {"credentials": {"hf_endpoint": server.url}, "to": str(tmp_path / "out")}
        done = agent.get("hf://demo/model", **options)
        assert done["files"] == 5_001
        assert done["fetched_bytes"] == repo.total_bytes
        for path, file in repo.files.items():
            assert sha256_file(tmp_path / "out" / path) == file.sha256, path
        asked = len(server.requests())
        again = agent.get("hf://demo/model", **options)
        assert again["fetched_bytes"] == 0
        assert again["reused_bytes"] == repo.total_bytes
        files = [r for r in server.requests()[asked:] if "/resolve/" in r.uri]
        assert files == [], "not one file was asked for again"


# `head -c 20G /dev/zero | sha256sum`, and the same for 4G
SPARSE = {
    20 << 30: "6cb118a8f8b3c19385874297e291dcbcdf3a9837ba1ca7b00ace2491adbff551",
    4 << 30: "8479e43911dc45e89f934fe48d01297e16f51d17aa561d4d1c216b1ae0fcddca",
}
STREAMS = 2


@pytest.mark.slow
def test_memory_stays_flat_for_20_gib(tmp_path: Path):
    # what arrives is not sparse: a machine with a small disk gets the smaller blob
    free = shutil.disk_usage(tmp_path).free
    size = max((s for s in SPARSE if s + 2 * (1 << 30) < free), default=4 << 30)
    sha256 = SPARSE[size]
    origin = tmp_path / "origin"
    origin.mkdir()
    sparse = origin / "zeros.bin"
    with sparse.open("wb") as file:
        file.truncate(size)
    with (
        nginx(origin, tmp_path / "nginx") as server,
        running_agent(tmp_path, settings={"fetch.max_streams": str(STREAMS)}) as agent,
    ):
        assert agent.process is not None
        idle = tree_pss_bytes(agent.process.pid)
        peak = idle
        with Pull(agent, f"{server.url}/zeros.bin#sha256={sha256}", patience_s=900) as pull:
            while pull.answer is None and pull.error is None:
                peak = max(peak, tree_pss_bytes(agent.process.pid))
                time.sleep(0.25)
        assert pull.error is None
        assert pull.answer is not None
        assert pull.answer["fetched_bytes"] == size
        (agent.home / "blobs-v1" / sha256[:2] / sha256).unlink()
        print(f"{size >> 30} GiB: idle {idle >> 20} MiB, peak {peak >> 20} MiB")
        assert peak - idle <= 64 * MIB + STREAMS * 32 * MIB
