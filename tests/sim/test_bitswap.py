"""Bitswap between hosts in memory, in virtual time."""

from __future__ import annotations

import hashlib
import threading
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from random import Random
from types import SimpleNamespace

import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock

from p2pcache.content import cid as cids
from p2pcache.content import varint
from p2pcache.content.blocks import MAX_BLOCK_BYTES
from p2pcache.content.unixfs_read import parse_node
from p2pcache.errors import NotFound, Unavailable, Untrusted
from p2pcache.net.bitswap import wire
from p2pcache.net.bitswap.driver import Bitswap, BitswapOptions, open_bitswap
from p2pcache.net.bitswap.machine import MAX_UNASKED
from p2pcache.net.bitswap.wire import Block, Entry, Message
from p2pcache.net.memory import MemoryHost, open_memory_net
from tests.support.bitswap_store import MemoryBlocks
from tests.support.members import peer

NEW, OLD = wire.PROTOCOLS
PREFIX = b"\x01\x55\x12\x20"


@pytest.fixture
def autojump_clock():
    return MockClock(autojump_threshold=0)


@dataclass
class Node:
    host: MemoryHost
    blocks: MemoryBlocks
    bitswap: Bitswap

    async def get(self, cid: bytes, timeout_s: float = 20, *, patient: bool = False) -> bytes:
        async with self.bitswap.session() as session:
            return await session.get(cid, timeout_s=timeout_s, patient=patient)


@asynccontextmanager
async def a_node(net, number: int, find=None, **options):
    host, blocks = net.host(peer(number)), MemoryBlocks()
    for name in ("parsed_here_bytes", "hashed_here_bytes"):
        options.setdefault(name, 1 << 30)  # virtual time does not wait for threads
    async with open_bitswap(host, blocks, BitswapOptions(**options), find) as bitswap:
        blocks.tell = bitswap.arrived
        await trio.lowlevel.checkpoint()  # its handlers are there
        yield Node(host, blocks, bitswap)


@asynccontextmanager
async def world(count: int, deadline_s: float = 120, **options):
    """Nodes that are all connected to the first."""
    with trio.fail_after(deadline_s):
        async with open_memory_net() as net, trio.open_nursery() as nursery:
            nodes = []

            async def run(number, task_status):
                async with a_node(net, number, **options) as node:
                    task_status.started(node)
                    await trio.sleep_forever()

            for number in range(count):
                nodes.append(await nursery.start(run, number))
            for node in nodes[1:]:
                await meet(nodes[0], node)
            yield nodes
            nursery.cancel_scope.cancel()
            assert not net.handler_errors


async def meet(a: Node, b: Node) -> None:
    await a.host.connect(b.host.peer_id, b.host.addresses(), timeout_s=5)
    await trio.sleep(0.01)


class Stranger:
    """A host that says what a test wants, and hears what is said to it."""

    def __init__(self, net, number: int, protocols=wire.PROTOCOLS) -> None:
        self.host = net.host(peer(number))
        self.heard: list[Message] = []
        for protocol in protocols:
            self.host.set_handler(protocol, self._read)

    async def _read(self, stream) -> None:
        with suppress(Unavailable):
            await self._read_all(stream)

    async def _read_all(self, stream) -> None:
        while True:
            size = place = 0
            while True:
                byte = (await stream.receive_exactly(1))[0]
                size |= (byte & 127) << 7 * place
                place += 1
                if byte < 128:
                    break
            self.heard.append(wire.parse(await stream.receive_exactly(size)))

    async def says(self, node: Node, *messages: Message | bytes, protocol: str = NEW):
        stream = await self.host.open_stream(node.host.peer_id, protocol, timeout_s=5)
        for message in messages:
            await stream.send_all(message if isinstance(message, bytes) else wire.frame(message))
        return stream

    def entries(self) -> list[Entry]:
        return [entry for message in self.heard for entry in message.entries]

    def wanted(self) -> list[bytes]:
        return [entry.cid for entry in self.entries() if not entry.cancel]

    def blocks(self) -> list[bytes]:
        return [block.data for message in self.heard for block in message.blocks]


