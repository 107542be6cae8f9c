"""The server that gateways stand on: what it answers, and what hostile clients cannot do to it."""

import socket
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import pytest
import trio

from p2pcache.errors import LocalFault, NotFound, UsageError
from p2pcache.gateway.http import HttpOptions, Response, serve
from tests.support.http_client import ask, connected

FAST = HttpOptions(head_s=1.5, idle_s=1.5, stall_s=1.5)
PATIENT = HttpOptions()
DEADLINE_S = 30.0


@asynccontextmanager
async def serving(handler, options=PATIENT):
    with trio.fail_after(DEADLINE_S * 4):
        async with trio.open_nursery() as nursery:
            server = await nursery.start(partial(serve, handler, options))
            yield server
            nursery.cancel_scope.cancel()


async def echo(request):
    body = await request.read(1 << 20)
    said = f"{request.method} {request.path} {request.query} {body!r}"
    return Response(200, {"Content-Type": "text/plain"}, said.encode())


async def test_a_request_is_answered_and_the_connection_is_used_again():
    async with serving(echo) as server, connected(server.port) as client:
        first = await client.ask("/a%20b?x=1&y=&x=%2F")
        assert (first.status, first.headers["content-length"]) == (200, str(len(first.body)))
        assert first.body == b"GET /a%20b [('x', '1'), ('y', ''), ('x', '/')] b''"
        second = await client.ask("/c", method="POST", body=b"hello")
        assert second.body.endswith(b"b'hello'")


async def test_an_answer_without_a_known_length_is_chunked_and_ends():
    async def handler(request):
        async def pieces():
            for _ in range(3):
                yield b"x" * 300_000

        return Response(200, {}, pieces())

    async with serving(handler) as server:
        found = await ask(server.port, "/")
    assert found.whole
    assert (len(found.body), found.headers["transfer-encoding"]) == (900_000, "chunked")


async def test_head_has_the_length_and_no_body():
    async def handler(request):
        return Response(200, {}, b"12345")

    async with serving(handler) as server, connected(server.port) as client:
        found = await client.ask("/", method="HEAD")
        assert (found.headers["content-length"], found.body) == ("5", b"")
        assert (await client.ask("/")).body == b"12345"


async def test_an_error_of_ours_is_an_answer_and_the_next_request_works():
    async def handler(request):
        if request.path == "/bug":
            raise ZeroDivisionError("oops")
        raise NotFound("it is nowhere", hint="look elsewhere")

    async with serving(handler) as server, connected(server.port) as client:
        found = await client.ask("/x")
        assert (found.status, found.body) == (404, b"it is nowhere\nhint: look elsewhere\n")
        assert (await client.ask("/bug")).status == 500
        assert (await client.ask("/x")).status == 404


async def test_an_answer_that_fails_in_the_middle_is_not_taken_for_whole():
    async def handler(request):
        async def pieces():
            yield b"first"
            raise NotFound("the rest is gone")

        trailer = "X-Stream-Error" if request.path == "/t" else None
        return Response(
            200, {}, pieces(), trailer=trailer, length=9 if request.path == "/l" else None
        )

    async with serving(handler) as server:
        for path in ("/", "/l"):
            found = await ask(server.port, path)
            assert (found.status, found.body, found.whole) == (200, b"first", False)
        found = await ask(server.port, "/t")
        assert found.trailers == {"x-stream-error": "the rest is gone"}


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.", "[::2]", ""]
)
async def test_other_names_of_this_machine_are_refused(host):
    async with serving(echo) as server, connected(server.port) as client:
        said = await client.raw(
            b"GET / HTTP/1.1\r\nHost: " + host.encode() + b"\r\nConnection: close\r\n\r\n"
        )
    good = host == "localhost."
    assert said.split()[1] == (b"200" if good else b"403")


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "[::1]:99", "LocalHost"])
async def test_loopback_names_are_ours_whatever_the_port(host):
    async with serving(echo) as server:
        assert (await ask(server.port, "/", host=host)).status == 200


HOSTILE = {
    "garbage": b"\x00\x01\x02\r\n\r\n",
    "tls": bytes.fromhex("1603010200010001fc0303") + b"\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n",
    "absolute": b"GET http://evil/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "asterisk": b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n"
    b"Content-Length: 2\r\n\r\nxx",
    "bad length": b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
    "bad chunk": b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "many arguments": b"GET /?" + b"a=1&" * 2000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "folded": b"GET / HTTP/1.1\r\nHost: localhost\r\n Host: evil\r\n\r\n",
}


