"""Keys, manifests and settings of hf-cache-sync: what is taken, and what is refused."""

from __future__ import annotations

import json
import string
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pcache.content import digests
from p2pcache.errors import Untrusted, UsageError
from p2pcache.formats.hf_cache_sync import layout
from p2pcache.formats.hf_cache_sync.documents import (
    MAX_MANIFEST_BYTES,
    BucketFile,
    BucketManifest,
    manifest_bytes,
    merged,
    parse_manifest,
    parse_ref,
)
from p2pcache.formats.hf_cache_sync.settings import (
    MAX_FILE_BYTES,
    TEMPLATE,
    BucketSettings,
    read_settings,
)
from p2pcache.store.hfcache.layout import REPO_TYPES, RepoFolder

COMMIT = "a" * 40
SHA256, SHA1 = "5" * 64, "6" * 40
MODEL = RepoFolder("model", "org/name")
NAMES = st.text(string.ascii_letters + string.digits + "_.-", min_size=1, max_size=12)


def document(**fields: Any) -> bytes:
    files = [{"path": "config.json", "blob": SHA1, "size": 2}]
    whole = {"repo": "org/name", "revision": COMMIT, "repo_type": "model", "files": files}
    return json.dumps(whole | fields).encode()


# -- keys -----------------------------------------------------------------------------------------


def test_keys_are_those_of_hf_cache_sync() -> None:
    assert layout.blob_key(SHA256) == f"blobs/{SHA256}"
    assert layout.manifest_key("org/name", COMMIT) == f"manifests/org__name@{COMMIT}.json"
    assert layout.shared_ref_key("org/name", "main") == "refs/org__name/main"
    assert layout.shared_ref_key("gpt2", "refs/pr/1") == "refs/gpt2/refs/pr/1"


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("org/name", ("org/name", None)),
        ("gpt2", ("gpt2", None)),
        ("datasets/org/name", ("org/name", "dataset")),
        ("spaces/org/name", ("org/name", "space")),
        ("models/org/name", ("org/name", "model")),
        ("datasets/name", ("datasets/name", None)),  # an organisation may be called so
    ],
)
def test_a_repository_is_named_with_its_type_or_without(name: str, meant: object) -> None:
    assert layout.named_repo(name) == meant


def test_a_type_is_said_once_or_twice_the_same() -> None:
    assert layout.named_repo("org/name", "dataset") == ("org/name", "dataset")
    assert layout.named_repo("datasets/org/name", "dataset") == ("org/name", "dataset")
    with pytest.raises(UsageError, match="is a dataset, but the type that is given is model"):
        layout.named_repo("datasets/org/name", "model")
    with pytest.raises(UsageError, match="not a repository id"):
        layout.named_repo("other/org/name")


def test_our_own_refs_lie_where_hf_cache_sync_does_not_look() -> None:
    own = layout.own_ref_key(RepoFolder("dataset", "org/name"), "refs/pr/1")
    assert own == "_p2pcache/refs/datasets/org%2Fname/refs/pr/1"
    assert not own.startswith((layout.BLOBS, layout.MANIFESTS, layout.REFS))


@given(st.sampled_from(REPO_TYPES), NAMES, NAMES, st.booleans(), NAMES)
def test_no_two_repositories_share_an_own_ref(
    kind: str, org: str, name: str, has_org: bool, ref: str
) -> None:
    repo_id = f"{org}/{name}" if has_org else name
    try:
        repo = RepoFolder(kind, repo_id)
        key = layout.own_ref_key(repo, ref)
    except (UsageError, Untrusted):
        return
    assert layout.read_own_ref_key(key) == (repo, ref)


def test_weakness_4_a_name_with_two_underscores_is_not_another_repository() -> None:
    one, other = "org/my__model", "org__my/model"
    assert layout.shared_ref_key(one, "main") == layout.shared_ref_key(other, "main")
    keys = {layout.own_ref_key(RepoFolder("model", name), "main") for name in (one, other)}
    assert len(keys) == 2


@pytest.mark.parametrize(
    "key",
    [
        f"blobs/{SHA256}.incomplete", f"blobs/{SHA256}.tmp", f"blobs/{SHA256[:63]}",
        f"blobs/{SHA256.replace('5', 'A')}", f"other/{SHA256}", "blobs/",
    ],
)  # fmt: skip
def test_weakness_2_what_broke_off_is_no_blob(key: str) -> None:
    assert layout.read_blob_key(key) is None
    assert layout.read_blob_key(f"blobs/{SHA256}") == SHA256


