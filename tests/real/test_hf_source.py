"""The Hugging Face source against a hub that answers in every way a hub can answer."""

from __future__ import annotations

import gzip
import json
import pickle
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import trio
import trio_parallel

from p2pcache.content.refs import HfRef
from p2pcache.errors import (
    Denied,
    NotFound,
    P2PCacheError,
    Unavailable,
    Untrusted,
    UsageError,
)
from p2pcache.sources.hf import HfOptions, HfSource
from p2pcache.sources.hf_listing import HfListRequest, list_hf
from p2pcache.sources.port import Credentials, Listing
from tests.contract.check_source import ANONYMOUS, read
from tests.support.hub_repo import HubRepo, build_repo, small_model, text
from tests.support.hub_stub import GOOD_TOKEN, NO_ACCESS_TOKEN, Answer, HubStub, hub_stub

if TYPE_CHECKING:
    from collections.abc import Iterator

MODEL = HfRef("model", "demo/model")
INFO = "/api/models/demo/model"
GOOD = Credentials(hf_token=GOOD_TOKEN)
NO_ACCESS = Credentials(hf_token=NO_ACCESS_TOKEN)


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> HubRepo:
    return build_repo(tmp_path_factory.mktemp("model"), small_model(lfs_bytes=100_000))


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> list[HubRepo]:
    made = {"dataset": "demo/data", "space": "demo/app"}
    recipes = {"data/a.csv": text("a,b\n"), "README.md": text("# x\n")}
    return [
        build_repo(tmp_path_factory.mktemp(kind), recipes, repo_id=name, repo_type=kind)
        for kind, name in made.items()
    ]


@pytest.fixture
def stub(repo: HubRepo, others: list[HubRepo]) -> Iterator[HubStub]:
    with hub_stub(repo, *others) as running:
        yield running


async def ask(
    stub: HubStub, ref: HfRef = MODEL, credentials: Credentials = ANONYMOUS, **options: object
) -> Listing:
    chosen = HfOptions(endpoint=stub.url, **options)  # type: ignore[arg-type]
    return await HfSource(trio.to_thread.run_sync, chosen).list(ref, credentials)


async def test_whether_a_commit_is_there_costs_one_request_and_lists_nothing(
    stub: HubStub, repo: HubRepo
) -> None:
    source = HfSource(trio.to_thread.run_sync, HfOptions(endpoint=stub.url))
    assert await source.gives(MODEL, repo.commit, ANONYMOUS)
    assert len(stub.asked) == 1
    with pytest.raises(NotFound):  # whatever the branch means now
        await source.gives(MODEL, "d" * 40, ANONYMOUS)


async def refusal(
    kind: type[P2PCacheError],
    stub: HubStub,
    ref: HfRef = MODEL,
    credentials: Credentials = ANONYMOUS,
    **options: object,
) -> P2PCacheError:
    with pytest.raises(P2PCacheError) as seen:
        await ask(stub, ref, credentials, **options)
    assert type(seen.value) is kind, seen.value
    return seen.value


# what a revision holds


@pytest.mark.parametrize("revision", [None, "main", "v1", "refs/pr/1"])
async def test_a_name_that_can_move_gives_its_commit(
    stub: HubStub, repo: HubRepo, revision: str | None
) -> None:
    listing = await ask(stub, HfRef("model", "demo/model", revision))
    assert (listing.immutable, listing.mutable) == (repo.commit, True)
    assert {file.path for file in listing.files} == set(repo.files)


async def test_a_commit_cannot_move(stub: HubStub, repo: HubRepo) -> None:
    listing = await ask(stub, HfRef("model", "demo/model", repo.commit))
    assert (listing.immutable, listing.mutable) == (repo.commit, False)


@pytest.mark.parametrize("index", [0, 1], ids=["dataset", "space"])
async def test_datasets_and_spaces_are_listed_and_located(
    stub: HubStub, others: list[HubRepo], index: int
) -> None:
    other = others[index]
    listing = await ask(stub, HfRef(other.repo_type, other.repo_id))  # type: ignore[arg-type]
    source = HfSource(trio.to_thread.run_sync, HfOptions(endpoint=stub.url))
    for file in listing.files:
        location = await source.locate(listing, file.key, ANONYMOUS)
        assert f"/{other.repo_type}s/" in location.url
        body = await trio.to_thread.run_sync(read, location)
        assert body == other.files[file.path].on_disk.read_bytes()


