"""What a byte server tells its agent unasked: the thread that tells it has other things to do."""

from __future__ import annotations

import socket
import threading

from p2pcache.lanes.serve.control import Unpacker
from p2pcache.lanes.serve.server import Server

SOON_S = 2.0
BIG = [bytes([n]) * 30_000 for n in range(5)]  # a socket takes one and a part of the next


def tell(server: Server, scopes: list[bytes], times: int = 1) -> bool:
    """Whether it comes back."""

    def run() -> None:
        for _ in range(times):
            server._tell_crowded(scopes)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(SOON_S)
    return not thread.is_alive()


def received(sock: socket.socket, unpacker: Unpacker) -> list[list[object]]:
    sock.setblocking(False)
    found = []
    try:
        while data := sock.recv(1 << 20):
            found += unpacker.feed(data)
    except BlockingIOError:
        pass
    return found


def test_an_agent_that_does_not_read_holds_up_no_hint_and_gets_whole_messages():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        server, unpacker = Server(ours), Unpacker()
        assert tell(server, BIG, times=50)
        found = received(theirs, unpacker)
        assert tell(server, [b"a"])
        found += received(theirs, unpacker)
    assert 2 <= len(found) < 50, "what there is no room for is left out"
    assert found[0] == ["crowded", BIG]
    assert found[-1] == ["crowded", [b"a"]]
    assert all(each in (["crowded", BIG], ["crowded", [b"a"]]) for each in found)


def test_an_answer_that_the_agent_does_not_take_holds_up_no_hint():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        server = Server(ours)
        answer = threading.Thread(target=server._send, args=("statistics", 1, bytes(3 << 20)))
        answer.start()
        assert tell(server, [b"a"], times=5)
        assert answer.is_alive(), "not the answer that is meant here"
        theirs.setblocking(True)
        unpacker = Unpacker()
        while not (found := list(unpacker.feed(theirs.recv(1 << 20)))):
            pass
        answer.join(SOON_S)
        assert not answer.is_alive()
        assert found[0][0] == "statistics"