@asynccontextmanager
async def a_stranger(protocols=wire.PROTOCOLS, **options):
    """A node, and a stranger that is connected to it."""
    with trio.fail_after(120):
        async with open_memory_net() as net, a_node(net, 0, **options) as node:
            stranger = Stranger(net, 1, protocols)
            await stranger.host.connect(peer(0), node.host.addresses(), timeout_s=5)
            await trio.sleep(0.01)
            yield node, stranger


async def until(true, within_s: float = 5) -> float:
    started = trio.current_time()
    with trio.fail_after(within_s):
        while not true():  # noqa: ASYNC110 - virtual time
            await trio.sleep(0.001)
    return trio.current_time() - started


async def test_a_file_is_fetched_from_those_that_have_it(autojump_clock):
    async with world(4) as (reader, *holders):
        data = Random(1).randbytes(10_000_000)
        roots = {node.blocks.add_file(data).cid for node in holders}
        assert len(roots) == 1
        async with reader.bitswap.session() as session:
            root = await session.get(roots.pop(), timeout_s=5)
            got: dict[int, bytes] = {}

            async def one(number: int, cid: bytes) -> None:
                got[number] = await session.get(cid, timeout_s=20)

            async with trio.open_nursery() as nursery:
                for number, link in enumerate(parse_node(root).links):
                    nursery.start_soon(one, number, link.cid)
        assert b"".join(got[number] for number in sorted(got)) == data
        sent = [node.bitswap.statistics().get("blocks_sent_total", 0) for node in holders]
        assert sum(sent) == len(got) + 3, "no block came twice but the root, which is so short"
        assert sum(count > 1 for count in sent) >= 2, "several gave some"
        await trio.sleep(1)
        for node in (reader, *holders):
            assert node.bitswap.statistics()["wants_of_peers"] == 0


async def test_a_block_that_arrives_late_is_served_at_once(autojump_clock):
    async with world(2) as (reader, holder):
        data = b"late" * 1000
        cid = cids.raw_cid(hashlib.sha256(data).digest())
        took: list[float] = []

        async def read() -> None:
            assert await reader.get(cid, patient=True) == data
            took.append(trio.current_time())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.sleep(3)
            put_at = trio.current_time()
            holder.blocks.put(data)
        assert took[0] - put_at < 0.01


async def test_when_many_blocks_came_at_once_those_that_are_waited_for_are_served(autojump_clock):
    async with world(2) as (reader, holder):
        tell, holder.blocks.tell = holder.blocks.tell, lambda _: None
        data = b"late" * 1000
        async with trio.open_nursery() as nursery:
            cid = cids.raw_cid(hashlib.sha256(data).digest())
            nursery.start_soon(lambda: reader.get(cid, patient=True))
            await trio.sleep(1)
            holder.blocks.put(data)
            tell(None)
            await until(lambda: not reader.bitswap.statistics()["wants"], 0.1)


async def test_what_nobody_has_is_not_found_at_once(autojump_clock):
    async with world(3) as (reader, *_):
        started = trio.current_time()
        with pytest.raises(NotFound, match="no peer has the block"):
            await reader.get(cids.raw_cid(bytes(32)))
        assert trio.current_time() - started < 0.1


async def test_the_block_of_no_bytes_needs_nobody(autojump_clock):
    async with world(1) as (reader,):
        assert await reader.get(cids.raw_cid(hashlib.sha256().digest())) == b""


async def test_without_any_peer_nothing_is_found(autojump_clock):
    async with world(1) as (reader,):
        with pytest.raises(NotFound):
            await reader.get(cids.raw_cid(bytes(32)))


