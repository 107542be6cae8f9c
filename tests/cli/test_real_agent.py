"""Commands against a real agent and real origins: what a user types, and what then happens."""

from __future__ import annotations

import hashlib
import json
import os
import random
import socketserver
import subprocess
import sys
import threading
import time

import pytest

from tests.support.agents import REPO, agent_env, running_agent
from tests.support.faulty_http import FaultyServer, ranged, status
from tests.support.processes import free_port
from tests.support.pulling import Pull

ROOT = str(REPO)


@pytest.fixture(scope="module")
def agent(tmp_path_factory):
    with running_agent(tmp_path_factory.mktemp("agent"), settings={"resolve.ttl": "1ms"}) as agent:
        yield agent


@pytest.fixture
def p2pcache(agent, tmp_path):
    """The program, in `tmp_path`, beside a running agent: `p2pcache("get", ref)`."""

    def run(*args, **options):
        return program(agent.env, tmp_path, *args, **options)

    return run


def program(env, folder, *args, **options):
    return subprocess.run(
        [sys.executable, "-m", "p2pcache", *args],
        capture_output=True, text=True, cwd=folder, env=env | {"PYTHONPATH": ROOT}, timeout=60,
        **options,
    )  # fmt: skip


def said(done):
    """What it says on stderr, without the line that comes first where the machine is busy."""
    return done.stderr.removeprefix("starting an agent...\n")


def folder_of(path, **files):
    path.mkdir()
    for name, text in files.items():
        (path / name).write_text(text)
    return path


def test_several_files_without_a_place_say_how_to_have_them(p2pcache, tmp_path):
    folder_of(tmp_path / "www", a="one", b="two")
    done = p2pcache("get", "./www")
    assert (done.returncode, done.stdout) == (0, "")
    assert "`--to DIR`" in done.stderr.splitlines()[-1]
    assert json.loads(p2pcache("get", "./www", "--json").stdout)["path"] is None
    placed = p2pcache("get", "./www", "--to", "out")
    assert placed.stdout == f"{tmp_path / 'out'}\n"
    assert "--to" not in placed.stderr
    assert "--to" not in p2pcache("get", "./www", "--dry-run").stderr


def test_resolve_shows_both_names_of_a_file_and_all_of_them_work(p2pcache, tmp_path):
    (tmp_path / "a.bin").write_bytes(random.Random(5).randbytes((1 << 20) + 1))
    pushed = json.loads(p2pcache("push", "a.bin", "--json").stdout)
    for name in (pushed["sha256"], f"/ipfs/{pushed['root']}"):
        lines = p2pcache("resolve", name).stdout.splitlines()
        assert f"sha2-256  sha256:{pushed['sha256']}" in lines
        assert f"root      ipfs://{pushed['root']}" in lines
        for command in ("pin", "unpin", "verify"):
            assert p2pcache(command, name).returncode == 0
    assert p2pcache("rm", pushed["root"], "--force").returncode == 0
    assert p2pcache("pin", pushed["root"]).returncode == 11


