"""Unmodified huggingface_hub releases read the cache that we write, and we read theirs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from p2pcache import config
from p2pcache.errors import LocalFault, Untrusted, UsageError
from p2pcache.store.hfcache import read
from p2pcache.store.hfcache.write import LinkedFile, materialise
from p2pcache.store.links import LinkKind
from tests.support.hub_files import COMMIT, CONTENT, stored
from tests.support.hub_repo import build_repo
from tests.support.hub_stub import hub_stub
from tests.support.hubs import VERSIONS, HubClient, hub_python

REPO = ("model", "demo/model")
COPY_SNAPSHOT = """
import sys
from pathlib import Path
from p2pcache.store.hfcache.write import materialise
from p2pcache.store.links import LinkKind
from tests.support.hub_files import stored
big = {f"part-{n}.bin": bytes([n]) * 3_000_000 for n in range(6)}
files = stored(Path(sys.argv[1]), big)
print("go", flush=True)
materialise(Path(sys.argv[2]), "model", "demo/model", sys.argv[3], files, revisions=["main"],
            whole_tree=True, kinds=[LinkKind.COPY])
"""
XET_HASH = "91" + "a" * 62


@pytest.fixture(params=VERSIONS)
def hub(request, tmp_path):
    return HubClient(hub_python(request.param), tmp_path / "home")


@pytest.fixture
def files(tmp_path):
    return stored(tmp_path / "store")


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "hub"


def contents(directory):
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in Path(directory).rglob("*")
        if path.is_file()
    }


def left_overs(directory):
    return [path for path in directory.rglob("*") if path.name.startswith(".p2pcache")]


def everything(directory):
    """What `ls -lR` would show, and more: nothing can be rewritten without changing it."""
    return {
        str(path): (s := path.lstat()) and (s.st_ino, s.st_mode, s.st_mtime_ns, s.st_ctime_ns)
        for path in [directory, *directory.rglob("*")]
    }


# huggingface_hub reads what we wrote


def test_a_materialised_snapshot_loads_offline_by_branch_by_commit_and_file_by_file(hub, files):
    materialise(hub.cache, *REPO, COMMIT, files, revisions=["main", "v1"], whole_tree=True)
    calls = [("snapshot_download", {"repo_id": "demo/model", "revision": revision})
             for revision in ("main", "v1", COMMIT)]  # fmt: skip
    calls += [("hf_hub_download", {"repo_id": "demo/model", "filename": path}) for path in CONTENT]
    answers = hub.calls(*calls)
    assert [contents(directory) for directory in answers[:3]] == [CONTENT] * 3
    assert [Path(path).read_bytes() for path in answers[3:]] == list(CONTENT.values())


def test_the_library_scans_it_without_a_warning_and_every_digest_holds(hub, files):
    placed = materialise(hub.cache, *REPO, COMMIT, files, revisions=["main"], whole_tree=True)
    expected = {
        file.path: ["sha256" if len(file.etag_hex) == 64 else "git-sha1", file.etag_hex]
        for file in files
    }
    scan, wrong = hub.calls(
        ("scan", {"cache_dir": str(hub.cache)}),
        ("verify", {"snapshot": str(placed.directory), "expected": expected}),
    )
    assert wrong == []
    assert scan["warnings"] == []
    assert scan["incomplete"] == []
    assert scan["repos"] == {"model/demo/model": {COMMIT: [["main"], sorted(CONTENT)]}}


@pytest.mark.parametrize(("repo_type", "folder"), [("dataset", "datasets"), ("space", "spaces")])
def test_datasets_and_spaces_load_by_their_pull_request(hub, files, repo_type, folder):
    materialise(hub.cache, repo_type, "demo/set", COMMIT, files, revisions=["refs/pr/1"])
    answer = hub.call(
        "snapshot_download", repo_id="demo/set", repo_type=repo_type, revision="refs/pr/1"
    )
    assert contents(answer) == CONTENT
    assert (hub.cache / f"{folder}--demo--set" / "refs/refs/pr/1").read_text() == COMMIT


def test_a_file_that_goes_missing_is_noticed(hub, files):
    placed = materialise(hub.cache, *REPO, COMMIT, files, revisions=["main"], whole_tree=True)
    (placed.directory / "🤗/🚀 emoji.json").unlink()
    answer = hub.call("snapshot_download", repo_id="demo/model")
    assert answer["error"] == "IncompleteSnapshotError"


def test_of_a_partial_selection_the_library_knows_what_is_missing(hub, files):
    partial = [f if f.path.endswith(".json") else replace(f, source=None) for f in files]
    materialise(hub.cache, *REPO, COMMIT, partial, revisions=["main"], whole_tree=True)
    whole, chosen, missing = hub.calls(
        ("snapshot_download", {"repo_id": "demo/model"}),
        ("snapshot_download", {"repo_id": "demo/model", "allow_patterns": ["*.json"]}),
        ("hf_hub_download", {"repo_id": "demo/model", "filename": "model.safetensors"}),
    )
    assert whole["error"] == "IncompleteSnapshotError"
    assert contents(chosen) == {f: data for f, data in CONTENT.items() if f.endswith(".json")}
    assert missing["error"] == "LocalEntryNotFoundError"


def test_without_the_whole_tree_no_tree_is_claimed(hub, files):
    materialise(hub.cache, *REPO, COMMIT, files[:1], revisions=["main"])
    assert read.tree(hub.cache, *REPO, COMMIT) is None
    assert contents(hub.call("snapshot_download", repo_id="demo/model")) == {
        "config.json": CONTENT["config.json"]
    }


def test_a_mark_that_says_no_such_file_goes_when_the_file_comes(hub, files):
    marks = hub.cache / "models--demo--model/.no_exist" / COMMIT
    for path in ("config.json", "absent.json"):
        (marks / path).parent.mkdir(parents=True, exist_ok=True)
        (marks / path).touch()
    assert read.no_exist(hub.cache, *REPO, COMMIT) == {"config.json", "absent.json"}
    materialise(hub.cache, *REPO, COMMIT, files, revisions=["main"])
    found, absent = hub.calls(
        ("try_to_load", {"repo_id": "demo/model", "filename": "config.json"}),
        ("try_to_load", {"repo_id": "demo/model", "filename": "absent.json"}),
    )
    assert Path(found).read_bytes() == CONTENT["config.json"]
    assert absent == "no such file"
    assert read.no_exist(hub.cache, *REPO, COMMIT) == {"absent.json"}


def test_stopped_between_two_files_it_looks_incomplete_and_can_be_finished(hub, files):
    class Stop(Exception):
        pass

    def stop(path):
        if path == "same as config.json":
            raise Stop

    with pytest.raises(Stop):
        materialise(
            hub.cache, *REPO, COMMIT, files, revisions=["main"], whole_tree=True, on_file=stop
        )
    by_branch, by_commit = hub.calls(
        ("snapshot_download", {"repo_id": "demo/model"}),
        ("snapshot_download", {"repo_id": "demo/model", "revision": COMMIT}),
    )
    assert {by_branch["error"], by_commit["error"]} == {"LocalEntryNotFoundError"}
    materialise(hub.cache, *REPO, COMMIT, files, revisions=["main"], whole_tree=True)
    assert contents(hub.call("snapshot_download", repo_id="demo/model")) == CONTENT


def test_online_the_library_downloads_none_of_what_we_materialised(hub, tmp_path):
    repo = build_repo(tmp_path / "repo")
    files = [
        LinkedFile(file.path, file.etag, file.size, file.on_disk, file.oid)
        for file in repo.files.values()
    ]
    materialise(hub.cache, *REPO, repo.commit, files, revisions=["main"], whole_tree=True)
    with hub_stub(repo) as stub:
        answer = replace(hub, endpoint=stub.url).call("snapshot_download", repo_id="demo/model")
        assert [asked for asked in stub.paths() if "/resolve/" in asked or "/cdn/" in asked] == []
    assert sorted(contents(answer)) == sorted(repo.files)


# we read what huggingface_hub wrote


def test_a_cache_that_the_library_wrote_is_read_and_left_as_it_is(hub, tmp_path):
    repo = build_repo(tmp_path / "repo")
    with hub_stub(repo) as stub:
        # 1.33 takes the other port of 127.0.0.1 for the same hub and wants its headers there too
        stub.redirect_lfs = False
        snapshot = replace(hub, endpoint=stub.url).call("snapshot_download", repo_id="demo/model")
    assert contents(snapshot) == contents(repo.plain)
    assert read.repos(hub.cache) == [REPO]
    assert read.refs(hub.cache, *REPO) == {"main": repo.commit}
    listed = read.tree(hub.cache, *REPO, repo.commit)
    assert {(f.path, f.size, f.blob_id, f.etag_hex) for f in listed} == {
        (f.path, f.size, f.oid, f.etag) for f in repo.files.values()
    }
    found = read.snapshot_files(hub.cache, *REPO, repo.commit)
    assert {(f.path, f.size, f.etag_hex) for f in found} == {
        (f.path, f.size, f.etag) for f in repo.files.values()
    }
    assert all(read.find_blob(hub.cache, *REPO, f.etag_hex) == f.source for f in found)
    before = everything(hub.cache)
    adopted = [LinkedFile(f.path, f.etag_hex, f.size, f.source) for f in found]
    placed = materialise(
        hub.cache, *REPO, repo.commit, adopted, revisions=["main"], whole_tree=True
    )
    assert placed.kept == len(repo.files)
    assert everything(hub.cache) == before


def test_a_shared_blob_is_named_by_one_hop_and_read_behind_two(hub, files):
    # copies: the library makes the payload its own (mode, group)
    placed = materialise(
        hub.cache, *REPO, COMMIT, files, revisions=["main"], whole_tree=True, kinds=[LinkKind.COPY]
    )
    large = next(file for file in files if file.path == "model.safetensors")
    blob = hub.cache / "models--demo--model/blobs" / large.etag_hex
    assert hub.call(
        "publish", blob_path=str(blob), xet_hash=XET_HASH, cache_dir=str(hub.cache),
        expected_size=large.size,
    )  # fmt: skip
    payload = hub.cache / "blobs/91" / XET_HASH
    assert (blob.is_symlink(), payload.is_file()) == (True, True)
    assert read.find_blob(hub.cache, *REPO, large.etag_hex) == payload
    found = {f.path: f for f in read.snapshot_files(hub.cache, *REPO, COMMIT)}
    assert found["model.safetensors"].etag_hex == large.etag_hex
    assert found["model.safetensors"].source == payload
    assert read.repos(hub.cache) == [REPO]

    adopted = [replace(f, source=found[f.path].source) for f in files]
    before = everything(hub.cache)
    again = materialise(hub.cache, *REPO, COMMIT, adopted, revisions=["main"], whole_tree=True)
    assert (again.kept, again.made) == (len(files), {})
    assert everything(hub.cache) == before
    snapshot, scan = hub.calls(
        ("snapshot_download", {"repo_id": "demo/model"}), ("scan", {"cache_dir": str(hub.cache)})
    )
    assert contents(snapshot) == contents(placed.directory) == CONTENT
    assert scan["warnings"] == []


@pytest.mark.parametrize(
    "env",
    [
        {},
        {"HF_HOME": "~/hf"},
        {"HF_HOME": "$HOME/x/${NOT_SET}/$ALSO_NOT"},
        {"XDG_CACHE_HOME": "/xdg"},
        {"XDG_CACHE_HOME": "/xdg", "HF_HOME": "/hf"},
        {"HUGGINGFACE_HUB_CACHE": "~/legacy", "HF_HOME": "/hf"},
        {"HF_HUB_CACHE": "${HOME}/hub", "HUGGINGFACE_HUB_CACHE": "/legacy", "HF_HOME": "/hf"},
    ],
)
def test_the_cache_is_where_the_library_looks_for_it(hub, env, monkeypatch):
    for name, _ in config.ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": str(hub.home), **env}.items():
        monkeypatch.setenv(name, value)
    unset = {"HF_HOME"} - set(env)  # the client sets it by default
    asked = replace(hub, extra_env=env, unset=frozenset(unset))
    assert config.hub_cache_dir() == Path(asked.call("hub_cache")).absolute()


# what is written, and where


def test_the_second_time_nothing_is_rewritten(cache, files):
    for kinds in ([LinkKind.HARD_LINK], [LinkKind.SYMLINK], [LinkKind.COPY]):
        arguments = {"revisions": ["main", "refs/pr/1"], "whole_tree": True, "kinds": kinds}
        first = materialise(cache, *REPO, COMMIT, files, **arguments)
        before = everything(cache)
        second = materialise(cache, *REPO, COMMIT, files, **arguments)
        assert everything(cache) == before
        assert (second.made, second.kept, second.replaced) == ({}, len(files), [])
        assert first.link_kind is kinds[0]
        assert second.link_kind is None
        shutil.rmtree(cache)


def test_on_one_file_system_it_hard_links(cache, files):
    placed = materialise(cache, *REPO, COMMIT, files)
    assert placed.made == {LinkKind.HARD_LINK: len({file.etag_hex for file in files})}
    for file in files:
        assert (placed.directory / file.path).samefile(file.source)


def test_across_file_systems_it_links_by_name_and_copies_when_told_to(tmp_path, cache):
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        assert os.stat(elsewhere).st_dev != tmp_path.stat().st_dev, "needs two file systems"
        files = stored(Path(elsewhere))
        assert materialise(cache, *REPO, COMMIT, files).link_kind is LinkKind.SYMLINK
        own = [LinkKind.HARD_LINK, LinkKind.REFLINK, LinkKind.COPY]
        placed = materialise(tmp_path / "own", *REPO, COMMIT, files, kinds=own)
        assert placed.link_kind is LinkKind.COPY
    assert contents(placed.directory) == CONTENT


def test_several_at_once_give_one_good_snapshot(cache, files):
    def work(kind):
        return materialise(
            cache, *REPO, COMMIT, files, revisions=["main"], whole_tree=True, kinds=[kind]
        )

    with ThreadPoolExecutor(6) as pool:
        placed = list(pool.map(work, [LinkKind.HARD_LINK, LinkKind.COPY, LinkKind.SYMLINK] * 6))
    assert contents(placed[0].directory) == CONTENT
    assert read.resolve_revision(cache, *REPO, "main") == COMMIT
    assert left_overs(cache) == []


def test_killed_at_any_moment_no_half_written_file_is_seen(tmp_path, cache):
    store = tmp_path / "store"
    big = {f"part-{n}.bin": bytes([n]) * 3_000_000 for n in range(6)}
    files = stored(store, big)
    names = {file.etag_hex: big[file.path] for file in files}
    for delay_s in (0.0, 0.002, 0.005, 0.01, 0.02, 0.03):
        child = subprocess.Popen(
            [sys.executable, "-c", COPY_SNAPSHOT, str(store), str(cache), COMMIT],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        with child:
            child.stdout.readline()  # it has imported everything and starts now
            time.sleep(delay_s)
            child.kill()
        for blob in (cache / "models--demo--model/blobs").glob("*"):
            assert blob.read_bytes() == names[blob.name]
        assert not (cache / "models--demo--model/refs/main").exists() or (
            contents(cache / f"models--demo--model/snapshots/{COMMIT}") == big
        )
    placed = materialise(cache, *REPO, COMMIT, files, revisions=["main"], whole_tree=True)
    assert contents(placed.directory) == big


def test_an_unverified_blob_of_the_same_size_is_replaced(cache, files):
    blob = cache / "models--demo--model/blobs" / files[0].etag_hex
    blob.parent.mkdir(parents=True)
    blob.write_bytes(b"x" * files[0].size)
    placed = materialise(cache, *REPO, COMMIT, files)
    assert placed.replaced == ["config.json"]
    assert contents(placed.directory) == CONTENT


def test_a_source_of_another_size_is_not_shown(cache, files):
    with pytest.raises(LocalFault, match="changed on disk"):
        materialise(cache, *REPO, COMMIT, [replace(files[0], size=1)])
    assert read.find_blob(cache, *REPO, files[0].etag_hex) is None


def test_a_moved_branch_points_to_the_new_commit_and_the_old_one_stays(cache, files):
    newer = COMMIT[::-1]
    materialise(cache, *REPO, COMMIT, files, revisions=["main"])
    materialise(cache, *REPO, newer, files[:2], revisions=["main"])
    assert read.resolve_revision(cache, *REPO, "main") == newer
    assert len(read.snapshot_files(cache, *REPO, COMMIT)) == len(files)


def test_a_tree_with_xet_hashes_is_left_to_the_library_and_ours_has_none(cache, files):
    materialise(cache, *REPO, COMMIT, files, whole_tree=True)
    path = cache / "models--demo--model/trees" / f"{COMMIT}.json"
    document = json.loads(path.read_bytes())
    assert all("xet_hash" not in entry for entry in document["files"].values())
    document["files"]["model.safetensors"]["xet_hash"] = XET_HASH
    path.write_text(json.dumps(document))
    before = path.read_bytes()
    materialise(cache, *REPO, COMMIT, files, whole_tree=True)
    assert path.read_bytes() == before
    materialise(cache, *REPO, COMMIT, files[:-1], whole_tree=True)  # it says something else now
    assert path.read_bytes() != before


def test_the_ids_of_lfs_pointers_are_those_of_git(cache, tmp_path):
    repo = build_repo(tmp_path / "repo")
    files = [LinkedFile(f.path, f.etag, f.size, f.on_disk) for f in repo.files.values()]
    materialise(cache, *REPO, repo.commit, files, whole_tree=True)
    listed = read.tree(cache, *REPO, repo.commit)
    assert {f.path: f.blob_id for f in listed} == {f.path: f.oid for f in repo.files.values()}


def test_a_damaged_tree_is_replaced_and_private(cache, files):
    materialise(cache, *REPO, COMMIT, files, whole_tree=True)
    listed = read.tree(cache, *REPO, COMMIT)
    path = cache / "models--demo--model/trees" / f"{COMMIT}.json"
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_bytes(b'{"format_version": 1')
    assert read.tree(cache, *REPO, COMMIT) is None
    materialise(cache, *REPO, COMMIT, files, whole_tree=True)
    assert read.tree(cache, *REPO, COMMIT) == listed


@pytest.mark.parametrize(
    "path", ["../x", "/etc/x", "a/../../x", "a\nb", "n" * 300, "C:\\x", "a//b", "", "a/./b", "\0"]
)
def test_a_hostile_file_name_is_refused_before_anything_is_written(cache, files, path):
    with pytest.raises(Untrusted):
        materialise(cache, *REPO, COMMIT, [*files, replace(files[0], path=path)], whole_tree=True)
    assert not cache.exists()


@pytest.mark.parametrize("revision", ["../../x", "/x", "", "a/../../b"])
def test_a_hostile_revision_commit_or_etag_is_refused(cache, files, revision):
    with pytest.raises(Untrusted):
        materialise(cache, *REPO, COMMIT, files, revisions=[revision])
    with pytest.raises(Untrusted):
        materialise(cache, *REPO, revision, files)
    with pytest.raises(Untrusted):
        materialise(cache, *REPO, COMMIT, [replace(files[0], etag_hex=revision)])
    with pytest.raises(Untrusted):
        read.find_blob(cache, *REPO, revision)
    assert not cache.exists()


@pytest.mark.parametrize("repo_id", ["../x", "a/b/c", "a--b", "", "/a", "."])
def test_a_repository_that_no_hub_has_is_refused(cache, files, repo_id):
    with pytest.raises(UsageError):
        materialise(cache, "model", repo_id, COMMIT, files)
    with pytest.raises(UsageError):
        materialise(cache, "kernel/..", "demo/model", COMMIT, files)


@pytest.mark.parametrize("planted", ["", "blobs", "refs", f"snapshots/{COMMIT}/weights", "trees"])
def test_nothing_is_written_through_a_planted_link(cache, files, tmp_path, planted):
    outside = tmp_path / "outside"
    outside.mkdir()
    link = cache / "models--demo--model" / planted
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(outside)
    with pytest.raises(LocalFault, match="symbolic link"):
        materialise(cache, *REPO, COMMIT, files, revisions=["main"], whole_tree=True)
    assert list(outside.iterdir()) == []


def test_the_cache_itself_may_be_a_link(cache, files, tmp_path):
    (tmp_path / "big disk").mkdir()
    cache.symlink_to(tmp_path / "big disk")
    placed = materialise(cache, *REPO, COMMIT, files)
    assert contents(placed.directory) == CONTENT
    assert len(read.snapshot_files(cache, *REPO, COMMIT)) == len(CONTENT)


def test_a_blob_that_leads_out_of_the_cache_or_too_far_is_not_found(cache, files, tmp_path):
    materialise(cache, *REPO, COMMIT, files)
    etag = files[0].etag_hex
    blobs = cache / "models--demo--model/blobs"
    secret = tmp_path / "secret"
    secret.write_bytes(b"s")
    blob = blobs / etag
    (cache / "blobs/91").mkdir(parents=True)
    (cache / "blobs/91" / XET_HASH).write_bytes(b"p")
    (cache / "out").symlink_to(tmp_path)
    (blobs / "hop1").symlink_to(f"../../blobs/91/{XET_HASH}")
    (blobs / "hop2").symlink_to("hop1")
    usable = {f"../../blobs/91/{XET_HASH}": True, "hop1": True}
    refused = {str(secret): False, "../../../secret": False, "../../out/secret": False,
               "hop2": False, etag: False, "absent": False, "..": False}  # fmt: skip
    for target, found in (usable | refused).items():
        blob.unlink()
        blob.symlink_to(target)
        assert (read.find_blob(cache, *REPO, etag) is not None) is found, target
        shown = {file.path for file in read.snapshot_files(cache, *REPO, COMMIT)}
        # from the snapshot it is one hop more
        assert ("config.json" in shown) is (found and target != "hop1"), target


def test_a_repository_folder_that_is_a_link_is_not_read(cache, files, tmp_path):
    materialise(tmp_path / "other", *REPO, COMMIT, files, revisions=["main"], whole_tree=True)
    mark = tmp_path / "other/models--demo--model/.no_exist" / COMMIT / "x"
    mark.parent.mkdir(parents=True)
    mark.touch()
    cache.mkdir()
    (cache / "models--demo--model").symlink_to(tmp_path / "other/models--demo--model")
    assert read.find_blob(cache, *REPO, files[0].etag_hex) is None
    assert read.snapshot_files(cache, *REPO, COMMIT) == ()
    assert read.refs(cache, *REPO) == {}
    assert read.tree(cache, *REPO, COMMIT) is None
    assert read.no_exist(cache, *REPO, COMMIT) == frozenset()


def test_unfinished_downloads_and_shared_blobs_are_no_blobs_and_no_repositories(cache, files):
    etag = files[0].etag_hex
    blobs = cache / "models--demo--model/blobs"
    blobs.mkdir(parents=True)
    for name in (f"{etag}.0123abcd.incomplete", f"{etag}.incomplete", f".{etag}.12.shared"):
        (blobs / name).write_bytes(CONTENT["config.json"])
        with pytest.raises(Untrusted):
            read.find_blob(cache, *REPO, name)
    (cache / "blobs/91").mkdir(parents=True)
    (cache / ".locks/models--a--b").mkdir(parents=True)
    assert read.find_blob(cache, *REPO, etag) is None
    assert read.repos(cache) == [REPO]


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{}", '{"format_version": 2, "files": {}}', '{"format_version": 1, "files": []}',
        "[" * 100_000,
        '{"format_version": 1, "files": {"../x": {"size": 1, "blob_id": "%s"}}}' % ("a" * 40),
        '{"format_version": 1, "files": {"x": {"size": -1, "blob_id": "%s"}}}' % ("a" * 40),
        '{"format_version": 1, "files": {"x": {"size": true, "blob_id": "%s"}}}' % ("a" * 40),
        '{"format_version": 1, "files": {"x": {"size": 1, "blob_id": "../../x"}}}',
        '{"format_version": 1, "files": {"x": {"size": 1, "blob_id": "%s", "lfs_sha256": 5}}}'
        % ("a" * 40),
    ],
)  # fmt: skip
def test_a_tree_that_the_library_would_not_write_is_not_believed(text):
    assert read.parse_tree(text) is None


def test_what_another_agent_put_there_at_the_same_time_is_not_replaced(cache, files):
    blob = cache / "models--demo--model/blobs" / files[0].etag_hex
    blob.parent.mkdir(parents=True)
    blob.write_bytes(files[0].source.read_bytes())
    inode = blob.stat().st_ino
    placed = materialise(cache, *REPO, COMMIT, files)
    assert placed.replaced == []
    assert blob.stat().st_ino == inode
    assert contents(placed.directory) == CONTENT