async def test_every_page_of_a_listing_is_read(stub: HubStub, repo: HubRepo) -> None:
    stub.page_entries = 2
    listing = await ask(stub)
    assert {file.path for file in listing.files} == set(repo.files)
    assert sum("cursor=" in path for path in stub.paths()) == 3


@pytest.mark.parametrize("path", ["config.json", "weights/model-00002-of-00002.safetensors"])
async def test_one_file_is_listed_alone(stub: HubStub, path: str) -> None:
    listing = await ask(stub, HfRef("model", "demo/model", "main", path))
    assert [file.path for file in listing.files] == [path]


async def test_a_folder_means_the_files_below_it(stub: HubStub) -> None:
    listing = await ask(stub, HfRef("model", "demo/model", "main", "weights"))
    assert [f.path for f in listing.files] == ["weights/model-00002-of-00002.safetensors"]


async def test_xet_is_noted_and_not_used(stub: HubStub, repo: HubRepo) -> None:
    stub.xet = True
    listing = await ask(stub)
    source = HfSource(trio.to_thread.run_sync, HfOptions(endpoint=stub.url))
    for file in listing.files:
        assert (file.xet_hash is not None) == repo.files[file.path].lfs
        location = await source.locate(listing, file.key, ANONYMOUS)
        body = await trio.to_thread.run_sync(read, location)
        assert body == repo.files[file.path].on_disk.read_bytes()
    assert not [path for path in stub.paths() if "xet" in path]


async def test_a_hub_without_sizes_on_head_is_listed_with_sizes(stub: HubStub) -> None:
    stub.sizes = False
    assert all(file.size is not None for file in (await ask(stub)).files)


async def test_only_the_asked_hub_is_asked(stub: HubStub) -> None:
    await ask(stub)
    assert all(path.startswith("/api/models/demo/model") for path in stub.paths()), stub.paths()


# who may read: gated, private, missing


async def test_gated_without_a_token_names_the_licence(stub: HubStub) -> None:
    stub.gated.add("demo/model")
    error = await refusal(Denied, stub)
    assert "gated" in error.message
    assert f"{stub.url}/demo/model" in (error.hint or "")


async def test_gated_for_a_stranger_names_the_licence(stub: HubStub) -> None:
    stub.gated.add("demo/model")
    error = await refusal(Denied, stub, credentials=NO_ACCESS)
    assert "no access yet" in error.message
    assert f"{stub.url}/demo/model" in (error.hint or "")


async def test_gated_with_access_is_listed_and_says_so(stub: HubStub) -> None:
    stub.gated.add("demo/model")
    listing = await ask(stub, credentials=GOOD)
    assert listing.gated
    assert listing.credential_used


async def test_a_hub_that_cannot_check_access_is_listed_all_the_same(stub: HubStub) -> None:
    stub.gated.add("demo/model")
    stub.replies[f"{INFO}/auth-check"] = Answer(404, b"{}")
    assert (await ask(stub)).gated


async def test_private_looks_like_missing_without_a_token(stub: HubStub) -> None:
    stub.private.add("demo/model")
    private = await refusal(NotFound, stub)
    missing = await refusal(NotFound, stub, HfRef("model", "demo/nothing"))
    for error in (private, missing):
        assert "private" in (error.hint or "")
        assert "HF_TOKEN" in (error.hint or "")


async def test_private_with_access_is_listed_as_restricted(stub: HubStub) -> None:
    stub.private.add("demo/model")
    assert (await ask(stub, credentials=GOOD)).gated


async def test_private_without_access_says_that_the_token_is_not_enough(stub: HubStub) -> None:
    stub.private.add("demo/model")
    error = await refusal(NotFound, stub, credentials=NO_ACCESS)
    assert "this token may see" in error.message


async def test_a_wrong_token_is_not_a_missing_repository(stub: HubStub) -> None:
    error = await refusal(Denied, stub, credentials=Credentials(hf_token="hf_wrong"))
    assert "token" in error.message
    assert "hf_wrong" not in repr(error) + str(error.hint)


async def test_a_disabled_repository_is_denied(stub: HubStub) -> None:
    stub.disabled.add("demo/model")
    assert "disabled" in (await refusal(Denied, stub)).message


async def test_an_unknown_revision_is_named(stub: HubStub) -> None:
    error = await refusal(NotFound, stub, HfRef("model", "demo/model", "nope"))
    assert "nope" in error.message
    assert stub.url in (error.hint or "")


@pytest.mark.parametrize("path", ["absent.bin", "no/such/folder.bin", "config.json/below"])
async def test_an_unknown_path_is_named(stub: HubStub, path: str) -> None:
    error = await refusal(NotFound, stub, HfRef("model", "demo/model", "main", path))
    assert path in error.message


