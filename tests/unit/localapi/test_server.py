"""The server on a real unix socket, driven by raw bytes."""

import os
import socket
import stat

import pytest
import trio

from p2pcache import config
from p2pcache.agent.localapi.server import ServerOptions, serve
from p2pcache.agent.localapi.wire import (
    MAX_FRAME_BYTES,
    Cancel,
    Failed,
    FrameReader,
    Hello,
    Item,
    Progress,
    Request,
    Result,
    encode,
    parse_from_server,
)
from p2pcache.errors import Denied, Interrupted, LocalFault, Unavailable, Untrusted
from tests.support.scripted_service import ScriptedService

HELLO = encode(Hello("test", 1))


class RawClient:
    """Speaks frames, and anything else."""

    def __init__(self, stream):
        self.stream = stream
        self._reader = FrameReader()
        self._messages = []
        self._ends = {}

    async def send(self, data):
        await self.stream.send_all(data)

    async def next(self):
        """The next message, None when the server closed."""
        while not self._messages:
            try:
                data = await self.stream.receive_some(65536)
            except trio.BrokenResourceError:  # it closed with something of ours unread
                return None
            if not data:
                return None
            self._messages += [parse_from_server(body) for body in self._reader.feed(bytes(data))]
        return self._messages.pop(0)

    async def until_closed(self):
        messages = []
        while (message := await self.next()) is not None:
            messages.append(message)
        return messages

    async def answer_to(self, number):
        """The end of one request; the ends of others are kept for those who ask for them."""
        while number not in self._ends:
            message = await self.next()
            assert message is not None, "closed before it answered"
            if isinstance(message, Result | Failed):
                self._ends[message.id] = message
        return self._ends.pop(number)


async def connect(agent, greeting=HELLO):
    client = RawClient(await trio.open_unix_socket(agent.path))
    agent.opened.append(client.stream)
    await client.send(greeting)
    assert isinstance(await client.next(), Hello)
    return client


async def test_the_socket_is_the_users_alone(agent_of):
    async with agent_of() as agent:
        assert stat.S_IMODE(agent.path.stat().st_mode) == 0o600
    assert not agent.path.exists()


async def test_another_user_is_denied(agent_of):
    async with agent_of(ServerOptions(uid=os.getuid() + 1)) as agent:
        client = await connect(agent)
        (refusal,) = await client.until_closed()
        assert refusal.id == 0
        assert isinstance(refusal.exception(), Denied)


async def test_items_all_arrive_in_order_before_the_one_result(agent_of):
    async with agent_of() as agent:
        client = await connect(agent)
        await client.send(encode(Request(1, "flood", {"count": 300})))
        items, result = [], None
        while result is None:
            match await client.next():
                case Item(value=value):
                    items.append(value["n"])
                case Result(value=value):
                    result = value
        assert items == list(range(300))
        assert result == {"count": 300}


async def test_requests_run_side_by_side_on_one_connection(agent_of):
    async with agent_of() as agent:
        client = await connect(agent)
        await client.send(encode(Request(1, "get", {"ref": "hang"})))
        await client.send(encode(Request(2, "gc", {})))
        assert isinstance(await client.answer_to(2), Result)


async def test_cancel_ends_the_request_and_not_its_neighbour(agent_of):
    async with agent_of() as agent:
        client = await connect(agent)
        await client.send(encode(Request(1, "get", {"ref": "hang"})) + encode(Cancel(2, 1)))
        await client.send(encode(Request(3, "gc", {})))
        stopped = await client.answer_to(1)
        assert isinstance(stopped.exception(), Interrupted)
        assert isinstance(await client.answer_to(3), Result)


