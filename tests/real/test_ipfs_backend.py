"""The calls of ipfs_backend_router on an agent and on Kubo, and each weakness that it had."""

from __future__ import annotations

import hashlib
import json
import os
import random
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from p2pcache import ipfs_backend
from p2pcache.content.carstream import CarReader
from p2pcache.errors import (
    LocalFault,
    NotFound,
    P2PCacheError,
    Unavailable,
    Untrusted,
    UsageError,
)
from p2pcache.ipfs_backend.memory import MemoryBackend
from p2pcache.ipfs_backend.rpc import RpcBackend
from tests.support.agents import Agent, running_agent
from tests.support.kubo_daemon import kubo_daemon
from tests.support.processes import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

HELLO = "bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq"
MIB = 1 << 20
WORDS = (
    "IPFS_BACKEND", "ENABLE_IPFS_KIT", "IPFS_KIT_DISABLE", "ENABLE_HF_CACHE", "IPFS_ROUTER_CACHE",
    "IPFS_PATH", "P2PCACHE_HOME", "HF_HOME",
)  # fmt: skip


@pytest.fixture(scope="module")
def agent(tmp_path_factory) -> Iterator[Agent]:
    settings = {"ipfs.rpc": f"127.0.0.1:{free_port()}"}
    with running_agent(tmp_path_factory.mktemp("agent"), settings=settings) as agent:
        with agent.client() as client:
            assert client.status()["ipfs"]["rpc"]
        yield agent


@pytest.fixture(scope="module")
def kubo(tmp_path_factory) -> Iterator[Path]:
    """The repository of a running Kubo with its own defaults, which are not our profile."""
    repo = tmp_path_factory.mktemp("kubo")
    with kubo_daemon(repo, None):
        yield repo


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path) -> None:
    """Nothing of this machine's user; no daemon unless a test names one."""
    for word in WORDS:
        monkeypatch.delenv(word, raising=False)
    monkeypatch.setenv("P2PCACHE_HOME", str(tmp_path / "none"))
    monkeypatch.setenv("IPFS_PATH", str(tmp_path / "none"))
    ipfs_backend.set_default_ipfs_backend(None)


@pytest.fixture(params=["agent", "kubo"])
def daemon(request, monkeypatch) -> str:
    """With an agent and no Kubo, and the other way round."""
    if request.param == "agent":
        monkeypatch.setenv("P2PCACHE_HOME", str(request.getfixturevalue("agent").home))
        return "p2pcache"
    monkeypatch.setenv("IPFS_PATH", str(request.getfixturevalue("kubo")))
    return "kubo"


@pytest.fixture
def folder(tmp_path) -> Path:
    top = tmp_path / "model"
    (top / "sub" / "deep").mkdir(parents=True)
    (top / "empty").mkdir()
    (top / "config.json").write_text('{"a": 1}')
    (top / "weights ü.bin").write_bytes(random.Random(1).randbytes(3 * MIB + 5))
    (top / "sub" / "deep" / "nothing").write_bytes(b"")
    (top / "link").symlink_to("sub/deep/nothing")
    return top