@pytest.mark.parametrize(
    "key",
    ["manifests/.json", "manifests/a__b.json", f"manifests/a__b@{COMMIT}", "manifests/x@y.json",
     f"manifests/@{COMMIT}.json"],
)  # fmt: skip
def test_what_is_no_manifest_is_passed_over(key: str) -> None:
    assert layout.read_manifest_key(key) is None


@pytest.mark.parametrize("key", ["refs/a__b", "refs/a__b/", "refs/a__b/../x", "refs//main", "x"])
def test_what_is_no_ref_is_passed_over(key: str) -> None:
    assert layout.read_shared_ref_key(key) is None
    assert layout.read_own_ref_key(f"_p2pcache/{key}") is None


# -- documents ------------------------------------------------------------------------------------


def test_a_manifest_is_read_and_written_as_hf_cache_sync_does() -> None:
    manifest = parse_manifest(document(), "k")
    assert manifest == BucketManifest(MODEL, COMMIT, (BucketFile("config.json", SHA1, 2),))
    plain = json.loads(manifest_bytes(manifest))
    assert plain == json.loads(document()), "it takes no field more of a file"
    assert parse_manifest(manifest_bytes(manifest), "k") == manifest


def test_a_manifest_of_an_older_version_is_of_a_model() -> None:
    plain = json.loads(document())
    del plain["repo_type"]
    assert parse_manifest(json.dumps(plain).encode(), "k").repo == MODEL


@pytest.mark.parametrize(
    "path",
    ["../../../../../PWNED.txt", "/etc/passwd", "a/../../b", "C:/x", "a\\b", "", "a//b", "a\0b"],
)
def test_weakness_6_a_path_that_leaves_its_folder_is_refused(path: str) -> None:
    with pytest.raises(Untrusted):
        parse_manifest(document(files=[{"path": path, "blob": SHA1, "size": 2}]), "k")


@pytest.mark.parametrize(
    "data",
    [
        b"", b"[]", b"{}", b"\xff", b"[" * 100_000, document(repo=None), document(repo="../x"),
        document(repo_type="toy"), document(revision="main"), document(files={}),
        document(files=[1]), document(files=[{"path": "a", "blob": SHA1, "size": -1}]),
        document(files=[{"path": "a", "blob": SHA1, "size": 1.5}]),
        document(files=[{"path": "a", "blob": SHA1, "size": 1 << 60}]),
        document(files=[{"path": "a", "blob": SHA1, "size": True}]),
        document(files=[{"path": "a", "blob": "x" * 64, "size": 1}]),
        document(files=[{"path": "a", "blob": "../x", "size": 1}]),
        document(files=[{"path": "a", "blob": SHA1, "size": 1}] * 2),
        document(files=[{"path": p, "blob": SHA1, "size": 1} for p in ("a", "a/b")]),
    ],
)  # fmt: skip
def test_a_manifest_that_makes_no_sense_is_refused(data: bytes) -> None:
    with pytest.raises(Untrusted):
        parse_manifest(data, "k")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_manifest_or_untrusted(data: bytes) -> None:
    with pytest.raises(Untrusted):
        parse_manifest(data, "k")


def test_a_ref_is_a_commit_or_refused() -> None:
    assert parse_ref(COMMIT.encode() + b"\n", "k") == COMMIT
    for data in (b"", b"main", b"\xff" * 40, COMMIT.encode() * 2, b"../" * 10):
        with pytest.raises(Untrusted):
            parse_ref(data, "k")


def test_a_part_of_a_repository_takes_nothing_out_of_the_manifest() -> None:
    ours = BucketManifest(MODEL, COMMIT, (BucketFile("b", SHA1, 2),))
    theirs = BucketManifest(MODEL, COMMIT, (BucketFile("a", SHA256, 9), BucketFile("b", SHA1, 2)))
    assert merged(ours, theirs).files == theirs.files
    other = BucketManifest(MODEL, COMMIT, (BucketFile("b", SHA256, 2),))
    with pytest.raises(Untrusted, match="`b`"):
        merged(ours, other)


def test_a_blob_is_a_digest_by_its_length() -> None:
    assert digests.is_sha256(BucketFile("a", SHA256, 1).digest)
    assert digests.is_git_sha1(BucketFile("a", SHA1, 1).digest)