@pytest.mark.parametrize("case", HOSTILE)
async def test_what_is_no_request_is_refused_and_the_server_goes_on(case):
    async with serving(echo, FAST) as server, connected(server.port) as client:
        said = await client.raw(HOSTILE[case])
        assert said.split()[1][:1] == b"4" or b"403" in said, said[:200]
        assert (await ask(server.port, "/")).status == 200


async def test_a_head_over_the_limit_is_refused_before_it_is_whole():
    async with serving(echo) as server, connected(server.port) as client:
        said = await client.raw(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * (64 << 10))
    assert said.split()[1] == b"431"


async def test_a_body_over_the_limit_of_its_reader_is_refused():
    async def handler(request):
        await request.read(10)
        raise AssertionError

    async with serving(handler) as server:
        found = await ask(server.port, "/", method="POST", body=b"x" * 11)
    assert found.status == 400


async def drip(client):
    while True:
        await client.stream.send_all(b"G")
        await trio.sleep(0.01)


async def test_a_head_that_drips_is_cut():
    async with serving(echo, FAST) as server, connected(server.port) as client:
        with trio.fail_after(DEADLINE_S):
            with pytest.raises(trio.BrokenResourceError):
                await drip(client)
        assert (await ask(server.port, "/")).status == 200


async def test_an_idle_connection_is_closed():
    async with serving(echo, FAST) as server, connected(server.port) as client:
        assert (await client.ask("/")).status == 200
        with trio.fail_after(DEADLINE_S):
            assert await client.stream.receive_some(1) == b""


async def test_a_body_that_stalls_is_given_up():
    async with serving(echo, FAST) as server, connected(server.port) as client:
        with trio.fail_after(DEADLINE_S):
            said = await client.raw(
                b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nabc"
            )
    assert said.split()[1] == b"504"


async def test_a_client_that_does_not_read_is_cut():
    ended = trio.Event()

    async def handler(request):
        async def pieces():
            try:
                while True:
                    yield b"x" * (1 << 20)
            finally:
                ended.set()

        return Response(200, {}, pieces())

    async with serving(handler, FAST) as server, connected(server.port) as client:
        await client.stream.send_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        with trio.fail_after(DEADLINE_S):
            await ended.wait()


async def test_a_client_that_goes_away_cancels_its_request():
    began, cancelled = trio.Event(), trio.Event()

    async def handler(request):
        began.set()
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            cancelled.set()
            raise

    async with serving(handler) as server:
        async with connected(server.port) as client:
            await client.stream.send_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await began.wait()
        with trio.fail_after(DEADLINE_S):
            await cancelled.wait()


async def test_a_client_that_leaves_before_its_body_is_sent_ends_no_other_connection(caplog):
    async def deaf(request):
        return Response(200, {}, b"done")

    async with serving(deaf) as server, connected(server.port) as other:
        assert (await other.ask("/")).status == 200
        for _ in range(5):
            stream = await trio.open_tcp_stream("127.0.0.1", server.port)
            async with stream:
                head = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nabc"
                await stream.send_all(head)
                assert await stream.receive_some(65536), "the head of an answer at least"
        await trio.sleep(0.3)
        assert (await other.ask("/")).status == 200, "its connection is still there"
        assert (await ask(server.port, "/")).status == 200
    assert "bug" not in caplog.text


async def test_more_connections_than_the_limit_wait_their_turn():
    running = most = 0

    async def handler(request):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await trio.sleep(0.05)
        running -= 1
        return Response(200, {"Connection": "close"}, b"")

    answers = []

    async def one(port):
        answers.append((await ask(port, "/")).status)

    few = replace(PATIENT, max_connections=2)
    async with serving(handler, few) as server, trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(one, server.port)
    assert (answers, most) == ([200] * 8, 2)


async def test_pipelined_requests_are_answered_in_order():
    async with serving(echo) as server, connected(server.port) as client:
        one = b"GET /%d HTTP/1.1\r\nHost: localhost\r\n\r\n"
        last = b"GET /2 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        said = await client.raw(one % 0 + one % 1 + last)
    assert [said.find(b"GET /%d" % n) >= 0 for n in range(3)] == [True] * 3
    assert said.find(b"GET /0") < said.find(b"GET /1") < said.find(b"GET /2")