async def test_a_block_is_asked_for_and_given_by_the_version_0_of_its_name(autojump_clock):
    async with world(2) as (reader, holder):
        cid = holder.blocks.put(b"node", cids.DAG_PB)
        assert await reader.get(cids.as_v0(cid)) == b"node"


async def test_a_frozen_peer_is_passed_over(autojump_clock):
    async with world(3) as (reader, frozen, good):
        cid = good.blocks.put(b"x" * 5000)
        frozen.blocks.put(b"x" * 5000)
        frozen.host.freeze()
        started = trio.current_time()
        assert await reader.get(cid, 30)
        assert trio.current_time() - started < 1, "who says that it has it is asked"


async def test_a_peer_that_says_yes_and_never_sends_is_passed_over(autojump_clock):
    async with open_memory_net() as net, a_node(net, 0) as node, a_node(net, 2) as good:
        stranger = Stranger(net, 1)
        await stranger.host.connect(peer(0), node.host.addresses(), timeout_s=5)
        await meet(node, good)
        cid = good.blocks.put(b"x" * 5000)
        async with trio.open_nursery() as nursery:

            async def lie() -> None:
                await until(stranger.wanted)
                await stranger.says(node, Message(haves=(cid,)))

            nursery.start_soon(lie)
            good.host.frozen = True  # so that the liar is the first to say something
            got: list[bytes] = []

            async def read() -> None:
                got.append(await node.get(cid, 60))

            nursery.start_soon(read)
            await trio.sleep(1)
            good.host.thaw()
            assert await until(lambda: got, 10) < 6
        assert Entry(cid, cancel=True) in stranger.entries()


async def test_who_leaves_a_get_leaves_no_want_behind(autojump_clock):
    async with a_stranger() as (node, stranger):
        cid = cids.raw_cid(bytes(32))
        with trio.move_on_after(1):
            await node.get(cid, patient=True)
        await until(lambda: Entry(cid, cancel=True) in stranger.entries())
        assert node.bitswap.statistics()["wants"] == 0


async def test_a_silent_peer_costs_the_timeout_and_its_want_is_cancelled(autojump_clock):
    async with a_stranger() as (node, stranger):
        cid = cids.raw_cid(bytes(32))
        with pytest.raises(Unavailable, match="in 3 s"):
            await node.get(cid, 3)
        await until(lambda: Entry(cid, cancel=True) in stranger.entries())


async def test_two_that_want_the_same_block_ask_once(autojump_clock):
    async with a_stranger() as (node, stranger):
        data = b"shared" * 1000
        cid = cids.raw_cid(hashlib.sha256(data).digest())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.get, cid)
            nursery.start_soon(node.get, cid)
            await until(stranger.wanted)
            await stranger.says(node, Message(blocks=(Block(PREFIX, data),)))
        assert stranger.wanted() == [cid]


async def test_blocks_that_were_not_asked_for_are_dropped_and_end_in_silence(autojump_clock):
    async with a_stranger(mute_s=60.0) as (node, stranger):
        junk = [Block(PREFIX, b"junk %d" % number) for number in range(MAX_UNASKED + 1)]
        await stranger.says(node, Message(blocks=tuple(junk[:-1])))
        await trio.sleep(0.1)
        assert node.bitswap.statistics()["muted"] == 0
        await stranger.says(node, Message(blocks=(junk[-1],)))
        await until(lambda: node.bitswap.statistics()["muted"] == 1)
        node.blocks.put(b"here")
        here = cids.raw_cid(hashlib.sha256(b"here").digest())
        with suppress(Unavailable):
            await stranger.says(node, Message((Entry(here),)))
        await trio.sleep(1)
        assert not stranger.heard, "it is not listened to"
        await trio.sleep(60)
        await stranger.says(node, Message((Entry(here),)))
        await until(stranger.blocks)


