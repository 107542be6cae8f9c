"""The defects of py-libp2p that p2pcache mends, each shown with the library alone.

`python -m tests.support.libp2p_defects NAME stock|fixed` prints `defect` or `fine`. A process for
each, as the patches are made once and for all. None of p2pcache but the patches is used here.
"""

from __future__ import annotations

import logging
import struct
import sys
from contextlib import asynccontextmanager, suppress

import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.peerinfo import PeerInfo
from libp2p.security.pnet.protector import new_protected_conn
from multiaddr import Multiaddr

from p2pcache.net import private_connection, py_libp2p_fixes

ECHO = "/test/echo/1"
MUCH_BYTES = 2 << 20  # eight windows


async def echo(stream):
    try:
        while True:
            await stream.write(await stream.read(5))
    except Exception:  # noqa: BLE001 - the end of the stream
        pass


async def deaf(_):
    await trio.sleep_forever()


async def much(stream):
    for _ in range(32):
        await stream.write(bytes(MUCH_BYTES // 32))


@asynccontextmanager
async def two():
    a, b = (new_host(key_pair=create_new_key_pair()) for _ in range(2))
    listen = [Multiaddr("/ip4/127.0.0.1/tcp/0")]
    async with a.run(listen), b.run(listen):
        b.set_stream_handler(ECHO, echo)
        await a.connect(PeerInfo(b.get_id(), b.get_addrs()))
        yield a, b, a.get_network().connections[b.get_id()][0]
        with trio.CancelScope(shield=True):
            await a.close()
            await b.close()


async def linked(a, b) -> bool:
    """Whether a still reaches b over the connection it has."""
    if not a.get_network().connections.get(b.get_id()):
        return False
    try:
        with trio.fail_after(2):
            stream = await a.new_stream(b.get_id(), [ECHO])
            await stream.write(b"hello")
            return await stream.read(5) == b"hello"
    except Exception:  # noqa: BLE001 - in whatever way: it does not
        return False


async def cancel_breaks_the_cipher() -> bool:
    async with two() as (a, b, conn):
        stream = await a.new_stream(b.get_id(), [ECHO])
        noise = conn.muxed_conn.secured_conn.conn
        encrypt = noise.encrypt
        with trio.CancelScope() as scope:

            def encrypt_and_cancel(data):
                scope.cancel()
                return encrypt(data)

            noise.encrypt = encrypt_and_cancel
            await stream.write(b"hello")
        noise.encrypt = encrypt
        return not await linked(a, b)


@asynccontextmanager
async def cancelled_behind_a_frame(conn):
    """The block is cancelled as soon as the next frame has left."""
    muxed = conn.muxed_conn
    write = muxed._write_frame
    with trio.CancelScope() as scope:

        async def write_and_cancel(frame):
            await write(frame)
            scope.cancel()

        muxed._write_frame = write_and_cancel
        yield
    muxed._write_frame = write
    await trio.sleep(0.2)


async def cancelled_open_leaks_a_stream() -> bool:
    async with two() as (a, b, conn):
        await trio.sleep(0.5)  # identify is over
        before = len(conn.muxed_conn.streams)
        async with cancelled_behind_a_frame(conn):
            await a.new_stream(b.get_id(), [ECHO])
        return len(conn.muxed_conn.streams) > before


async def cancelled_close_leaks_a_stream() -> bool:
    async with two() as (a, b, conn):
        stream = await a.new_stream(b.get_id(), [ECHO])
        async with cancelled_behind_a_frame(conn):
            await stream.close()
        return stream in conn.streams


async def cancelled_reset_leaks_a_stream() -> bool:
    async with two() as (a, b, conn):
        stream = await a.new_stream(b.get_id(), [ECHO])
        async with cancelled_behind_a_frame(conn):
            await stream.reset()
        return stream in conn.streams


async def handler_ends_the_host() -> bool:
    try:
        async with two() as (a, b, _):

            async def broken(stream):
                raise RuntimeError("broken")

            b.set_stream_handler("/test/broken/1", broken)
            with suppress(Exception):  # it may be reset before it is negotiated
                await a.new_stream(b.get_id(), ["/test/broken/1"])
            await trio.sleep(0.5)
            return not await linked(a, b)
    except BaseExceptionGroup:
        return True


async def window_is_not_kept() -> bool:
    async with two() as (a, b, conn):
        b.set_stream_handler("/test/deaf/1", deaf)
        stream = await a.new_stream(b.get_id(), ["/test/deaf/1"])
        header = struct.pack("!BBHII", 0, 0, 0, stream.muxed_stream.stream_id, 1 << 20)
        try:
            for _ in range(70):
                await conn.muxed_conn._write_frame(header + bytes(1 << 20))
        except Exception:  # noqa: BLE001 - it is not taken any more
            return False
        await trio.sleep(0.5)
        return bool(b.get_network().connections)


async def each_read_costs_a_frame() -> bool:
    """And what is read is given back in time all the same: eight windows of bytes arrive."""
    async with two() as (a, b, conn):
        stream = await a.new_stream(b.get_id(), [ECHO])
        muxed = conn.muxed_conn
        write, updates = muxed._write_frame, []

        async def counted(frame):
            updates.append(frame[1] == 1 and frame[2:4] == bytes(2))
            await write(frame)

        muxed._write_frame = counted
        for _ in range(20):
            await stream.write(b"hello")
            await stream.read(5)
        small = sum(updates)
        b.set_stream_handler("/test/much/1", much)
        stream = await a.new_stream(b.get_id(), ["/test/much/1"])
        with trio.fail_after(10):
            left = MUCH_BYTES
            while left:
                left -= len(await stream.read(1 << 16))
        return small > 2


async def a_write_takes_many_steps() -> bool:
    """Task steps of an uncontended write of one small frame, without its reader's."""
    async with two() as (a, b, _):
        b.set_stream_handler("/test/deaf/1", deaf)
        stream = await a.new_stream(b.get_id(), ["/test/deaf/1"])
        await trio.sleep(0.2)
        steps, me = 0, trio.lowlevel.current_task()

        class Count(trio.abc.Instrument):
            def before_task_step(self, task):
                nonlocal steps
                steps += task is me

        count = Count()
        trio.lowlevel.add_instrument(count)
        await stream.write(b"hello")
        trio.lowlevel.remove_instrument(count)
        return steps > 2


async def root_logger_is_used() -> bool:
    async with two():
        return bool(logging.getLogger().handlers)


async def private_network_is_not_the_spec() -> bool:
    """The spec: a nonce of 24 bytes goes first, each way."""
    sent = bytearray()

    class Sink:
        async def write(self, data):
            sent.extend(data)

    conn = RawConnection(Sink(), True)
    if sys.argv[2] == "stock":
        await new_protected_conn(conn, "00" * 32).write(b"x")
    else:
        await private_connection.PrivateConnection(conn, bytes(32)).write(b"x")
    nonce, said = bytes(sent[:24]), bytes(sent[24:])
    return private_connection.xsalsa20(bytes(32), nonce.ljust(24)).decrypt(said) != b"x"


PROBES = (
    cancel_breaks_the_cipher, cancelled_open_leaks_a_stream, cancelled_close_leaks_a_stream,
    cancelled_reset_leaks_a_stream, handler_ends_the_host, window_is_not_kept, root_logger_is_used,
    each_read_costs_a_frame, a_write_takes_many_steps, private_network_is_not_the_spec,
)  # fmt: skip


def main() -> None:
    logging.getLogger("libp2p").setLevel(logging.CRITICAL)
    _, name, kind = sys.argv
    if kind == "fixed":
        py_libp2p_fixes.apply()
    (probe,) = (probe for probe in PROBES if probe.__name__ == name)

    async def bounded() -> bool:
        with trio.fail_after(20):
            return await probe()

    print("defect" if trio.run(bounded) else "fine")


if __name__ == "__main__":
    main()