@pytest.mark.parametrize("status", [403, 451])
async def test_a_bare_refusal_is_denied(stub: HubStub, status: int) -> None:
    stub.replies[INFO] = Answer(status)
    await refusal(Denied, stub)


# not now


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ((("Retry-After", "7"),), 7.0),
        ((("ratelimit", '"api";r=0;t=55'),), 55.0),
        ((("Retry-After", "999999999999"),), 3600.0),
        ((("Retry-After", "soon"),), None),
        ((), None),
    ],
)
async def test_too_many_requests_says_when_to_come_back(
    stub: HubStub, headers: tuple[tuple[str, str], ...], wait_s: float | None
) -> None:
    stub.storm = Answer(429, b"", headers)
    error = await refusal(Unavailable, stub)
    assert isinstance(error, Unavailable)
    assert error.retry_after_s == wait_s
    assert len(stub.asked) == 1, "the library slept and asked again"


@pytest.mark.parametrize("status", [408, 500, 502, 503, 504])
async def test_a_fault_of_the_hub_is_unavailable(stub: HubStub, status: int) -> None:
    stub.replies[f"{INFO}/tree"] = Answer(status)
    await refusal(Unavailable, stub)
    assert len(stub.asked) == 2, "the library slept and asked again"


async def test_a_hub_that_was_down_is_used_again(stub: HubStub) -> None:
    stub.down = True
    await refusal(Unavailable, stub)
    stub.down = False
    assert (await ask(stub)).files


async def test_a_silent_hub_is_left_in_time(stub: HubStub) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, trio.fail_after(5):
        stub.url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        error = await refusal(Unavailable, stub, request_timeout_s=0.2)
    assert "silent" in error.message


async def test_a_hub_that_takes_too_long_in_all_is_left(stub: HubStub) -> None:
    await refusal(Unavailable, stub, deadline_s=0.0)


# nonsense


def _tree(**changes: object) -> bytes:
    entry = {"type": "file", "oid": "1" * 40, "size": 3, "path": "a", **changes}
    return json.dumps([{key: value for key, value in entry.items() if value != ""}]).encode()


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"\xff\xfe",
        b"{}",
        b"[" * 5_000,
        b"[1]",
        b'[{"type":"file"}]',
        _tree(path="../escape"),
        _tree(path="/etc/passwd"),
        _tree(path="a\nb"),
        _tree(path=7),
        _tree(oid="xyz"),
        _tree(oid="1" * 39),
        _tree(size=-1),
        _tree(size="3"),
        _tree(size=True),
        _tree(size=1 << 70),
        _tree(lfs={"oid": "zz", "size": 3, "pointerSize": 1}),
        _tree(lfs={"oid": "1" * 64, "size": None, "pointerSize": 1}),
        _tree(lfs=[]),
    ],
    ids=lambda body: repr(body[:60]),
)
async def test_a_listing_that_makes_no_sense_is_untrusted(stub: HubStub, body: bytes) -> None:
    stub.replies[f"{INFO}/tree"] = Answer(200, body)
    await refusal(Untrusted, stub)


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"{}", b'{"id":"x"}', b'{"id":"x","sha":7}'])
async def test_information_that_makes_no_sense_is_untrusted(stub: HubStub, body: bytes) -> None:
    stub.replies[f"{INFO}/revision"] = Answer(200, body)
    await refusal(Untrusted, stub)


async def test_another_commit_than_the_asked_one_is_untrusted(stub: HubStub) -> None:
    reply = json.dumps({"id": "demo/model", "sha": "1" * 40}).encode()
    stub.replies[f"{INFO}/revision"] = Answer(200, reply)
    await refusal(Untrusted, stub, HfRef("model", "demo/model", "2" * 40))


async def test_a_redirect_loop_is_untrusted(stub: HubStub) -> None:
    stub.replies[INFO] = Answer(302, b"", (("Location", f"{stub.url}{INFO}"),))
    await refusal(Untrusted, stub)


async def test_a_body_without_end_is_cut(stub: HubStub) -> None:
    stub.replies[f"{INFO}/tree"] = Answer(200, b"[" + b" " * 5_000_000)
    request = HfListRequest(stub.url, "model", "demo/model", "main", max_body_bytes=1_000_000)
    with pytest.raises(Untrusted, match="more than 1000000 bytes"):
        await trio.to_thread.run_sync(list_hf, request)