async def muted(node: Node, stranger: Stranger) -> None:
    with suppress(Unavailable):
        await stranger.says(node, b"\x01\x0b")
    await until(lambda: node.bitswap.statistics()["muted"] == 1)


async def test_who_is_muted_and_comes_back_is_asked_for_nothing_until_that_ends(autojump_clock):
    async with a_stranger(mute_s=60.0) as (node, stranger):
        await muted(node, stranger)
        node.host.cut(stranger.host.peer_id)
        await trio.sleep(0.1)
        await stranger.host.connect(peer(0), node.host.addresses(), timeout_s=5)
        await trio.sleep(0.1)
        with pytest.raises(NotFound):
            await node.get(cids.raw_cid(bytes(32)))
        await trio.sleep(1)
        assert not stranger.heard
        await trio.sleep(60)
        assert node.bitswap.statistics()["muted"] == 0
        with pytest.raises(Unavailable):  # it is silent
            await node.get(cids.raw_cid(bytes(32)), 3)
        assert stranger.wanted() == [cids.raw_cid(bytes(32))]


async def test_a_provider_that_is_muted_is_neither_connected_nor_asked(autojump_clock):
    @asynccontextmanager
    async def find(cid):
        async def found():
            yield peer(1), stranger.host.addresses()

        yield found()

    async with a_stranger(mute_s=60.0, find=find) as (node, stranger):
        await muted(node, stranger)
        node.host.cut(stranger.host.peer_id)
        await trio.sleep(0.1)
        with pytest.raises(NotFound):
            await node.get(cids.raw_cid(bytes(32)))
        await trio.sleep(1)
        assert not stranger.heard
        assert peer(1) not in node.host.connected()


async def test_the_other_streams_of_who_is_muted_end(autojump_clock):
    async with a_stranger() as (node, stranger):
        here = node.blocks.put(b"here")
        stream = await stranger.says(node)
        await trio.sleep(0.1)
        await muted(node, stranger)
        await stream.send_all(wire.frame(Message((Entry(here),))))
        await trio.sleep(1)
        assert not stranger.heard
        assert stream._eof_at is not None