# -- settings -------------------------------------------------------------------------------------

FILE = b"""
storage: {endpoint: "https://s3.example", bucket: theirs, region: r1, access_key: k, secret_key: s}
cache: {max_local_gb: 20, sync_xet: true, hf_cache_dir: /cache}
team: {prefix: "/team/a/", allow_gated: true}
"""


def test_the_file_says_everything() -> None:
    assert read_settings(FILE, "f", {}) == BucketSettings(
        endpoint="https://s3.example", bucket="theirs", region="r1", access_key="k",
        secret_key="s", login="f", max_local_gb=20.0, hf_cache_dir="/cache", prefix="team/a",
        allow_gated=True, file="f",
    )  # fmt: skip


def test_a_login_is_a_pair_and_pairs_are_not_mixed() -> None:
    b2 = {"B2_APPLICATION_KEY_ID": "b", "B2_APPLICATION_KEY": "bb"}
    aws = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "aa", "AWS_SESSION_TOKEN": "t"}

    def login(env: dict[str, str]) -> tuple[str, str, str]:
        found = read_settings(FILE, "f", env)
        return found.access_key, found.secret_key, found.session_token

    assert login(b2 | aws) == ("b", "bb", "")
    assert login({"B2_APPLICATION_KEY_ID": "b", **aws}) == ("a", "aa", "t")
    assert login({"B2_APPLICATION_KEY_ID": "b", "AWS_SECRET_ACCESS_KEY": "aa"}) == ("k", "s", "")
    half = read_settings(b"storage: {access_key: k}", "f", {})
    assert (half.access_key, half.login) == ("", None)


def test_variables_come_before_the_file() -> None:
    env = {"B2_ENDPOINT": "https://e", "B2_BUCKET": "b", "B2_REGION": "r"}
    found = read_settings(FILE, "f", env)
    assert (found.endpoint, found.bucket, found.region) == ("https://e", "b", "r")
    assert read_settings(None, "", env).bucket == "b"


def test_the_login_takes_the_place_of_the_callers_as_a_whole() -> None:
    caller = {
        "aws_access_key_id": "x",
        "aws_session_token": "y",
        "aws_profile": "p",
        "hf_token": "t",
    }
    assert read_settings(FILE, "f", {}).over(caller) == {
        "aws_access_key_id": "k", "aws_secret_access_key": "s", "hf_token": "t",
        "aws_endpoint_url": "https://s3.example", "aws_region": "r1",
    }  # fmt: skip
    assert BucketSettings().over(caller) == caller
    assert "secret" not in repr(read_settings(FILE.replace(b": s}", b": secret}"), "f", {}))


def test_what_init_writes_is_read() -> None:
    found = read_settings(TEMPLATE.encode(), "f", {})
    assert (found.bucket, found.login, found.notes) == ("my-hf-cache", None, ())
    assert (found.max_local_gb, found.allow_gated) == (50.0, False)


def test_what_means_nothing_is_told() -> None:
    notes = read_settings(b"storage: {bukcet: x}\nother: 1\n", "f", {}).notes
    assert any("storage.bukcet" in note for note in notes)
    assert any("`other`" in note for note in notes)


@pytest.mark.parametrize(
    "data",
    [
        b"[]", b"storage: 1", b"{", b"storage: {bucket: [a]}", b"storage: {access_key: 12345}",
        b"cache: {max_local_gb: lots}", b"cache: {max_local_gb: -1}",
        b"cache: {max_local_gb: .nan}",
        b"team: {allow_gated: maybe}", b"!!python/object/apply:os.system [id]", b"\xff\xfe\xff",
        b"team: {}\n#" + b"a" * MAX_FILE_BYTES, b"[" * 5000,
    ],
)  # fmt: skip
def test_a_file_that_makes_no_sense_is_refused(data: bytes) -> None:
    with pytest.raises(UsageError):
        read_settings(data, "f", {})


def test_a_manifest_of_nothing_but_brackets_is_refused_before_it_fills_the_memory() -> None:
    data = b'{"files":[' + b"{}," * (MAX_MANIFEST_BYTES // 3 - 10) + b"{}]}"
    assert len(data) <= MAX_MANIFEST_BYTES
    tracemalloc.start()
    try:
        with pytest.raises(Untrusted, match="values"):
            parse_manifest(data, "manifests/x")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
