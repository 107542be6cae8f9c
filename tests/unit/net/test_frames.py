"""Noise's messages and yamux's frames in bulk: bounded, and without needless waits."""

from __future__ import annotations

import struct
from random import Random
from types import SimpleNamespace

import pytest
import trio
from libp2p.io.exceptions import ConnectionClosedError, IncompleteReadError
from libp2p.stream_muxer.exceptions import MuxedStreamError
from trio.testing import MockClock

from p2pcache.net import frames
from p2pcache.net.frames import BATCH_BYTES, FRAME_BYTES, GIVES_WAY, MAX_UNREAD_BYTES, Frames

DATA, CREDIT, PING = 0, 1, 2
SYN, ACK, FIN = 1, 2, 4
PIECES = [5, 13, 4096, 1 << 20]


@pytest.fixture
def autojump_clock():
    return MockClock(autojump_threshold=0)


def frame(kind: int, flags: int, stream: int, length: int, body: bytes = b"") -> bytes:
    return struct.pack("!BBHII", 0, kind, flags, stream, length) + body


def sealed(data: bytes, most: int = 65519) -> bytes:
    """As noise messages, whose cipher is: twice zero behind."""
    parts = [data[at : at + most] for at in range(0, len(data), most)]
    return b"".join((len(part) + 2).to_bytes(2, "big") + part + bytes(2) for part in parts)