@pytest.fixture
def gone(tmp_path):
    """A shell's line run in a folder that was removed under it."""

    def run(env, line):
        (tmp_path / "here").mkdir()
        line = f"cd {tmp_path}/here && rmdir {tmp_path}/here && {line}"
        return subprocess.run(
            ["sh", "-c", line.replace("p2pcache ", f"{sys.executable} -m p2pcache ")],
            env=env | {"PYTHONPATH": ROOT}, capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    return run


def test_a_working_directory_that_is_gone_matters_to_relative_paths_alone(tmp_path, gone):
    env = agent_env(tmp_path)
    (tmp_path / "file").write_text("bytes")
    done = gone(env, f"p2pcache get {tmp_path}/file --to {tmp_path}/out")
    assert (done.returncode, done.stdout) == (0, f"{tmp_path}/out/file\n")
    assert "1 file" in gone(env, f"p2pcache push {tmp_path}/file").stderr
    for wrong in ("get ./file", f"get {tmp_path}/file --to out"):
        done = gone(env, f"p2pcache {wrong}")
        assert (done.returncode, done.stdout) == (2, "")
        assert "relative to a working directory that is gone" in done.stderr
    done = gone(env | {"P2PCACHE_HOME": "rel"}, "p2pcache ls --json")
    assert json.loads(done.stderr)["message"] == "the working directory is gone"


def test_an_agent_keeps_no_hold_of_the_folder_it_was_started_in(agent):
    assert os.readlink(f"/proc/{agent.process.pid}/cwd") == "/"


@pytest.mark.parametrize("args", [["--json"], ["--json", "ls"], ["config", "--json", "--nope"]])
def test_an_error_of_usage_is_json_where_json_was_asked_for(p2pcache, args):
    done = p2pcache(*args)
    assert (done.returncode, done.stdout) == (2, "")
    assert json.loads(done.stderr)["code"] == "usage"


def test_a_bad_setting_is_wrong_usage_whoever_starts_the_agent(tmp_path):
    env = agent_env(tmp_path) | {"P2PCACHE_STORE_CAPACITY": "0"}
    for args in (["ls"], ["agent", "run"]):
        done = program(env, tmp_path, *args)
        assert done.returncode == 2
        assert said(done).startswith("error: P2PCACHE_STORE_CAPACITY: store.capacity: ")


@pytest.mark.parametrize("home", ["/proc/nope", "/etc/passwd"])
def test_a_home_that_cannot_be_says_what_to_set(tmp_path, home):
    for args in (["ls"], ["agent", "run"]):
        done = program(agent_env(tmp_path) | {"P2PCACHE_HOME": home}, tmp_path, *args)
        assert done.returncode == 1
        assert "hint: set P2PCACHE_HOME" in done.stderr


# -- what is known already ------------------------------------------------------------------------


@pytest.fixture
def origin():
    with FaultyServer() as server:
        yield server


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def bodies(server, path):
    """How many bytes of a path were asked for, probes of a byte left out."""
    ranges = [headers.get("range") for headers in server.headers_of(path)]
    return sum(1 for each in ranges if each != "bytes=0-0")


def test_a_stored_digest_on_a_url_of_another_size_is_refused_and_leaves_no_trace(
    p2pcache, origin, tmp_path
):
    big, small = random.Random(1).randbytes(3 << 20), b"other"
    urls = origin.on("/big.bin", ranged(big)), origin.on("/five.bin", ranged(small))
    pins = [f"{url}#sha256={sha256(big)}" for url in urls]
    assert p2pcache("get", pins[0], "--to", "right").returncode == 0
    wrong = p2pcache("get", pins[1], "--to", "wrong")
    assert (wrong.returncode, wrong.stdout) == (12, "")
    assert f"has 5 bytes at the origin, and the content that was asked for has {3 << 20}" in (
        wrong.stderr
    )
    assert not (tmp_path / "wrong").exists()
    assert "five.bin" not in p2pcache("ls", "--json").stdout


def test_an_unpinned_url_is_downloaded_again_only_when_its_etag_changed(p2pcache, origin, tmp_path):
    url = origin.on("/model.bin", ranged(b"one" * 1000, ETag='"1"'))
    assert "2.9 KiB fetched" in p2pcache("get", url, "--to", "out").stderr
    first = bodies(origin, "/model.bin")
    time.sleep(0.01)  # the record's time to live
    assert "0 B fetched" in p2pcache("get", url, "--to", "out").stderr
    assert bodies(origin, "/model.bin") == first
    origin.on("/model.bin", ranged(b"two" * 1000, ETag='"2"'))
    assert "2.9 KiB fetched" in p2pcache("get", url, "--to", "out").stderr
    assert (tmp_path / "out" / "model.bin").read_bytes() == b"two" * 1000
    before = bodies(origin, "/model.bin")
    p2pcache("get", url, "--refresh")
    assert bodies(origin, "/model.bin") > before, "whoever asks for it gets the bytes again"


@pytest.mark.parametrize("etag", [{}, {"ETag": 'W/"1"'}], ids=["none", "weak"])
def test_an_unpinned_url_without_a_strong_etag_is_downloaded_every_time(
    p2pcache, origin, tmp_path, etag
):
    url = origin.on("/model.bin", ranged(b"one" * 1000, **etag))
    p2pcache("get", url, "--to", "out")
    origin.on("/model.bin", ranged(b"two" * 1000, **etag))
    time.sleep(0.01)
    assert p2pcache("get", url, "--to", "out").returncode == 0
    assert (tmp_path / "out" / "model.bin").read_bytes() == b"two" * 1000


def test_a_local_folder_is_read_again_only_where_it_changed(p2pcache, tmp_path):
    folder = folder_of(tmp_path / "www", old="unchanged", new="changed a moment ago")
    long_ago, soon = time.time() - 60, time.time() + 60  # also where the command takes seconds
    os.utime(folder / "old", (long_ago, long_ago))
    os.utime(folder / "new", (soon, soon))
    p2pcache("get", "./www", "--to", "out")
    time.sleep(0.01)
    again = p2pcache("get", "./www", "--to", "out")
    assert "20 B fetched, 9 B were here" in again.stderr
    (folder / "old").write_text("changed!!")
    time.sleep(0.01)
    p2pcache("get", "./www", "--to", "out")
    assert (tmp_path / "out" / "old").read_text() == "changed!!"


# -- what is shown elsewhere ----------------------------------------------------------------------


def test_damage_through_a_link_is_not_handed_out_again_and_only_its_block_is_fetched(
    p2pcache, origin, tmp_path
):
    data = random.Random(2).randbytes(5 << 20)
    pinned = f"{origin.on('/five.bin', ranged(data))}#sha256={sha256(data)}"
    p2pcache("get", pinned, "--to", "first")
    p2pcache("pin", pinned)
    with (tmp_path / "first" / "five.bin").open("r+b") as file:
        file.write(b"evil")
    again = p2pcache("get", pinned, "--to", "second")
    assert (tmp_path / "second" / "five.bin").read_bytes() == data
    assert "1.0 MiB fetched" in again.stderr
    p2pcache("get", pinned, "--to", "first")
    assert (tmp_path / "first" / "five.bin").read_bytes() == data


def test_a_touched_blob_is_still_here_offline(p2pcache, origin, tmp_path):
    data = random.Random(3).randbytes(3 << 20)
    pinned = f"{origin.on('/three.bin', ranged(data))}#sha256={sha256(data)}"
    blob = p2pcache("get", pinned).stdout.strip()
    os.utime(blob, (1, 1))
    assert "0 B fetched" in p2pcache("get", pinned, "--offline", "--to", "out").stderr


def test_an_empty_folder_name_is_not_the_current_folder(p2pcache, tmp_path):
    (tmp_path / "file").write_text("bytes")
    done = p2pcache("get", "./file", "--to", "")
    assert (done.returncode, done.stdout) == (2, "")
    assert "empty path" in done.stderr


# -- origins that say no --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ref", "hints"),
    [("hf://org/model", ("the network", "proxy", "HF_ENDPOINT", "--offline")),
     ("http://127.0.0.1:{port}/model.bin", ("the network", "proxy", "--offline"))],
)  # fmt: skip
def test_without_a_network_the_user_is_told_what_to_look_at(agent, tmp_path, ref, hints):
    port = free_port()
    env = agent.env | {"HF_ENDPOINT": f"http://127.0.0.1:{port}"}
    done = program(env, tmp_path, "get", ref.format(port=port))
    assert done.returncode == 11
    assert all(hint in done.stderr.partition("hint: ")[2] for hint in hints)