async def test_a_client_that_expects_100_is_told_to_go_on():
    async with serving(echo) as server, connected(server.port) as client:
        await client.stream.send_all(
            b"POST / HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
            b"Content-Length: 2\r\nConnection: close\r\n\r\n"
        )
        assert (await client.stream.receive_some(1000)).startswith(b"HTTP/1.1 100")
        assert b"b'ok'" in await client.raw(b"ok")


async def test_only_loopback_is_listened_on():
    for host in ("0.0.0.0", "192.0.2.1", "example.org"):
        with trio.fail_after(DEADLINE_S), pytest.raises(UsageError, match="loopback"):
            await serve(echo, HttpOptions(host=host))


async def test_a_port_that_is_taken_is_named():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(LocalFault, match=f"port {port}"):
            await serve(echo, HttpOptions(port=port))


def posted(*headers: bytes, body: bytes = b"", version: bytes = b"1.1") -> bytes:
    lines = [b"POST /first HTTP/" + version, b"Host: localhost", *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


CHUNKED = b"Transfer-Encoding: chunked"
AMBIGUOUS = {
    "a length and chunks": posted(b"Content-Length: 5", CHUNKED, body=b"0\r\n\r\n"),
    "chunks and a length": posted(CHUNKED, b"Content-Length: 5", body=b"0\r\n\r\n"),
    "chunks in HTTP/1.0": posted(CHUNKED, body=b"0\r\n\r\n", version=b"1.0"),
    "chunks twice": posted(CHUNKED, CHUNKED, body=b"0\r\n\r\n"),
    "chunks and none": posted(b"Transfer-Encoding: chunked, identity", body=b"0\r\n\r\n"),
    "another coding": posted(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"),
    "nearly chunked": posted(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"),
    "chunked in quotes": posted(b'Transfer-Encoding: "chunked"', body=b"0\r\n\r\n"),
    "a signed length": posted(b"Content-Length: +0"),
    "a length of another base": posted(b"Content-Length: 0x0"),
    "two numbers": posted(b"Content-Length: 0 0"),
    "two lengths in one": posted(b"Content-Length: 0, 5"),
    "a folded length": posted(b"Content-Length: 0\r\n 5"),
    "a space before the colon": posted(b"Content-Length : 0"),
    "a header without a name": posted(b": x"),
    "a NUL": posted(b"X: a\0b"),
    "a bare CR": posted(b"X: a\rTransfer-Encoding: chunked"),
    "the same host twice": posted(b"Host: localhost"),
    "a host in the target": b"GET http://localhost/first HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a path without a slash": b"GET first HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a tunnel": b"CONNECT localhost:1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a fold first": b"GET / HTTP/1.1\r\n X: y\r\nHost: localhost\r\n\r\n",
    "chunks of a sign": posted(CHUNKED, body=b"-1\r\n\r\n0\r\n\r\n"),
    "chunks of 0x": posted(CHUNKED, body=b"0x0\r\n\r\n"),
    "a chunk longer than it says": posted(CHUNKED, body=b"1\r\nabc0\r\n\r\n"),
    "a chunk of 2^84": posted(CHUNKED, body=b"f" * 21 + b"\r\n"),
    "a chunk's extension without end": posted(CHUNKED, body=b"1;" + b"x" * (64 << 10)),
    "a trailer without end": posted(CHUNKED, body=b"0\r\nX: " + b"x" * (64 << 10)),
}


@pytest.mark.parametrize("case", AMBIGUOUS)
async def test_no_request_is_hidden_behind_one_that_others_may_read_otherwise(case):
    seen = []

    async def handler(request):
        body = await request.read(1 << 20)
        seen.append((request.path, body))
        return Response(200, {}, b"taken")

    async with serving(handler, FAST) as server, connected(server.port) as client:
        said = await client.raw(
            AMBIGUOUS[case] + b"GET /hidden HTTP/1.1\r\nHost: localhost\r\n\r\n"
        )
        assert seen == []
        assert said.split()[1][:1] in (b"4", b"5"), said[:200]
        assert said.count(b"HTTP/1.1 ") == 1
        assert (await ask(server.port, "/")).status == 200