class Noise:
    """A session that has no secrets, over bytes that come in pieces."""

    def __init__(self, came: bytes = b"", piece: int = 1 << 20) -> None:
        self.conn = self.read_writer = self.read_write_closer = self
        self.sent: list[bytes] = []
        self._came = [came[at : at + piece] for at in range(0, len(came), piece)]

    async def read(self, n: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        return self._came.pop(0) if self._came else b""

    async def write(self, data: bytes) -> None:
        self.sent.append(data)

    def encrypt(self, data: bytes) -> bytes:
        assert type(data) is bytes
        return data + bytes(2)

    def decrypt(self, data: bytes) -> bytes:
        assert type(data) is bytes
        assert data.endswith(bytes(2))
        return data[:-2]

    def _drain(self, n: int | None) -> bytes:
        return b""


class Stream(SimpleNamespace):
    def __init__(self, number: int, conn) -> None:
        super().__init__(
            stream_id=number, conn=conn, send_window=256 << 10, recv_window=256 << 10,
            target_recv_window=256 << 10, epoch_start=0.0, send_closed=False, closed=False,
        )  # fmt: skip


class Muxer(SimpleNamespace):
    def __init__(self, *streams: int) -> None:
        super().__init__(peer_id="somebody", written=[])
        self.streams = {number: Stream(number, self) for number in streams}
        self.stream_buffers = {number: bytearray() for number in streams}
        self.stream_events = {number: trio.Event() for number in streams}

    async def _write_frame(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.written.append(data)

    def rtt(self) -> float:
        return 0.0


@pytest.mark.parametrize("piece", PIECES)
async def test_usual_frames_reach_their_streams_and_the_others_are_handed_on(piece: int):
    body = Random(1).randbytes(200_000)
    said = (
        frame(DATA, 0, 1, 100_000, body[:100_000])
        + frame(CREDIT, ACK, 1, 5000)
        + frame(PING, SYN, 0, 77)
        + frame(DATA, ACK, 1, 100_000, body[100_000:])
        + frame(CREDIT, 0, 9, 5)  # a stream that is closed
        + frame(DATA, 0, 9, 3, b"xyz")
        + frame(DATA, FIN, 1, 4, b"last")
    )
    muxer = Muxer(1)
    link = Frames(Noise(sealed(said, 999), piece), muxer)
    assert await link.read(12) == frame(PING, SYN, 0, 77)
    assert await link.read(12) == frame(DATA, FIN, 1, 4)
    assert await link.body(4) == b"last"
    assert muxer.stream_buffers[1] == body
    assert muxer.streams[1].send_window == (256 << 10) + 5000
    assert muxer.streams[1].recv_window == (256 << 10) - len(body)
    assert muxer.stream_events[1].is_set()
    with pytest.raises(IncompleteReadError):
        await link.read(12)


async def test_the_end_in_the_middle_of_a_body_is_the_end():
    link = Frames(Noise(sealed(frame(DATA, 0, 1, 100, b"short"))), Muxer(1))
    with pytest.raises(IncompleteReadError):
        await link.read(12)
    link = Frames(Noise(sealed(b"short")), Muxer(1))
    with pytest.raises(IncompleteReadError):
        await link.body(100)


async def test_a_flood_of_tiny_frames_lets_others_run():
    count = 10_000
    link = Frames(Noise(sealed(frame(DATA, 0, 1, 1, b"x") * count)), Muxer(1))
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        with pytest.raises(IncompleteReadError):
            await link.read(12)
        nursery.cancel_scope.cancel()
    assert turns >= count // GIVES_WAY


@pytest.mark.parametrize("flags", [0, FIN])
async def test_what_nobody_reads_is_bounded(flags: int):
    muxer = Muxer(1, 2)
    muxer.stream_buffers[2] = bytearray(MAX_UNREAD_BYTES - 10)
    link = Frames(Noise(sealed(frame(DATA, flags, 1, 11, b"x" * 11))), muxer)

    async def read() -> None:
        await link.read(12)
        await link.body(11)

    with pytest.raises(trio.TooSlowError):
        await read()


async def test_a_body_that_drips_is_given_up(autojump_clock):
    class Drips(Noise):
        async def read(self, n: int | None = None) -> bytes:
            await trio.sleep(1)
            return sealed(b"x")

    muxer = Muxer(1)
    link = Frames(Drips(), muxer)
    link._sealed._open = memoryview(frame(DATA, 0, 1, 1000))
    with pytest.raises(trio.TooSlowError):
        await link.read(12)
    assert trio.current_time() < 1000


async def test_a_large_write_leaves_in_batches_of_whole_messages():
    muxer, data = Muxer(1), Random(2).randbytes(1_000_000)
    muxer.streams[1].send_window = 2_000_000
    await frames.write(muxer.streams[1], data)
    assert len(muxer.written) == -(-len(data) // BATCH_BYTES)
    noise = Noise()
    await frames.Sealed(noise).write(muxer.written[0])
    assert len(noise.sent) == 1
    assert len(noise.sent[0]) == 4 * (2 + FRAME_BYTES + 12 + 2)
    read = Muxer(1)
    read.streams[1].recv_window = 2_000_000
    link = Frames(Noise(sealed(b"".join(muxer.written))), read)
    with pytest.raises(IncompleteReadError):
        await link.read(12)
    assert read.stream_buffers[1] == data
    assert muxer.streams[1].send_window == 1_000_000


async def test_who_waits_for_credit_writes_when_it_comes(autojump_clock):
    muxer = Muxer(1)
    stream = muxer.streams[1]
    stream.send_window = 10
    link = Frames(Noise(sealed(frame(CREDIT, 0, 1, 100))), muxer)

    async def give() -> None:
        await trio.sleep(3.05)
        with pytest.raises(IncompleteReadError):
            await link.read(12)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(give)
        await frames.write(stream, bytes(50))
    assert trio.current_time() == pytest.approx(3.05, abs=0.01)
    assert [len(one) - 12 for one in muxer.written] == [10, 40]


async def test_who_gets_no_credit_or_whose_stream_ends_is_told(autojump_clock):
    stream = Muxer(1).streams[1]
    stream.send_window = 0
    with pytest.raises(MuxedStreamError, match="no credit for 5 s"):
        await frames.write(stream, b"x")
    assert trio.current_time() == pytest.approx(5, abs=0.2)

    async def end() -> None:
        await trio.sleep(1)
        stream.closed = True

    async with trio.open_nursery() as nursery:
        nursery.start_soon(end)
        with pytest.raises(MuxedStreamError, match="closed"):
            await frames.write(stream, b"x")
    assert trio.current_time() == pytest.approx(6, abs=0.3)


async def test_credit_is_given_in_halves_and_a_fast_stream_gets_more(autojump_clock):
    given = []

    async def update(increment: int) -> None:
        given.append(increment)

    stream = Muxer(1).streams[1]
    stream.send_window_update = update
    await trio.sleep(1)
    await frames.give_credit(stream, bytes_read=(128 << 10) - 1)
    assert given == []
    await frames.give_credit(stream, bytes_read=1)
    assert given == [(4 << 20) - (128 << 10)], "what was read, and the wider window"
    await trio.sleep(1)
    await frames.give_credit(stream, bytes_read=2 << 20)
    assert given[1:] == [2 << 20], "it is slow: no wider"
    await frames.give_credit(stream, bytes_read=2 << 20)
    assert given[2:] == [(2 << 20) + (12 << 20)]
    await frames.give_credit(stream, bytes_read=8 << 20)
    assert given[3:] == [8 << 20], "it has the widest"


@pytest.mark.parametrize(("flags", "stream"), [(0, 1), (FIN, 1), (SYN, 9)])
async def test_who_sends_beyond_its_window_is_cut_off(flags: int, stream: int):
    muxer = Muxer(1)
    link = Frames(Noise(sealed(frame(DATA, flags, stream, (256 << 10) + 1))), muxer)
    with pytest.raises(trio.TooSlowError, match="window"):
        await link.read(12)
    assert muxer.stream_buffers == {1: bytearray()}


async def test_nothing_behind_a_message_that_does_not_decrypt_is_believed():
    good, bad = sealed(frame(PING, SYN, 0, 1)), (6).to_bytes(2, "big") + b"forged"
    link = Frames(Noise(bad + good, piece=len(bad)), Muxer(1))
    with pytest.raises(ConnectionClosedError):
        await link.read(12)
    with pytest.raises(IncompleteReadError):
        await link.read(12)