@pytest.fixture
def plain_port():
    """A server that answers what is no HTTP as nginx does."""

    class Refuses(socketserver.BaseRequestHandler):
        def handle(self):
            self.request.recv(4096)
            self.request.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Refuses) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join(10)


@pytest.mark.parametrize("ref", ["hf://org/model", "{tls}/model.bin"])
def test_tls_to_a_port_without_it_is_said(agent, plain_port, tmp_path, ref):
    tls = f"https://127.0.0.1:{plain_port}"
    env = agent.env | {"HF_ENDPOINT": tls}
    done = program(env, tmp_path, "get", ref.format(tls=tls))
    assert done.returncode == 11
    assert "does not speak TLS" in done.stderr


@pytest.mark.parametrize("code", [401, 403])
def test_only_a_signed_url_may_have_expired(p2pcache, origin, code):
    url = origin.on("/model.bin", status(code))
    plain, signed = p2pcache("get", url), p2pcache("get", f"{url}?signature=1")
    assert (plain.returncode, signed.returncode) == (14, 14)
    assert "expired" not in plain.stderr
    assert "a signed URL may have expired" in signed.stderr


def test_a_revision_that_is_not_there_is_named_as_the_suspect(agent, origin, tmp_path):
    env = agent.env | {"HF_ENDPOINT": origin.url("")}
    done = program(env, tmp_path, "get", "hf://org/model@v7")
    assert done.returncode == 11
    assert "'v7'" in done.stderr.partition("hint: ")[2]


# -- what doctor sees -----------------------------------------------------------------------------


def test_doctor_fails_where_every_pull_would(tmp_path):
    env = agent_env(tmp_path) | {"P2PCACHE_STORE_RESERVE": "1 EiB"}
    done = program(env, tmp_path, "doctor")
    assert done.returncode == 1
    assert "BAD  disk space" in done.stdout
    assert "lower `store.reserve`" in done.stdout
    (tmp_path / "file").write_bytes(bytes(2 << 20))
    assert program(env, tmp_path, "get", "./file").returncode == 13


