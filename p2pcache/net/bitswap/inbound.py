"""Messages that peers send: read from the streams that they opened, parsed, hashed, bounded."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Protocol

import trio

from p2pcache.errors import Unavailable, Untrusted
from p2pcache.net.bitswap import wire
from p2pcache.net.bitswap.mutes import FIELDS_OF_A_BLOCK, Allowances

if TYPE_CHECKING:
    from collections.abc import Sequence

    from p2pcache.content.peerid import PeerId
    from p2pcache.net.bitswap.options import BitswapOptions
    from p2pcache.net.bitswap.wire import Message
    from p2pcache.net.port import Stream

    Named = Sequence[tuple[bytes, bytes]]  # blocks by the CID that their bytes have


class Hears(Protocol):
    """Who is told what came."""

    def is_muted(self, peer: PeerId) -> bool:
        """Whether nothing of it is to be read."""
        ...

    def mute(self, peer: PeerId, why: str) -> None:
        """It broke the rules."""
        ...

    async def heard(self, peer: PeerId, message: Message, blocks: Named) -> int:
        """A message came; how many of its blocks were wanted. Raises Untrusted."""
        ...


class Inbound:
    """For the trio thread; `answer` is the handler of bitswap's streams."""

    def __init__(self, hears: Hears, options: BitswapOptions) -> None:
        self._hears = hears
        self._options = options
        self._streams: Counter[PeerId] = Counter()
        self._allowances = Allowances()

    async def answer(self, stream: Stream) -> None:
        """Read one stream until it ends. Raises Untrusted and mutes who breaks the rules;
        Unavailable: too many streams, a message that does not end.
        """
        peer = stream.peer
        if self._hears.is_muted(peer) or self._streams[peer] >= self._options.max_streams:
            raise Unavailable("not listened to")
        self._streams[peer] += 1
        try:
            while (size := await _length(stream)) is not None:
                await self._wait_allowed(peer)
                with trio.move_on_after(self._options.message_s) as patience:
                    data = await stream.receive_exactly(size)
                if patience.cancelled_caught:
                    raise Unavailable("a message did not end")
                message, blocks = await self._read(data)
                if self._hears.is_muted(peer):  # for what another of its streams brought
                    raise Unavailable("not listened to")
                wanted = await self._hears.heard(peer, message, blocks)
                fields = max(0, message.fields - wanted * FIELDS_OF_A_BLOCK)
                self._allowances.spend(peer, fields, trio.current_time())
        except Untrusted as exc:
            self._hears.mute(peer, exc.message)
            raise
        finally:
            self._streams[peer] -= 1
            if not self._streams[peer]:
                del self._streams[peer]

    def forget_idle(self) -> None:
        """To be called now and then."""
        self._allowances.forget_idle(trio.current_time())

    async def _wait_allowed(self, peer: PeerId) -> None:
        """Until what its streams brought is paid."""
        while pause_s := self._allowances.spend(peer, 0, trio.current_time()):  # noqa: ASYNC110 - only time pays
            await trio.sleep(pause_s)

    async def _read(self, data: bytes) -> tuple[Message, Named]:
        """Raises Untrusted."""
        if len(data) > self._options.read_here_bytes:
            return await trio.to_thread.run_sync(_read, data)
        return _read(data)


def _read(data: bytes) -> tuple[Message, Named]:
    message = wire.parse(data)
    return message, [(wire.cid_of(block), block.data) for block in message.blocks]


async def _length(stream: Stream) -> int | None:
    """Of the next message; None: the stream has ended."""
    size = 0
    for place in range(wire.MAX_LENGTH_BYTES):
        try:
            byte = (await stream.receive_exactly(1))[0]
        except Unavailable:
            return None
        size |= (byte & 127) << 7 * place
        if byte < 128:
            if size <= wire.MAX_MESSAGE_BYTES:
                return size
            break
    raise Untrusted("a message is too long")
