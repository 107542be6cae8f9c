"""The RPC by itself: what no client may break, and what no other server shows."""

import logging
import socket
import struct
import time
from collections.abc import Iterator

import pytest

from tests.support.kubo_rpc import FILE, Server
from tests.support.rpc_server import rpc_server


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    with rpc_server(tmp_path_factory.mktemp("rpc")) as found:
        yield found


def root_of_files(server: Server) -> str:
    return server.post("files/stat?arg=/").lines[0]["Hash"]


def test_a_users_pin_of_the_root_of_the_files_api_is_the_users_own(server):
    cid = server.upload("add?pin=false", ("f", b"precious", FILE)).lines[0]["Hash"]
    assert server.post(f"files/cp?arg=/ipfs/{cid}&arg=/f").status == 200
    root = root_of_files(server)
    assert server.post("pin/ls?type=recursive").lines == [{}]
    assert server.post(f"pin/add?arg={root}").lines == [{"Pins": [root]}]
    pinned = {"Keys": {root: {"Type": "recursive", "Name": ""}}}
    assert server.post(f"pin/ls?arg={root}").lines == [pinned]
    assert server.post("files/mkdir?arg=/other").status == 200
    assert root_of_files(server) != root
    assert server.post(f"pin/ls?arg={root}").lines == [pinned]
    assert server.post("files/rm?arg=/other&recursive=true").status == 200
    assert root_of_files(server) == root
    assert server.post(f"pin/rm?arg={root}").lines == [{"Pins": [root]}]
    # the files API keeps what is in its tree all the same
    said = server.post(f"block/rm?arg={cid}").lines
    assert said == [{"Hash": cid, "Error": "the block is pinned"}]
    assert server.post("files/rm?arg=/f").status == 200
    assert server.post(f"block/rm?arg={cid}").lines == [{"Hash": cid}]


def test_values_too_long_for_a_cid_are_refused(server, caplog):
    dag = "dag/put?hash=identity&store-codec=raw&input-codec=raw"
    for call in (dag, "block/put?mhtype=identity"):
        said = server.upload(call, ("x", b"a" * 300, FILE))
        assert said.status == 500
        assert "300 bytes are too many for an identity CID" in said.lines[0]["Message"]
    assert not bugs(caplog)


def test_a_path_of_very_many_folders_is_refused(server, caplog):
    said = server.upload("add", ("a/" * 1500 + "x", b"1", FILE))
    assert said.status == 500
    assert said.lines[0]["Message"] == "a path of more than 256 folders"
    deep = server.upload("add?pin=false", ("a/" * 255 + "x", b"1", FILE))
    assert (deep.status, len(deep.lines)) == (200, 256)
    assert server.post(f"get?arg={deep.lines[-1]['Hash']}").status == 200
    assert not bugs(caplog)


@pytest.mark.parametrize("call", ["add", "block/put", "files/write?arg=/w&create=true"])
def test_a_client_that_resets_its_upload_is_no_bug_of_ours(server, caplog, call):
    caplog.set_level(logging.INFO)
    head = (
        f"POST /api/v0/{call} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n"
        "Content-Type: multipart/form-data; boundary=XX\r\n\r\n--XX\r\n"
    )
    client = socket.create_connection((server.host, server.port))
    client.sendall(head.encode())
    time.sleep(0.3)  # it reads the body now
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    time.sleep(0.3)
    assert server.post("version").status == 200
    assert not bugs(caplog)


def bugs(caplog) -> list[logging.LogRecord]:
    return [one for one in caplog.records if one.levelno >= logging.WARNING]