@pytest.mark.parametrize("damage", ["gone", "overwritten"])
def test_an_index_that_was_lost_is_said_by_whoever_finds_it(tmp_path, damage):
    env = agent_env(tmp_path)
    env["PYTHONWARNINGS"] = "default"
    (tmp_path / "file").write_bytes(random.Random(4).randbytes(2 << 20))
    assert program(env, tmp_path, "get", "./file").stderr.count("warning") == 0
    index = tmp_path / "p2pcache" / "index.sqlite"

    def lose():
        for path in index.parent.glob("index.sqlite*"):
            path.unlink()
        if damage == "overwritten":
            index.write_bytes(b"no database" * 1000)

    lose()
    first, second = (program(env, tmp_path, "ls") for _ in range(2))
    assert (first.returncode, second.returncode) == (0, 0)
    assert said(first).startswith("warning: the index was ")
    assert "warning" not in second.stderr
    lose()
    done = program(env, tmp_path, "doctor")
    assert done.returncode == 1
    assert "BAD  index: the index was" in done.stdout
    lose()
    with running_agent(tmp_path) as agent:
        assert agent.log.read_text().startswith("warning: the index was ")
        assert "the index was" in program(env, tmp_path, "status").stdout


# -- what is forgotten ----------------------------------------------------------------------------


def test_rm_forgets_one_ref_and_the_bytes_go_with_the_last(p2pcache, origin, tmp_path):
    data = random.Random(5).randbytes(2 << 20)
    urls = [origin.on(f"/{n}/same.bin", ranged(data)) for n in (1, 2)]
    refs = [f"{url}#sha256={sha256(data)}" for url in urls]
    for ref in refs:
        p2pcache("get", ref)

    def listed():
        lines = p2pcache("ls", "--json").stdout.splitlines()
        return {entry["ref"] for entry in map(json.loads, lines)} & set(refs)

    first = p2pcache("rm", refs[0])
    assert "freed 0 B" in first.stderr
    assert f"`{refs[1]}` means the same" in first.stderr
    assert listed() == {refs[1]}
    assert "0 B fetched" in p2pcache("get", refs[1]).stderr
    assert "freed 2.0 MiB" in p2pcache("rm", refs[1]).stderr
    assert listed() == set()


def test_rm_says_why_linked_bytes_are_not_freed(p2pcache, origin, tmp_path):
    data = random.Random(6).randbytes(2 << 20)
    ref = f"{origin.on('/model.bin', ranged(data))}#sha256={sha256(data)}"
    p2pcache("get", ref, "--to", "out")
    if (tmp_path / "out" / "model.bin").stat().st_nlink < 2:
        pytest.skip("this file system shares blocks instead of linking")
    done = p2pcache("rm", ref)
    assert "freed 0 B" in done.stderr
    assert "2.0 MiB stay on the disk" in done.stderr


# -- what receipts say ----------------------------------------------------------------------------


def test_a_receipt_adds_up_after_a_pull_that_was_resumed(p2pcache, agent, origin, tmp_path):
    data = random.Random(7).randbytes(16 << 20)
    ref = f"{origin.on('/slow.bin', ranged(data))}#sha256={sha256(data)}"
    with Pull(agent, ref, limit_rate=8 << 20) as pull:
        pull.wait_bytes(4 << 20)
        agent.kill()
    agent.start()
    done = json.loads(p2pcache("get", ref, "--json").stdout)
    assert 0 < done["fetched_bytes"] < len(data)
    assert done["fetched_bytes"] + done["reused_bytes"] == len(data)
    receipt = json.loads(p2pcache("why", "--json").stdout)
    parts = ("fetched_bytes", "reused_bytes", "adopted_bytes", "resumed_bytes")
    assert sum(receipt[part] for part in parts) == receipt["total_bytes"] == len(data)
    assert receipt["resumed_bytes"] > 0
    assert " resumed, " in p2pcache("why").stdout


def test_a_receipt_is_of_the_files_that_were_chosen(p2pcache, tmp_path):
    folder_of(tmp_path / "www", a="12345", b="1234567")
    p2pcache("get", "./www", "--include", "a")
    assert json.loads(p2pcache("why", "--json").stdout)["total_bytes"] == 5


def test_each_way_a_file_came_to_its_place_is_counted(p2pcache, tmp_path):
    folder = folder_of(tmp_path / "www", config="{}", readme="# read me")
    for name in "xyz":
        (folder / name).write_bytes(random.Random(name).randbytes(1 << 20))
    done = p2pcache("get", "./www", "--to", "out", "--copy").stderr
    assert "5 files, " in done
    assert "(5 copies)" in done or "(5 reflinks)" in done
    made = json.loads(p2pcache("get", "./www", "--to", "more", "--json").stdout)["made"]
    assert sum(made.values()) == 5
