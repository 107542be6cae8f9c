"""Pointer files: read, planned and written, without an agent."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pcache.content import refs
from p2pcache.content.digests import describe
from p2pcache.content.patterns import Selection
from p2pcache.errors import NotFound, Untrusted, UsageError
from p2pcache.formats.bptr import read
from p2pcache.formats.bptr.load import load_pointers
from p2pcache.formats.bptr.plan import (
    content_digest,
    model_file_name,
    model_ref,
    model_selection,
    place_of,
    target_of,
)
from p2pcache.formats.bptr.pointers import (
    MODEL_PATH,
    NEVER,
    S3,
    Azure,
    Gcs,
    Http,
    Model,
    Pointer,
    PointerFile,
)
from p2pcache.formats.bptr.write import as_text, pointers_of

HASH64, HASH40 = "a" * 64, "b" * 40
HTTP = Http("https://h/m.bin", NEVER)
# As truss' own test expects it of truss-transfer (test_serving_image_builder.py).
THEIRS = {
    "resolution": {
        "resolution_type": "http",
        "url": "https://huggingface.co/julien-c/EsperBERTo-small/resolve/"
        "4c7798256a4a6d577738150840c8f728361496d6/model.safetensors",
        "expiration_timestamp": NEVER,
    },
    "uid": "julien-c/EsperBERTo-small:4c7798256a4a6d577738150840c8f728361496d6:model.safetensors",
    "file_name": "/app/model_cache/julien_c_esper/model.safetensors",
    "hashtype": "etag",
    "hash": "3bd197b27f13" + "0" * 52,
    "size": 336392830,
    "runtime_secret_name": "hf_access_token",
}
KINDS = [
    ({"resolution_type": "http", "url": "https://h/x", "expiration_timestamp": 5},
     Http("https://h/x", 5)),
    ({"url": "https://h/x", "expiration_timestamp": 5}, Http("https://h/x", 5)),
    ({"resolution_type": "gcs", "path": "a/b", "bucket_name": "k"}, Gcs("k", "a/b")),
    ({"resolution_type": "s3", "bucket_name": "k", "key": "a/b", "region": None}, S3("k", "a/b")),
    ({"resolution_type": "s3", "bucket_name": "k", "key": "a", "region": "eu"},
     S3("k", "a", "eu")),
    ({"resolution_type": "azure", "account_name": "a", "container_name": "c", "blob_name": "b"},
     Azure("a", "c", "b")),
]  # fmt: skip


def entry(**fields: Any) -> dict[str, Any]:
    return {**THEIRS, **fields}


def text_of(*entries: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"pointers": list(entries), **more}).encode()


def pointer(**fields: Any) -> Pointer:
    plain = {
        "resolution": HTTP, "uid": "u", "file_name": "m", "hashtype": "etag", "hash": HASH64,
        "size": 3,
    }  # fmt: skip
    return Pointer(**{**plain, **fields})


# -- reading


@pytest.mark.parametrize(("plain", "found"), KINDS)
def test_every_kind_of_resolution_is_read_and_written_as_it_was(plain: Any, found: Any) -> None:
    file = read.read_pointers(text_of(entry(resolution=plain)), "x.json")
    assert file.pointers[0].resolution == found
    again = json.loads(as_text(file))["pointers"][0]
    assert again == entry(resolution={"resolution_type": "http", **plain})
    assert list(again) == list(THEIRS)


def test_yaml_says_what_json_says_and_digits_stay_text() -> None:
    lines = ["pointers:", "- uid: x", "  resolution:", "    url: https://h/x"]
    lines += ["    expiration_timestamp: 5", "  file_name: m", "  hashtype: md5"]
    lines += ["  hash: 00012e55", "  size: 12", "  last_modified_time: 2026-01-02T03:04:05Z"]
    lines += ["models: null"]
    (found,) = read.read_pointers("\n".join(lines).encode(), "bptr-manifest").pointers
    assert (found.hash, found.size, found.resolution) == ("00012e55", 12, Http("https://h/x", 5))
    assert found.modified == "2026-01-02T03:04:05Z"
    assert found.secret == "hf_access_token"


def test_models_are_read_and_hf_is_another_word_for_http() -> None:
    model = {
        "repo_id": "a/b", "revision": "main", "allow_patterns": ["*.json"],
        "ignore_patterns": None, "volume_folder": "v", "runtime_secret_name": "s", "kind": "hf",
    }  # fmt: skip
    file = read.read_pointers(text_of(models=[model]), "x")
    assert file.models == (Model("a/b", "main", "v", "http", ("*.json",), None, "s"),)
    assert json.loads(as_text(file))["models"] == [{**model, "kind": "http"}]
    assert file.secrets == ("s",)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\xff\xfe", "UTF-8"),
        (b"{", "neither JSON nor YAML"),
        (b"[]", "no map"),
        (b"{}", "`pointers` is missing"),
        (text_of(entry(size=-1)), "`size`"),
        (text_of(entry(size=True)), "`size`"),
        (text_of(entry(size=1 << 60)), "`size`"),
        (text_of(entry(hash="a/b")), "slash"),
        (text_of(entry(file_name=5)), "`file_name`"),
        (text_of(entry(file_name="a\0b")), "NUL"),
        (text_of(entry(uid="x" * 9000)), "too long"),
        (text_of(entry(resolution={"resolution_type": "ftp"})), "'ftp' is not known"),
        (text_of(entry(resolution=None)), "no map"),
        (b"pointers: &a [*a]", "anchor"),
        (b"pointers: !!python/object/apply:os.system [id]", "tag"),
        (b"pointers: " + b"[" * 40 + b"]" * 40, "deeper|neither"),
        (b"[" * 200_000, "neither|nested"),
        (b"a: " + b"x" * (read.MAX_YAML_BYTES + 1), "longer"),
        (b" " * (read.MAX_JSON_BYTES + 1), "more than"),
    ],
)
def test_what_makes_no_sense_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(Untrusted, match=said):
        read.read_pointers(data, "bptr-manifest")


def test_deep_yaml_is_refused_before_it_is_built() -> None:
    with pytest.raises(Untrusted, match="deeper"):
        read.read_pointers(b"pointers: " + b"[x, " * 40 + b"]" * 40, "bptr-manifest")


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_pointers_or_untrusted(data: bytes) -> None:
    with contextlib.suppress(Untrusted):
        read.read_pointers(data, "x")


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["pointers", "models", "resolution", "size", "url", "hash"]), inner
    ), max_leaves=10,
))  # fmt: skip
def test_any_json_is_pointers_or_untrusted(plain: object) -> None:
    with contextlib.suppress(Untrusted):
        read.read_pointers(json.dumps({"pointers": [plain], "models": plain}).encode(), "x")


def test_of_several_the_first_of_a_name_counts_and_others_are_noted(tmp_path: Any) -> None:
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    first.write_bytes(text_of(entry(size=1)))
    second.write_bytes(text_of(entry(hash="other"), entry(file_name="n")))
    found = load_pointers([str(first), str(second)])
    assert [(p.file_name, p.size) for p in found.pointers] == [
        (THEIRS["file_name"], 1), ("n", THEIRS["size"]),
    ]  # fmt: skip
    assert len(found.notes) == 1
    assert load_pointers([str(first), str(first)]).notes == ()


# -- planning


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"hash": HASH64}, f"sha256:{HASH64}"),
        ({"hash": HASH64.upper()}, f"sha256:{HASH64}"),
        ({"hash": HASH40}, f"git:{HASH40}"),
        ({"hashtype": "sha256", "hash": HASH64, "resolution": S3("b", "k")}, f"sha256:{HASH64}"),
        ({"hash": HASH64, "resolution": S3("b", "k")}, None),  # an ETag of a bucket
        ({"hash": HASH40, "resolution": Gcs("b", "k")}, None),
        ({"hashtype": "md5", "hash": "c" * 32}, None),
        ({"hashtype": "blake3", "hash": HASH64}, None),
        ({"hashtype": "sha256", "hash": HASH40}, None),
        ({"hash": "d" * 32 + "-5"}, None),
    ],
)
def test_a_hash_is_a_digest_by_its_kind_and_length(fields: Any, name: str | None) -> None:
    digest = content_digest(pointer(**fields))
    assert (None if digest is None else describe(digest)) == name


FOLDERS = {"": "/to", MODEL_PATH: "/to", "/m": "/elsewhere", "/m/deep/": "/deep"}


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("a/b", ("/to", "a/b")),
        (f"{MODEL_PATH}/v/x", ("/to", "v/x")),
        (f"{MODEL_PATH}//x", ("/to", "x")),
        ("/m/x", ("/elsewhere", "x")),
        ("/m/deep/x", ("/deep", "x")),
    ],
)
def test_absolute_names_lose_the_longest_prefix_that_is_known(
    name: str, place: tuple[str, str]
) -> None:
    assert place_of(name, FOLDERS) == place


@pytest.mark.parametrize(
    "name", ["", "../x", "/etc/x", MODEL_PATH, f"{MODEL_PATH}/", f"{MODEL_PATH}x/y", "/m/../x",
             "a\\b", "a/./b", "/"],
)  # fmt: skip
def test_names_that_lead_elsewhere_are_refused(name: str) -> None:
    with pytest.raises(Untrusted):
        place_of(name, FOLDERS)


@given(st.text(alphabet="ab./\\\0:", max_size=12))
def test_no_name_leaves_its_folder(name: str) -> None:
    try:
        _, path = place_of(name, {"": "/to", "/a": "/to"})
    except Untrusted:
        return
    assert not path.startswith("/")
    assert ".." not in path.split("/")


def test_a_hubs_url_is_the_file_of_a_repository_and_never_expires() -> None:
    url = f"https://huggingface.co/datasets/o/n/resolve/{HASH40}/d%20e/f.bin?download=true"
    found = target_of(pointer(resolution=Http(url, 1)), FOLDERS, now=5.0)
    assert found.ref == refs.HfRef("dataset", "o/n", HASH40)
    assert (found.inner, found.expired) == ("d e/f.bin", False)
    mirror = pointer(resolution=Http("http://m:1/o/n/resolve/main/f", 1))
    found = target_of(mirror, FOLDERS, now=5.0, hub="http://m:1/")
    assert found.ref == refs.HfRef("model", "o/n", "main")
    found = target_of(mirror, FOLDERS, now=5.0)
    assert isinstance(found.ref, refs.HttpRef)
    assert found.expired


@pytest.mark.parametrize("url", ["", "ftp://h/x", "hf://o/n", "/etc/passwd", "https://[", "https:"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(Untrusted, match="makes no sense"):
        target_of(pointer(resolution=Http(url, NEVER)), FOLDERS, now=0.0)


@pytest.mark.parametrize(
    ("repo", "revision", "kind", "ref"),
    [
        ("o/n", "", "http", "hf://o/n"),
        ("o/n", "v1", "http", "hf://o/n@v1"),
        ("s3://b/k", "", "http", "s3://b/k"),
        ("gs://b/k", "", "gcs", "gs://b/k"),
        ("azure://a/c/b", "", "azure", "az://a/c/b"),
        ("https://acct.blob.core.windows.net/c/b", "", "azure", "az://acct/c/b"),
    ],
)
def test_a_model_is_a_ref(repo: str, revision: str, kind: Any, ref: str) -> None:
    assert model_ref(Model(repo, revision, "v", kind)) == ref


def test_a_model_of_a_bucket_has_a_buckets_address() -> None:
    with pytest.raises(UsageError):
        model_ref(Model("o/n", "", "v", "s3"))


def test_in_a_models_patterns_the_star_alone_is_a_wildcard() -> None:
    chosen = model_selection(Model("o/n", "", "", "http", ("*.json", "a?b[1]"), ("x*",)))
    assert chosen.takes("d/e.json")
    assert chosen.takes("a?b[1]")
    assert not chosen.takes("axb1")
    assert not chosen.takes("x.json")


def test_a_models_files_are_named_as_truss_transfer_joins_them() -> None:
    assert model_file_name("/app/m/", "v", "a/b") == "/app/m/v/a/b"
    assert model_file_name("/app/m", "", "b") == "/app/m/b"


# -- writing


def answer(canonical: str, *files: dict[str, Any], **more: Any) -> dict[str, Any]:
    plain = {"path": "x", "size": 3, "sha256": HASH64, "git_sha1": None}
    return {
        "canonical": canonical, "immutable": None, "endpoint": "https://huggingface.co",
        "files": [{**plain, **file} for file in files], **more,
    }  # fmt: skip


def made(given: dict[str, Any]) -> list[Pointer]:
    return pointers_of(
        given, typed=given["canonical"], model_path=MODEL_PATH, volume="v", secret="s",
        selection=Selection(), uid="u",
    )  # fmt: skip


def test_a_signed_url_is_written_with_its_signature_and_its_end() -> None:
    typed = "https://h/m.bin?X-Amz-Date=20260102T030405Z&X-Amz-Expires=60&X-Amz-Signature=5"
    given = answer("https://h/m.bin", {"path": "m.bin", "size": 1, "sha256": HASH64})
    (made,) = pointers_of(
        given, typed=typed, model_path=MODEL_PATH, volume="v", secret="s", selection=Selection(),
        uid="u",
    )  # fmt: skip
    assert made.resolution == Http(typed, 1767323105)
    again = target_of(made, FOLDERS, now=1767323106.0)
    assert again.expired
    with pytest.raises(Untrusted, match="names no file"):
        target_of(pointer(resolution=Http("https://h/dir/", NEVER)), FOLDERS, now=0.0)


def test_a_volume_that_leads_out_is_refused_when_it_is_written() -> None:
    given = answer("hf://org/name@main", {"path": "x"}, immutable="4" * 40)
    with pytest.raises(UsageError, match="leads out"):
        pointers_of(
            given, typed=given["canonical"], model_path=MODEL_PATH, volume="a/../../x", secret="s",
            selection=Selection(), uid="u",
        )  # fmt: skip


def test_a_repository_is_written_as_truss_transfer_writes_it() -> None:
    commit = "4c7798256a4a6d577738150840c8f728361496d6"
    file = {"path": "model.safetensors", "size": THEIRS["size"], "sha256": THEIRS["hash"]}
    given = answer("hf://julien-c/EsperBERTo-small@main", file, immutable=commit)
    pointers = pointers_of(
        given, typed=given["canonical"], model_path=MODEL_PATH, volume="julien_c_esper",
        secret="hf_access_token", selection=Selection(), uid=f"julien-c/EsperBERTo-small:{commit}",
    )  # fmt: skip
    assert json.loads(as_text(PointerFile(tuple(pointers)))) == {
        "pointers": [THEIRS], "models": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("canonical", "path", "resolution"),
    [
        ("https://h/m.bin", "m.bin", HTTP),
        ("s3://b/m/k%40.bin", "k@.bin", S3("b", "m/k@.bin")),
        ("s3://b/m/", "d/k.bin", S3("b", "m/d/k.bin")),
        ("s3://b", "k.bin", S3("b", "k.bin")),
        ("gs://b/m", "k.bin", Gcs("b", "m/k.bin")),
        ("az://a/c/m", "k.bin", Azure("a", "c", "m/k.bin")),
    ],
)
def test_other_refs_have_their_own_kinds(canonical: str, path: str, resolution: Any) -> None:
    (found,) = made(answer(canonical, {"path": path}))
    assert found.resolution == resolution
    assert (found.hashtype, found.hash) == ("sha256", HASH64)


def test_what_the_format_cannot_say_is_an_error() -> None:
    with pytest.raises(UsageError, match="no kind"):
        made(answer(f"sha256:{HASH64}", {}))
    with pytest.raises(UsageError, match="no version"):
        made(answer("s3://b/k@v1", {}))
    with pytest.raises(UsageError, match="how long"):
        made(answer("hf://o/n@main", {"size": None}))
    with pytest.raises(NotFound):
        made(answer("hf://o/n@main"))


def test_a_file_that_only_its_bytes_can_name_says_so() -> None:
    (found,) = made(answer("https://h/m.bin", {"path": "m.bin", "sha256": None}))
    assert content_digest(found) is None
    assert "/" not in found.hash