def tree(top: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    for path in sorted(top.rglob("*")):
        name = str(path.relative_to(top))
        if path.is_symlink():
            found[name] = str(path.readlink())
        else:
            found[name] = path.read_bytes() if path.is_file() else None
    return found


# -- the calls -----------------------------------------------------------------------------------


def test_files(daemon, tmp_path):
    data = random.Random(2).randbytes(2 * MIB + 1)
    assert ipfs_backend.add_bytes(b"hello") == HELLO
    cid = ipfs_backend.add_bytes(data, pin=True)
    assert ipfs_backend.cat(cid) == data
    assert ipfs_backend.cat(f"/ipfs/{cid}") == data
    assert ipfs_backend.ls(cid) == []
    path = tmp_path / "file.bin"
    path.write_bytes(data)
    assert ipfs_backend.add_path(path) == cid
    assert ipfs_backend.add_path(str(path), chunker="size-100000") != cid
    ipfs_backend.get_to_path(cid, output_path=tmp_path / "new" / "copy.bin")
    assert (tmp_path / "new" / "copy.bin").read_bytes() == data
    assert os.listdir(tmp_path / "new") == ["copy.bin"]
    receipt = ipfs_backend.get_last_backend_selection()
    assert receipt is not None
    assert receipt.selected_role == daemon


def test_folders(daemon, tmp_path, folder):
    cid = ipfs_backend.add_path(folder)
    assert ipfs_backend.ls(cid) == sorted(os.listdir(folder), key=str.encode)
    assert ipfs_backend.cat(f"{cid}/config.json") == b'{"a": 1}'
    ipfs_backend.get_to_path(cid, output_path=str(tmp_path / "copy"))
    assert tree(tmp_path / "copy") == tree(folder)
    with pytest.raises(UsageError):
        ipfs_backend.add_path(folder, recursive=False)
    with pytest.raises(UsageError, match="folder"):
        ipfs_backend.cat(cid)
    with pytest.raises(LocalFault):
        ipfs_backend.get_to_path(cid, output_path=tmp_path / "copy")
    assert MemoryBackend().add_path(folder) == cid


def test_a_folder_that_is_sharded_under_either_rule_has_a_root_that_is_believed(daemon, tmp_path):
    top = tmp_path / "many"
    top.mkdir()
    for number in range(2500):
        (top / f"{number:05}-{'n' * 100}").touch()
    cid = ipfs_backend.add_path(top, pin=False)
    assert len(ipfs_backend.ls(cid)) == 2500


def test_blocks_keep_their_codec(daemon):
    assert ipfs_backend.block_put(b"hello") == HELLO
    assert ipfs_backend.block_put(b"hello", codec="raw") == HELLO
    node = b"\xa1aa\x01"
    cid = ipfs_backend.block_put(node, codec="dag-cbor")
    assert cid.startswith("bafyrei")
    assert ipfs_backend.block_get(cid) == node
    with pytest.raises(UsageError):
        ipfs_backend.block_put(b"x", codec="what")
    with pytest.raises(UsageError):
        ipfs_backend.block_put(bytes(2 * MIB + 1))


def test_pins(daemon):
    cid = ipfs_backend.add_bytes(b"pinned or not", pin=False)
    with pytest.raises(NotFound):
        ipfs_backend.unpin(cid)
    ipfs_backend.pin(cid)
    ipfs_backend.unpin(cid)
    with pytest.raises(NotFound):
        ipfs_backend.unpin(cid)


def test_an_export_is_a_whole_car(daemon, folder):
    cid = ipfs_backend.add_path(folder)
    reader = CarReader()
    blocks = list(reader.feed(ipfs_backend.dag_export(cid)))
    reader.close()
    assert len(blocks) == 12
    other = MemoryBackend()
    other.add_path(folder)
    assert other.dag_export(cid) == ipfs_backend.dag_export(cid)


# -- which backend, and what the receipt says ----------------------------------------------------


def test_the_agent_comes_before_kubo_and_the_receipt_tells_of_both(monkeypatch, agent, kubo):
    monkeypatch.setenv("IPFS_PATH", str(kubo))
    backend, receipt = ipfs_backend.get_backend_with_receipt()
    assert (receipt.selected_name, receipt.selected_role) == ("kubo", "kubo")
    assert receipt.degraded
    assert not receipt.preferred_available
    assert "p2pcache" in receipt.degradation_reasons[0]
    assert receipt.candidate_order == ("p2pcache", "kubo")
    assert receipt.capabilities["conformant_cid"]
    assert ipfs_backend.classify_backend_role(backend) == "kubo"
    monkeypatch.setenv("P2PCACHE_HOME", str(agent.home))
    monkeypatch.setenv("IPFS_ROUTER_CACHE", "0")
    receipt = ipfs_backend.select_backend()
    assert (receipt.selected_name, receipt.degraded) == ("p2pcache", False)
    assert receipt.preferred_available
    assert receipt.degradation_reasons == ()
    json.dumps(receipt.to_dict())


def test_without_any_daemon_nothing_is_pretended():
    with pytest.raises(Unavailable) as caught:
        ipfs_backend.add_bytes(b"hello")
    assert isinstance(caught.value, RuntimeError)
    assert "kubo" in str(caught.value)
    assert "p2pcache" in str(caught.value)


def test_the_environment_chooses_and_a_name_that_nobody_has_is_an_error(monkeypatch, agent, kubo):
    monkeypatch.setenv("P2PCACHE_HOME", str(agent.home))
    monkeypatch.setenv("IPFS_PATH", str(kubo))
    monkeypatch.setenv("IPFS_BACKEND", "kubo")
    assert ipfs_backend.select_backend().selected_role == "kubo"
    monkeypatch.setenv("IPFS_BACKEND", "hf_cache")
    receipt = ipfs_backend.select_backend()
    assert (receipt.selected_role, receipt.degraded) == ("p2pcache", True)
    assert "hf_cache" in receipt.degradation_reasons[0]
    monkeypatch.setenv("IPFS_BACKEND", "nonsense")
    with pytest.raises(UsageError, match="nonsense"):
        ipfs_backend.cat(HELLO)
    monkeypatch.delenv("IPFS_BACKEND")
    monkeypatch.setenv("IPFS_KIT_DISABLE", "1")
    assert ipfs_backend.select_backend().selected_role == "p2pcache"
    monkeypatch.setenv("ENABLE_HF_CACHE", "false")
    assert ipfs_backend.select_backend().selected_role == "kubo"


def test_backends_of_callers():
    class Mine(MemoryBackend):
        pass

    mine, other = Mine(), Mine()
    ipfs_backend.register_ipfs_backend("mine", lambda: mine)
    assert ipfs_backend.get_backend("mine") is mine
    assert ipfs_backend.add_bytes(b"hello", backend=other) == HELLO
    assert ipfs_backend.cat(HELLO, deps={"ipfs_backend": other}) == b"hello"  # no hash is wanted
    ipfs_backend.set_default_ipfs_backend(mine)
    with pytest.raises(NotFound):
        ipfs_backend.cat(HELLO)
    with pytest.raises(UsageError):
        ipfs_backend.register_ipfs_backend("kubo", lambda: mine)
    assert isinstance(mine, ipfs_backend.IPFSBackend)
    assert ipfs_backend.classify_backend_role(object()) == "unknown"
    assert not ipfs_backend.describe_backend_capabilities(object())["supports_pin"]
    assert ipfs_backend.get_backend("memory") is not ipfs_backend.get_backend("memory")


# -- what went wrong in the router ---------------------------------------------------------------


@pytest.mark.parametrize(
    "cid", ["../../secret", "/etc/passwd", "", "Qm", f"{HELLO}/../../x", "bafy" + "2cf24dba" * 7]
)
def test_what_is_no_cid_reads_nothing(cid):
    with pytest.raises(UsageError):
        ipfs_backend.cat(cid, backend=MemoryBackend())


def test_a_damaged_block_is_refused_by_name():
    backend = MemoryBackend()
    cid = backend.add_bytes(random.Random(3).randbytes(2 * MIB))
    leaf = max(backend._blocks, key=lambda key: len(backend._blocks[key]))
    backend._blocks[leaf] = b"\0" + backend._blocks[leaf][1:]
    for call in (backend.cat, backend.dag_export):
        with pytest.raises(Untrusted, match="memory"):
            call(cid)


def test_a_server_that_lies_about_what_it_added_is_caught():
    answer = json.dumps({"Name": "", "Hash": HELLO, "Size": "5"}).encode()
    with liar(answer) as url, pytest.raises(Untrusted, match=HELLO):
        RpcBackend("kubo", url).add_bytes(b"something else")


def test_nothing_half_written_is_left_behind(tmp_path):
    backend = MemoryBackend()
    cid = backend.add_bytes(random.Random(4).randbytes(3 * MIB))
    last = hashlib.sha256(backend.cat(cid)[2 * MIB :]).digest()
    del backend._blocks[b"\x12\x20" + last]
    (tmp_path / "out").write_bytes(b"older")
    with pytest.raises(NotFound):
        backend.get_to_path(cid, output_path=tmp_path / "out")
    assert os.listdir(tmp_path) == ["out"]
    assert (tmp_path / "out").read_bytes() == b"older"


def test_a_link_that_leads_out_of_its_folder_is_refused(tmp_path):
    for target in ("../../outside", "/etc", "sub/../../.."):
        top = tmp_path / "evil"
        top.mkdir(exist_ok=True)
        (top / "link").unlink(missing_ok=True)
        (top / "link").symlink_to(target)
        backend = MemoryBackend()
        cid = backend.add_path(top)
        with pytest.raises(Untrusted, match="leads out"):
            backend.get_to_path(cid, output_path=tmp_path / "written")
        assert not (tmp_path / "written").exists()


def test_a_daemon_that_hangs_ends_in_an_error():
    from p2pcache.ipfs_backend.rpc import RpcOptions

    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        backend = RpcBackend("kubo", url, RpcOptions(silence_s=0.3))
        with pytest.raises(Unavailable):
            backend.cat(HELLO)


def test_every_error_is_a_runtime_error_and_names_its_cause():
    with pytest.raises(RuntimeError) as caught:
        MemoryBackend().cat(HELLO)
    assert isinstance(caught.value, P2PCacheError)
    with pytest.raises(RuntimeError):
        MemoryBackend().add_path("/no/such/file")


def test_a_large_file_is_never_whole_in_memory(daemon, tmp_path):
    """Of 64 MiB no more than a few are held at a time, on the way in and out."""
    import tracemalloc

    path = tmp_path / "large"
    with path.open("wb") as file:
        for number in range(64):
            file.write(random.Random(number).randbytes(MIB))
    tracemalloc.start()
    try:
        cid = ipfs_backend.add_path(path, pin=False)
        ipfs_backend.get_to_path(cid, output_path=tmp_path / "copy")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 * MIB
    assert (tmp_path / "copy").stat().st_size == 64 * MIB


@contextmanager
def liar(answer: bytes) -> Iterator[str]:
    """A server that answers everything with this row."""
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            while count := int(self.rfile.readline(), 16):
                self.rfile.read(count + 2)
            self.rfile.readline()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