async def test_a_client_that_asks_nothing_does_not_hold_up_a_stopping_agent(agent_of):
    async with agent_of() as agent:
        idle, busy = await connect(agent), await connect(agent)
        await busy.send(encode(Request(1, "get", {"ref": "hang"})))
        await agent.service.began.wait()
        with trio.move_on_after(0.05) as early:
            await agent.clients.wait_answered()
        assert early.cancelled_caught, "one request is not answered"
        await busy.send(encode(Cancel(2, 1)))
        with trio.fail_after(2):
            await agent.clients.wait_answered()
        assert isinstance(await busy.answer_to(1), Failed)
        await idle.send(encode(Request(1, "gc", {})))
        assert isinstance(await idle.answer_to(1), Result)


async def test_a_client_that_dies_takes_its_requests_with_it(agent_of):
    async with agent_of() as agent:
        client = await connect(agent)
        await client.send(encode(Request(1, "get", {"ref": "hang"})))
        await agent.service.began.wait()
        await client.stream.aclose()
        await agent.clients.wait_none()
        assert agent.service.cancelled == ["hang"]


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        (MAX_FRAME_BYTES + 1).to_bytes(4, "big"),
        b"\x00\x00\x00\x00",
        b"\x00\x00\x00\x01\xc1",
        HELLO,
        encode(Request(1, "get", {"ref": "hang"})) * 2,
    ],
)
async def test_garbage_gets_a_reason_and_the_door_and_others_go_on(agent_of, garbage):
    async with agent_of() as agent:
        other = await connect(agent)
        client = await connect(agent)
        await client.send(garbage)
        *_, last = await client.until_closed()
        assert last.id == 0
        assert isinstance(last.exception(), Untrusted)
        await other.send(encode(Request(1, "gc", {})))
        assert isinstance(await other.answer_to(1), Result)


async def test_a_first_frame_that_is_no_hello_is_refused(agent_of):
    async with agent_of() as agent:
        client = await connect(agent, greeting=encode(Request(1, "gc", {})))
        (refusal,) = await client.until_closed()
        assert isinstance(refusal.exception(), Untrusted)
        assert agent.service.calls == []


async def test_an_unknown_major_version_is_refused_with_both_versions(agent_of):
    async with agent_of() as agent:
        client = await connect(agent, greeting=encode(Hello("future", 1, (9, 1))))
        (refusal,) = await client.until_closed()
        assert isinstance(refusal.exception(), LocalFault)
        assert "9.1" in refusal.exception().message


async def test_who_never_says_hello_is_put_out(agent_of):
    async with agent_of(ServerOptions(hello_s=0.05)) as agent:
        client = await connect(agent, greeting=b"\x00")
        (refusal,) = await client.until_closed()
        assert isinstance(refusal.exception(), Untrusted)


async def test_a_stalled_reader_bounds_the_queue_and_delays_nobody_else(agent_of):
    async with agent_of(ServerOptions(max_queued_bytes=64 * 1024)) as agent:
        stalled = await connect(agent)
        await stalled.send(encode(Request(1, "flood", {"count": 2000})))
        other = await connect(agent)
        await other.send(encode(Request(1, "flood", {"count": 100})))
        assert isinstance(await other.answer_to(1), Result)
        items, answer = 0, None
        while answer is None:  # now it reads: nothing of what has to arrive was dropped
            match await stalled.next():
                case Item():
                    items += 1
                case Result() as result:
                    answer = result
        assert items == 2000


async def test_progress_for_a_stalled_reader_is_coalesced_and_its_last_one_arrives(agent_of):
    async with agent_of() as agent:
        client = await connect(agent)
        await client.send(encode(Request(1, "progress_only", {"count": 20_000})))
        await trio.sleep(0.2)
        steps, answer = [], None
        while answer is None:
            match await client.next():
                case Progress(fields=fields):
                    steps.append(fields["step"])
                case Result() as result:
                    answer = result
        assert steps == sorted(steps)
        assert len(steps) < 20_000
        assert steps[-1] == 19_999