async def test_a_compressed_body_is_refused_before_it_unfolds(stub: HubStub) -> None:
    packed = gzip.compress(b"[" + b" " * 1_000_000)
    stub.replies[f"{INFO}/tree"] = Answer(200, packed, (("Content-Encoding", "gzip"),))
    await refusal(Untrusted, stub)
    assert {request.accept_encoding for request in stub.asked} == {"identity"}


async def test_more_entries_than_a_manifest_holds_are_refused(stub: HubStub) -> None:
    await refusal(Untrusted, stub, max_files=3)


async def test_pages_without_end_are_cut_by_the_entry_limit(stub: HubStub) -> None:
    again = f'<{stub.url}{INFO}/tree/x>; rel="next"'
    stub.replies[f"{INFO}/tree"] = Answer(200, _tree(), (("Link", again),))
    await refusal(Untrusted, stub, max_files=20)


# tokens


async def test_the_token_goes_to_the_hub_and_not_to_where_its_pages_lead(stub: HubStub) -> None:
    stub.page_entries, stub.pages_at = 2, stub.cdn_url
    listing = await ask(stub, credentials=GOOD)
    assert listing.credential_used
    seen = {(request.origin, request.authorization) for request in stub.asked}
    assert seen == {("hub", f"Bearer {GOOD_TOKEN}"), ("cdn", None)}


async def test_a_hub_that_only_a_record_names_gets_no_token(stub: HubStub) -> None:
    listing = await ask(stub, credentials=GOOD)
    source = HfSource(trio.to_thread.run_sync)  # configured: the public Hub
    location = await source.locate(listing, listing.files[0].key, GOOD)
    assert location.headers == ()


async def test_the_callers_endpoint_wins_and_gets_the_token(stub: HubStub) -> None:
    source = HfSource(trio.to_thread.run_sync)
    credentials = Credentials(hf_token=GOOD_TOKEN, hf_endpoint=stub.url + "/")
    listing = await source.list(MODEL, credentials)
    location = await source.locate(listing, listing.files[0].key, credentials)
    assert location.url.startswith(f"{stub.url}/demo/model/resolve/{listing.immutable}/")
    assert location.headers == (("Authorization", f"Bearer {GOOD_TOKEN}"),)
    assert GOOD_TOKEN not in repr(location)


@pytest.mark.parametrize("token", ["two\nlines", "naïve", "a" * 5000])
async def test_a_token_that_no_header_carries_is_a_usage_error(stub: HubStub, token: str) -> None:
    error = await refusal(UsageError, stub, credentials=Credentials(hf_token=token))
    assert token not in str(error)


@pytest.mark.parametrize("endpoint", ["huggingface.co", "ftp://x", "http://u:p@x", "http://x?y"])
async def test_an_endpoint_that_is_none_is_a_usage_error(endpoint: str) -> None:
    source = HfSource(trio.to_thread.run_sync)
    with pytest.raises(UsageError):
        await source.list(MODEL, Credentials(hf_endpoint=endpoint))


# another process


async def test_listing_and_errors_come_back_from_a_worker_process(stub: HubStub) -> None:
    source = HfSource(trio_parallel.run_sync, HfOptions(endpoint=stub.url))
    assert await source.list(MODEL, ANONYMOUS) == await ask(stub)
    stub.limit("9")
    with pytest.raises(Unavailable) as limited:
        await source.list(MODEL, ANONYMOUS)
    assert limited.value.retry_after_s == 9.0
    stub.storm = None
    stub.gated.add("demo/model")
    with pytest.raises(Denied) as denied:
        await source.list(MODEL, ANONYMOUS)
    assert stub.url in (denied.value.hint or "")


def test_a_request_pickles_and_does_not_show_its_token() -> None:
    request = HfListRequest("http://x", "model", "a/b", "main", token="hf_secret")
    assert pickle.loads(pickle.dumps(request)) == request
    assert "hf_secret" not in repr(request)


@pytest.mark.parametrize(
    "error",
    [
        Unavailable("m", hint="h", retry_after_s=3.0),
        Denied("m", hint="h"),
        NotFound("m"),
        Untrusted("m", hint="h"),
        UsageError("m", hint="h"),
    ],
)
def test_errors_pickle_with_everything_they_say(error: P2PCacheError) -> None:
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is type(error)
    assert vars(back) == vars(error)
    assert str(back) == str(error)


def test_importing_the_sources_imports_no_sdk() -> None:
    code = (
        "import sys, p2pcache.sources.hf, p2pcache.sources.http, p2pcache.sources.file;"
        "print([m for m in ('huggingface_hub', 'httpx', 'httpx2', 'requests') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