async def test_a_long_message_is_parsed_in_a_thread(monkeypatch):
    threads: list[int] = []
    real = wire.parse

    def parse(data: bytes) -> Message:
        threads.append(threading.get_ident())
        return real(data)

    monkeypatch.setattr(wire, "parse", parse)
    least = BitswapOptions().parsed_here_bytes
    async with a_stranger(parsed_here_bytes=least) as (node, stranger):
        for size in (least, least + 2):
            count = len(threads)
            await stranger.says(node, varint.encode(size) + b"\x28\x00" * (size // 2))
            await until(lambda count=count: len(threads) > count)
        assert threads[0] == threading.get_ident()
        assert threads[1] != threading.get_ident()


@pytest.mark.parametrize(
    "data",
    [
        varint.encode(wire.MAX_MESSAGE_BYTES + 1),
        varint.encode(1 << 30),
        b"\xff" * 12,
        b"\x01\x0b",
        b"\x04\x0a\x02\x0a\x00",
    ],
    ids=["4 MiB", "1 GiB", "no varint", "no protobuf", "an entry of nothing"],
)
async def test_who_breaks_the_rules_is_not_listened_to(autojump_clock, data):
    async with a_stranger() as (node, stranger):
        await stranger.says(node, data)
        await until(lambda: node.bitswap.statistics()["muted"] == 1)


async def test_a_million_wants_are_refused(autojump_clock):
    async with a_stranger() as (node, stranger):
        entries = tuple(Entry(cids.raw_cid(n.to_bytes(32, "big"))) for n in range(wire.MAX_ITEMS))
        await stranger.says(node, Message(entries))
        await trio.sleep(1)
        assert node.bitswap.statistics()["wants_of_peers"] == 4096
        assert node.bitswap.statistics()["muted"] == 0
        more = (*entries, Entry(cids.raw_cid(bytes(32))))
        await stranger.says(node, Message(more))
        await until(lambda: node.bitswap.statistics()["muted"] == 1)
        assert node.bitswap.statistics()["wants_of_peers"] == 0


async def test_a_ninth_stream_of_one_peer_is_closed(autojump_clock):
    async with a_stranger() as (node, stranger):
        streams = [await stranger.says(node) for _ in range(9)]
        await trio.sleep(0.1)
        assert sum(stream._eof_at is not None for stream in streams) == 1


async def test_a_message_that_drips_is_given_up(autojump_clock):
    async with a_stranger(message_s=5.0) as (node, stranger):
        stream = await stranger.says(node, varint.encode(1 << 20) + b"x" * 1000)
        await until(lambda: stream._eof_at is not None, 6)


async def test_a_block_of_2_mib_passes_and_of_3_mib_does_not(autojump_clock):
    async with world(2) as (reader, holder):
        most = holder.blocks.put(bytes(MAX_BLOCK_BYTES))
        more = holder.blocks.put(bytes(3 << 20))
        assert len(await reader.get(most)) == MAX_BLOCK_BYTES
        with pytest.raises(NotFound):  # it does not serve what nobody takes
            await reader.get(more)


async def test_a_wanted_block_of_3_mib_is_refused_by_its_reader(autojump_clock):
    async with a_stranger() as (node, stranger):
        data = bytes(3 << 20)
        cid = cids.raw_cid(hashlib.sha256(data).digest())

        async def answer() -> None:
            await until(stranger.wanted)
            await stranger.says(node, Message(blocks=(Block(PREFIX, data),)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            with pytest.raises(Untrusted, match="3145728 bytes"):
                await node.get(cid)


async def test_other_bytes_are_not_the_block(autojump_clock):
    async with a_stranger() as (node, stranger):
        cid = cids.raw_cid(hashlib.sha256(b"right").digest())

        async def answer() -> None:
            await until(stranger.wanted)
            await stranger.says(node, Message(blocks=(Block(PREFIX, b"wrong"),)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            with pytest.raises(Unavailable):
                await node.get(cid, 3)
        assert node.bitswap.statistics()["blocks_not_asked_for_total"] == 1


async def test_a_peer_of_protocol_1_1_hears_no_presences_and_is_asked_for_blocks(autojump_clock):
    async with a_stranger(protocols=(OLD,)) as (node, stranger):
        here = node.blocks.put(b"here")
        not_here = cids.raw_cid(bytes(32))
        await stranger.says(
            node, Message((Entry(here), Entry(not_here, dont_have=True))), protocol=OLD
        )
        await until(stranger.blocks)
        assert not any(message.dont_haves for message in stranger.heard)
        data = b"theirs"
        cid = cids.raw_cid(hashlib.sha256(data).digest())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.get, cid)
            await until(lambda: cid in stranger.wanted())
            await stranger.says(node, Message(blocks=(Block(PREFIX, data),)), protocol=OLD)


async def test_who_left_is_remembered_for_nothing(autojump_clock):
    async with a_stranger() as (node, stranger):
        await stranger.says(node, Message((Entry(cids.raw_cid(bytes(32))),)))
        await until(lambda: node.bitswap.statistics()["wants_of_peers"] == 1)
        node.host.cut(stranger.host.peer_id)
        await until(lambda: node.bitswap.statistics()["wants_of_peers"] == 0, 1)


async def test_a_peer_without_bitswap_is_asked_for_nothing(autojump_clock):
    async with a_stranger(protocols=()) as (node, _):
        with pytest.raises(NotFound):
            await node.get(cids.raw_cid(bytes(32)))


async def test_providers_are_looked_up_once_and_asked(autojump_clock):
    async with open_memory_net() as net, a_node(net, 1) as holder:
        looked_up = []

        @asynccontextmanager
        async def find(cid):
            looked_up.append(cid)

            async def found():
                yield holder.host.peer_id, holder.host.addresses()

            yield found()

        async with a_node(net, 0, find) as reader:
            cid = holder.blocks.put(b"x" * 5000)
            assert await reader.get(cid) == b"x" * 5000
            assert looked_up == [cid]
            for _ in range(3):
                with pytest.raises(NotFound):
                    await reader.get(cids.raw_cid(bytes(32)))
            assert looked_up == [cid, cids.raw_cid(bytes(32))]


async def test_a_slow_look_up_is_not_begun_again_while_it_lasts(autojump_clock):
    looked_up = []

    @asynccontextmanager
    async def find(cid):
        looked_up.append(cid)
        await trio.sleep(20)

        async def nobody():
            for one in ():
                yield one

        yield nobody()

    async with open_memory_net() as net, a_node(net, 0, find) as node:
        cid = cids.raw_cid(bytes(32))
        with pytest.raises(Unavailable):
            await node.get(cid, 19, patient=True)
        assert looked_up == [cid]
        await trio.sleep(2)
        with pytest.raises(Unavailable):
            await node.get(cid, 10, patient=True)
        assert looked_up == [cid, cid], "it may begin when the first has ended"


@pytest.mark.parametrize("close_s", [0.5, 1e6], ids=["slow", "hangs"])
async def test_a_stream_is_closed_also_when_bitswap_ends_and_for_a_while_only(
    autojump_clock, close_s
):
    async with open_memory_net() as net:
        closed = []

        async def aclose() -> None:
            await trio.sleep(close_s)
            closed.append(1)

        async def open_stream(*args, **kwargs):
            stream = await real(*args, **kwargs)
            return SimpleNamespace(peer=stream.peer, send_all=stream.send_all, aclose=aclose)

        async with a_node(net, 0) as node:
            stranger = Stranger(net, 1)
            await stranger.host.connect(peer(0), node.host.addresses(), timeout_s=5)
            await trio.sleep(0.01)
            real, node.host.open_stream = node.host.open_stream, open_stream
            with pytest.raises(Unavailable):
                await node.get(cids.raw_cid(bytes(32)), 1)
            started = trio.current_time()
        assert trio.current_time() - started < 3
        assert bool(closed) == (close_s < 1)


async def test_what_was_lost_with_a_stream_is_said_again(autojump_clock):
    async with a_stranger(protocols=()) as (node, stranger):
        streams = []

        async def hang_up_once(stream) -> None:
            streams.append(stream)
            if len(streams) > 1:
                await stranger._read(stream)

        stranger.host.set_handler(NEW, hang_up_once)
        both = [cids.raw_cid(bytes([number]) * 32) for number in range(2)]
        async with trio.open_nursery() as nursery:
            for cid in both:
                nursery.start_soon(lambda cid=cid: node.get(cid, patient=True))
                await trio.sleep(0.5)
            await until(lambda: set(both) <= set(stranger.wanted()), 1)
            nursery.cancel_scope.cancel()


async def test_a_peer_that_comes_back_is_asked_again(autojump_clock):
    async with world(2) as (reader, holder):
        cid = holder.blocks.put(b"x" * 5000)
        got: list[bytes] = []

        async def read() -> None:
            got.append(await reader.get(cid, patient=True))

        reader.host.cut(holder.host.peer_id)
        await trio.sleep(0.1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.sleep(1)
            await meet(reader, holder)
            await until(lambda: got, 1)


async def test_a_disk_that_cannot_be_read_serves_nothing_and_harms_nobody(autojump_clock):
    async with world(2) as (reader, holder):
        cid = holder.blocks.put(b"x" * 5000)
        real = holder.blocks.length

        async def length(cid):
            size = await real(cid)
            holder.blocks._held.clear()  # it goes between the look and the read
            return size

        holder.blocks.length = length
        with pytest.raises(NotFound):
            await reader.get(cid)