async def test_one_client_too_many_is_told_so_and_room_is_made_when_one_leaves(agent_of):
    async with agent_of(ServerOptions(max_clients=2)) as agent:
        first, _second, third = [await connect(agent) for _ in range(3)]
        (refusal,) = await third.until_closed()
        assert isinstance(refusal.exception(), Unavailable)
        await first.stream.aclose()
        while agent.clients.connected > 1:  # noqa: ASYNC110 - no event says "one left"
            await trio.sleep(0.001)
        fourth = await connect(agent)
        await fourth.send(encode(Request(1, "gc", {})))
        assert isinstance(await fourth.answer_to(1), Result)


async def test_one_request_too_many_fails_alone(agent_of):
    async with agent_of(ServerOptions(max_requests=2)) as agent:
        client = await connect(agent)
        for number in (1, 2, 3):
            await client.send(encode(Request(number, "get", {"ref": "hang"})))
        assert isinstance((await client.answer_to(3)).exception(), Unavailable)
        await client.send(encode(Cancel(4, 1)))
        assert isinstance((await client.answer_to(1)).exception(), Interrupted)
        await client.send(encode(Request(5, "gc", {})))
        assert isinstance(await client.answer_to(5), Result)


async def test_an_answer_that_does_not_fit_a_frame_is_an_error_and_not_the_end(agent_of):
    async with agent_of() as agent:
        client = await connect(agent)
        await client.send(encode(Request(1, "huge", {})))
        assert isinstance((await client.answer_to(1)).exception(), LocalFault)
        await client.send(encode(Request(2, "gc", {})))
        assert isinstance(await client.answer_to(2), Result)


async def test_a_silent_request_shows_that_the_agent_lives(agent_of):
    async with agent_of(ServerOptions(heartbeat_s=0.02)) as agent:
        client = await connect(agent)
        await client.send(encode(Request(1, "get", {"ref": "hang"})))
        beats = [await client.next() for _ in range(4)]
        assert Progress(0, {}) in beats


async def test_a_bug_in_one_request_is_told_and_logged_and_ends_nothing_else(agent_of, caplog):
    async with agent_of() as agent:
        client, other = await connect(agent), await connect(agent)
        await other.send(encode(Request(1, "get", {"ref": "hang"})))
        await client.send(encode(Request(1, "get", {"ref": "bug"})))
        failure = await client.answer_to(1)
        assert "KeyError" in failure.exception().message
        assert "Traceback" in caplog.text
        await client.send(encode(Request(2, "gc", {})))
        assert isinstance(await client.answer_to(2), Result)
        await other.send(encode(Cancel(2, 1)))
        assert isinstance((await other.answer_to(1)).exception(), Interrupted)


async def test_a_second_agent_on_a_live_socket_is_refused(agent_of):
    async with agent_of() as agent:
        with pytest.raises(LocalFault, match="already running"):
            await serve(agent.path, ScriptedService())
        client = await connect(agent)  # and the first one still answers
        await client.send(encode(Request(1, "gc", {})))
        assert isinstance(await client.answer_to(1), Result)


async def test_a_dead_agents_socket_file_is_replaced(home, agent_of):
    dead = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    dead.bind(os.fspath(config.socket_path(home)))
    dead.close()  # as kill -9 leaves it: the file stays, nobody listens
    async with agent_of() as agent:
        await connect(agent)


async def test_a_file_in_the_way_is_not_removed(home):
    path = config.socket_path(home)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")
    with pytest.raises(LocalFault, match="not a socket"):
        await serve(path, ScriptedService())
    assert path.read_text() == "mine"


async def test_a_folder_that_others_can_write_to_is_refused(tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(LocalFault, match="other users"):
        await serve(shared / "s", ScriptedService())


async def test_a_server_that_was_replaced_leaves_the_new_socket_alone(agent_of, home):
    async with agent_of() as agent:
        agent.path.unlink()
        successor = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        successor.bind(os.fspath(agent.path))
    assert agent.path.exists()
    successor.close()
