"""Pulls from origins that refuse, fail or lie: a real agent, real servers, one claim a test.

docs/faults.md has the table: fault, error, who is blamed, what is kept. Every test was seen to
fail with the protection that it is about removed.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from p2pcache import errors
from tests.support import faulty_http as fh
from tests.support.agents import Agent, running_agent
from tests.support.faulty_http import Exchange, FaultyServer
from tests.support.hub_repo import HubRepo, text
from tests.support.hub_stub import GOOD_TOKEN, NO_ACCESS_TOKEN, Answer, HubStub, hub_stub
from tests.support.nginx import nginx, static_hub
from tests.support.partial_files import some_bytes
from tests.support.processes import free_port
from tests.support.watched_pull import (
    BLOCK,
    QUICK,
    asks,
    at_most,
    body_paths,
    fresh_repo,
    pull,
    ref_of,
    shown,
    stored,
    wait_until,
)  # fmt: skip

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LARGE, SMALL = "second.safetensors", "a.json"


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    with at_most(30):
        yield


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    with running_agent(tmp_path_factory.mktemp("agent"), settings=QUICK) as running:
        yield running
        assert running.process is not None
        assert running.process.poll() is None, running.log.read_text()


@pytest.fixture
def repo(tmp_path: Path, request: pytest.FixtureRequest) -> HubRepo:
    return fresh_repo(tmp_path / "repo", request.node.name)


@pytest.fixture
def hub(repo: HubRepo) -> Iterator[HubStub]:
    with hub_stub(repo) as running:
        yield running


@pytest.fixture
def web() -> Iterator[FaultyServer]:
    with FaultyServer() as running:
        yield running


@pytest.fixture
def body(request: pytest.FixtureRequest) -> bytes:
    return some_bytes(5 * BLOCK + 7, request.node.name.encode())


def pinned(url: str, body: bytes) -> str:
    return f"{url}#sha256={hashlib.sha256(body).hexdigest()}"


def probed(body: bytes, answer: fh.Answer) -> fh.Answer:
    """A right answer to the probe of one byte, `answer` to the requests that bring the bytes."""
    right = fh.ranged(body)
    return lambda ask: (right if ask.range == (0, 1) else answer)(ask)


def flipped(body: bytes, at: int) -> bytes:
    return body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]


# -- names and rights ---------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["repository", "revision", "file"])
def test_what_the_hub_does_not_have_is_not_found(
    agent: Agent, hub: HubStub, repo: HubRepo, missing: str, tmp_path: Path
) -> None:
    ref = {
        "repository": "hf://demo/nothing",
        "revision": f"{ref_of(repo)}@nothing",
        "file": f"{ref_of(repo)}/nothing.bin",
    }[missing]
    with pytest.raises(errors.NotFound, match="nothing") as caught:
        agent.get(ref, credentials=asks(hub), to=str(tmp_path / "out"))
    assert caught.value.exit_code == 11
    assert caught.value.hint
    assert not body_paths(hub)
    assert not shown(tmp_path / "out")


def test_a_gated_repository_without_a_token_names_its_licence_page(
    agent: Agent, hub: HubStub, repo: HubRepo
) -> None:
    hub.gated.add(repo.repo_id)
    with pytest.raises(errors.Denied) as caught:
        pull(agent, hub, repo)
    assert caught.value.exit_code == 14
    assert f"<{hub.url}/{repo.repo_id}>" in str(caught.value.hint)
    with pytest.raises(errors.Denied, match="no access yet"):
        pull(agent, hub, repo, token=NO_ACCESS_TOKEN)
    assert not body_paths(hub), "nothing is asked for that will be refused"
    assert pull(agent, hub, repo, token=GOOD_TOKEN)["fetched_bytes"] == repo.total_bytes


def test_private_and_missing_are_told_apart_as_far_as_the_hub_does(
    agent: Agent, hub: HubStub, repo: HubRepo
) -> None:
    hub.private.add(repo.repo_id)
    with pytest.raises(errors.NotFound) as caught:
        pull(agent, hub, repo)
    assert "if it is private" in str(caught.value.hint)
    with pytest.raises(errors.NotFound, match="that this token may see"):
        pull(agent, hub, repo, token=NO_ACCESS_TOKEN)
    assert pull(agent, hub, repo, token=GOOD_TOKEN)["gated"] is True
    with pytest.raises(errors.NotFound, match="that this token may see"):
        agent.get("hf://demo/missing", credentials=asks(hub, GOOD_TOKEN))


def test_a_wrong_token_is_denied_and_never_shown(agent: Agent, hub: HubStub, repo: HubRepo) -> None:
    with pytest.raises(errors.Denied, match="did not accept the token") as caught:
        pull(agent, hub, repo, token="hf_wrong_secret")
    assert caught.value.exit_code == 14
    assert "hf auth login" in str(caught.value.hint)
    for said in (caught.value.message, json.dumps(agent.why()), agent.log.read_text()):
        assert "hf_wrong_secret" not in said


# -- origins that are away ----------------------------------------------------------------------


def test_an_origin_that_is_down_is_unavailable_until_there_is_a_record(
    agent: Agent, hub: HubStub, repo: HubRepo
) -> None:
    hub.down = True
    with pytest.raises(errors.Unavailable) as caught:
        pull(agent, hub, repo)
    assert caught.value.exit_code == 11
    hub.down = False
    assert pull(agent, hub, repo)["fetched_bytes"] == repo.total_bytes
    hub.down = True
    with pytest.raises(errors.Unavailable) as caught:
        pull(agent, hub, repo, refresh=True)
    assert "without --refresh" in str(caught.value.hint)
    done = pull(agent, hub, repo)
    assert done["from_record"] is True
    assert done["fetched_bytes"] == 0


def test_an_origin_that_restarts_in_the_middle_costs_no_verified_byte(
    agent: Agent, tmp_path: Path, body: bytes
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "blob").write_bytes(body)
    port, seen, done = free_port(), [0], []
    ref = pinned(f"http://127.0.0.1:{port}/blob", body)

    def get() -> None:
        with agent.client() as client:
            done.append(client.get(ref, on_progress=lambda p: seen.append(p["done_bytes"])))

    getter = threading.Thread(target=get)
    # nginx sends the first second's share at once: half a block a second is a block a second
    with nginx(site, tmp_path / "before", port=port, limit_rate_bytes_per_s=BLOCK // 2):
        getter.start()
        wait_until(lambda: seen[-1] >= BLOCK, "a block is here")
    verified_bytes = seen[-1]
    assert verified_bytes < len(body)
    time.sleep(0.3)
    with nginx(site, tmp_path / "after", port=port) as again:
        getter.join(20)
    assert done, "the pull goes on when the origin is back"
    assert done[0]["fetched_bytes"] == len(body)
    assert again.body_bytes() <= len(body) - verified_bytes
    assert agent.why()["retries"] >= 1


def test_a_hub_that_limits_requests_is_unavailable_and_says_so(
    agent: Agent, hub: HubStub, repo: HubRepo
) -> None:
    hub.limit("30")
    with pytest.raises(errors.Unavailable, match="limits our requests"):
        pull(agent, hub, repo)
    assert len(hub.asked) == 1, "asking on makes a storm worse"
    hub.storm = None
    assert pull(agent, hub, repo)["fetched_bytes"] == repo.total_bytes


def test_retry_after_is_honoured_by_all_streams_until_the_storm_is_over(
    agent: Agent, web: FaultyServer, body: bytes
) -> None:
    refused_at: list[float] = []
    accepted_at: list[float] = []

    def answer(ask: Exchange) -> bool:
        now = time.monotonic()
        if not refused_at or now < refused_at[0] + 0.9:
            refused_at.append(now)
            return fh.status(429, Retry_After=1)(ask)
        accepted_at.append(now)
        return fh.ranged(body)(ask)

    url = web.on("/blob", probed(body, answer))
    assert agent.get(pinned(url, body))["fetched_bytes"] == len(body)
    assert len(refused_at) <= 2, "one for each stream, then silence"
    assert accepted_at[0] - refused_at[0] >= 1.0


def test_a_storm_without_end_ends_with_patience(
    agent: Agent, web: FaultyServer, body: bytes
) -> None:
    url = web.on("/blob", probed(body, fh.status(429)))
    began = time.monotonic()
    with pytest.raises(errors.Unavailable, match="429"):
        agent.get(pinned(url, body))
    assert 3.0 <= time.monotonic() - began < 8.0
    assert len(web.headers_of("/blob")) < 12, "the pauses grow"


# -- origins that lie ---------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [LARGE, SMALL])
def test_wrong_bytes_of_the_right_size_are_never_visible_and_good_files_are_kept(
    agent: Agent, hub: HubStub, repo: HubRepo, tmp_path: Path, bad: str
) -> None:
    hub.corrupt = lambda path, body: flipped(body, len(body) // 2) if path == bad else body
    cache, out = tmp_path / "hub", tmp_path / "out"
    with pytest.raises(errors.Untrusted, match=bad) as caught:
        pull(agent, hub, repo, hf_cache=str(cache))
    assert caught.value.exit_code == 12
    kept = {"first.safetensors", "a.json", "b.json", "c.json"} if bad == LARGE else {"b.json"}
    assert all(stored(agent, repo.files[path].sha256) for path in kept)
    with pytest.raises(errors.Untrusted):
        pull(agent, hub, repo, to=str(out))
    assert not stored(agent, repo.files[bad].sha256)
    wrong = flipped(repo.files[bad].on_disk.read_bytes(), repo.files[bad].size // 2)
    assert not stored(agent, hashlib.sha256(wrong).hexdigest())
    assert not shown(cache)
    assert not shown(out)
    hub.corrupt = None
    hub.asked.clear()
    pull(agent, hub, repo, to=str(out))
    assert not body_paths(hub) & kept, "what was verified beside the bad file stayed"
    assert (out / bad).read_bytes() == repo.files[bad].on_disk.read_bytes()


def test_one_block_that_was_wrong_once_is_found_and_rewritten_alone(
    agent: Agent, web: FaultyServer, body: bytes, tmp_path: Path
) -> None:
    wrong, right = fh.ranged(flipped(body, 2 * BLOCK + 9)), fh.ranged(body)
    lied: list[tuple[int, int]] = []

    def answer(ask: Exchange) -> bool:
        if ask.range and ask.range[0] <= 2 * BLOCK < ask.range[1] and not lied:
            lied.append(ask.range)
            return wrong(ask)
        return right(ask)

    url = web.on("/blob", answer)
    done = agent.get(pinned(url, body), to=str(tmp_path / "out"))
    assert len(lied) == 1
    assert (tmp_path / "out" / "blob").read_bytes() == body
    assert done["fetched_bytes"] == len(body) + BLOCK, "one block more was written, not all"
    assert agent.why()["duplicate_bytes"] == len(body) - BLOCK, "the others were only compared"


@pytest.mark.parametrize("then", [fh.hang_up, fh.reset])
def test_a_body_cut_short_is_fetched_again_from_where_it_was_verified(
    agent: Agent, web: FaultyServer, body: bytes, then: fh.Answer
) -> None:
    body += body  # long enough for runs of two blocks: one arrives, and half of the other
    cut = fh.first(3, fh.cut(body, BLOCK * 3 // 2, then), fh.ranged(body))
    url = web.on("/blob", probed(body, cut))
    assert agent.get(pinned(url, body))["fetched_bytes"] == len(body)
    receipt = agent.why()
    assert receipt["retries"] >= 1
    assert 0 < receipt["duplicate_bytes"] <= BLOCK, "half a block of each of the two streams"


def test_a_small_body_cut_short_is_nobodys_lie_and_fetched_again(
    agent: Agent, web: FaultyServer, body: bytes
) -> None:
    small = body[:1000]
    cut = fh.first(3, fh.cut(small, 999, fh.hang_up), fh.ranged(small))
    url = web.on("/blob", probed(small, cut))
    assert agent.get(pinned(url, small))["fetched_bytes"] == len(small)
    assert agent.why()["retries"] == 2, "as often as two lies, after which nobody is asked again"


@pytest.mark.parametrize("bad", [LARGE, SMALL])
def test_a_file_longer_than_listed_is_refused_before_it_is_read(
    agent: Agent, hub: HubStub, repo: HubRepo, bad: str
) -> None:
    hub.corrupt = lambda path, body: body + b"more" if path == bad else body
    with pytest.raises(errors.Untrusted, match=str(repo.files[bad].size + 4)):
        pull(agent, hub, repo)
    assert not stored(agent, repo.files[bad].sha256)


@pytest.mark.parametrize("endless", [fh.chunked, fh.until_close])
def test_a_body_that_does_not_end_where_it_should_is_refused(
    agent: Agent, web: FaultyServer, body: bytes, endless: Callable[[bytes], fh.Answer]
) -> None:
    url = web.on("/blob", probed(body, endless(body + b"more")))
    with pytest.raises(errors.Untrusted, match="longer than"):
        agent.get(pinned(url, body))
    assert not stored(agent, hashlib.sha256(body).hexdigest())


# -- redirects ----------------------------------------------------------------------------------


def test_a_redirect_loop_ends(agent: Agent, hub: HubStub, repo: HubRepo) -> None:
    loop = f"/cdn/models/{repo.repo_id}/first.safetensors"
    hub.replies[loop] = Answer(302, b"", (("Location", f"{loop}?again"),))
    with pytest.raises(errors.Untrusted, match="redirect loop"):
        pull(agent, hub, repo)
    assert len([path for path in hub.paths() if path.startswith(loop)]) < 20


def test_the_token_goes_to_the_hub_and_not_where_it_redirects(
    agent: Agent, hub: HubStub, repo: HubRepo
) -> None:
    hub.private.add(repo.repo_id)
    assert pull(agent, hub, repo, token=GOOD_TOKEN)["fetched_bytes"] == repo.total_bytes
    sent = {origin: {r.authorization for r in hub.asked if r.origin == origin}
            for origin in ("hub", "cdn")}  # fmt: skip
    assert sent == {"hub": {f"Bearer {GOOD_TOKEN}"}, "cdn": {None}}


def test_a_presigned_url_that_expires_is_renewed(
    agent: Agent, web: FaultyServer, body: bytes
) -> None:
    issued: list[int] = []
    used: set[str] = set()
    expired: list[str] = []

    def issue(ask: Exchange) -> bool:
        issued.append(len(issued))
        return fh.redirect(f"/signed?n={issued[-1]}")(ask)

    def signed(ask: Exchange) -> bool:
        if ask.path in used:
            expired.append(ask.path)
            return fh.status(403, b"Request has expired")(ask)
        used.add(ask.path)
        return fh.ranged(body)(ask)

    web.on("/signed", signed)
    done = agent.get(pinned(web.on("/blob", issue), body))
    assert done["fetched_bytes"] == len(body)
    assert expired, "a remembered URL was tried, refused, and asked for anew"


# -- servers without ranges, and silent ones ----------------------------------------------------


def test_a_server_that_ignores_ranges_sends_each_file_once(
    agent: Agent, tmp_path: Path, repo: HubRepo
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    extra = static_hub(repo, site)
    with nginx(site, tmp_path / "nginx", ranges=False, extra=extra) as server:
        agent.get(ref_of(repo), credentials={"hf_endpoint": server.url}, to=str(tmp_path / "out"))
        bodies = [r for r in server.requests() if "/resolve/" in r.uri]
    for path, file in repo.files.items():
        assert (tmp_path / "out" / path).read_bytes() == file.on_disk.read_bytes()
        whole = [r for r in bodies if r.uri.endswith(f"/{path}") and not r.range]
        assert [r.body_bytes for r in whole] == [file.size], path
    # asked for with a range before the server was known: dropped at the first header
    assert len({urlsplit(r.uri).path for r in bodies if r.range}) <= 1


def test_the_bytes_of_a_server_without_ranges_are_verified(
    agent: Agent, tmp_path: Path, body: bytes
) -> None:
    (tmp_path / "blob").write_bytes(flipped(body, 4 * BLOCK))
    with (
        nginx(tmp_path, tmp_path / "nginx", ranges=False) as server,
        pytest.raises(errors.Untrusted),
    ):
        agent.get(pinned(f"{server.url}/blob", body), to=str(tmp_path / "out"))
    assert not shown(tmp_path / "out")


def test_a_connection_that_stalls_is_cut_and_its_range_asked_for_again(
    agent: Agent, web: FaultyServer, body: bytes
) -> None:
    stalls = fh.first(3, fh.cut(body, BLOCK // 2, fh.stall), fh.ranged(body))
    url = web.on("/blob", probed(body, stalls))
    began = time.monotonic()
    assert agent.get(pinned(url, body))["fetched_bytes"] == len(body)
    assert time.monotonic() - began < 6.0, "the server would have been silent for 20 s"
    assert agent.why()["retries"] >= 1


# -- names --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["../escaped", "a/../../escaped", "/tmp/escaped", "two\nlines", "x" * 300, "C:\\escaped"],
    ids=["parent", "inner-parent", "absolute", "newline", "300-bytes", "drive"],
)
def test_a_hostile_file_name_is_refused_and_nothing_is_written(
    agent: Agent, hub: HubStub, repo: HubRepo, tmp_path: Path, name: str
) -> None:
    good = repo.files["a.json"].tree_entry()
    listing = json.dumps([good, {**good, "path": name}]).encode()
    json_type = (("Content-Type", "application/json"),)
    hub.replies[f"/api/models/{repo.repo_id}/tree/"] = Answer(200, listing, json_type)
    out, cache = tmp_path / "deep" / "out", tmp_path / "deep" / "hub"
    for where in ({"to": str(out)}, {"hf_cache": str(cache)}):
        with pytest.raises(errors.Untrusted, match="file name"):
            pull(agent, hub, repo, **where)
    assert not body_paths(hub), "a listing is refused as a whole"
    assert not shown(tmp_path / "deep")
    assert not (tmp_path / "deep" / "escaped").exists()


def test_a_hostile_name_in_a_list_of_sums_is_refused(agent: Agent, web: FaultyServer) -> None:
    line = f"{'0' * 64}  ../escaped\n".encode()
    with pytest.raises(errors.Untrusted, match="file name"):
        agent.get(web.on("/SHA256SUMS", fh.ranged(line)))
    assert [path for path, _ in web.seen] == ["/SHA256SUMS"]


def test_emoji_and_names_that_differ_in_case_are_fine_here(
    agent: Agent, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    names = ["🤗/🚀 model.json", "README.md", "readme.md", "x" * 255]
    recipes = {name: text(f"{request.node.name} {name}\n") for name in names}
    repo = fresh_repo(tmp_path / "repo", request.node.name, recipes)
    with hub_stub(repo) as hub:
        pull(agent, hub, repo, to=str(tmp_path / "out"))
    assert shown(tmp_path / "out") == set(names)
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == recipes[name].data


# -- receipts -----------------------------------------------------------------------------------


def test_the_receipt_of_a_pull_that_failed_names_the_source_and_the_reason(
    agent: Agent, hub: HubStub, repo: HubRepo
) -> None:
    hub.corrupt = lambda path, body: flipped(body, 1) if path == SMALL else body
    with pytest.raises(errors.Untrusted):
        pull(agent, hub, repo)
    receipt = agent.why(ref_of(repo))
    assert receipt["outcome"].startswith("failed: ")
    [source] = receipt["sources"]
    assert (source["name"], source["outcome"]) == ("hf", "left")
    assert "git sha1" in source["reason"]
    assert source["retries"] == 2
    assert hub.url.removeprefix("http://") in source["reason"]


def test_the_receipt_names_an_origin_that_never_delivered(
    agent: Agent, web: FaultyServer, body: bytes
) -> None:
    url = web.on("/blob", probed(body, fh.status(503)))
    with pytest.raises(errors.Unavailable, match="503"):
        agent.get(pinned(url, body))
    receipt = agent.why()
    [source] = receipt["sources"]
    assert (source["name"], source["outcome"]) == ("http", "left")
    assert "503" in source["reason"]
    assert receipt["fetched_bytes"] == 0


def test_the_receipt_of_a_ref_that_did_not_resolve_says_who_refused(
    agent: Agent, hub: HubStub, repo: HubRepo
) -> None:
    hub.gated.add(repo.repo_id)
    with pytest.raises(errors.Denied):
        pull(agent, hub, repo)
    receipt = agent.why(ref_of(repo))
    assert receipt["outcome"].startswith("failed: ")
    assert repo.repo_id in receipt["outcome"]
    assert receipt["fetched_bytes"] == 0
