"""HTTP as tests speak it to a gateway: raw bytes for hostile input, h11 for the rest."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import h11
import trio


@dataclass
class Answer:
    """One answer. `whole`: whether its end was said."""

    status: int
    headers: dict[str, str]
    body: bytes
    whole: bool = True
    trailers: dict[str, str] = field(default_factory=dict)


class Client:
    """One connection to a server on loopback."""

    def __init__(self, stream, port: int) -> None:
        self.stream = stream
        self.port = port
        self._http = h11.Connection(h11.CLIENT)

    async def ask(self, target, *, method="GET", headers=(), body=b"", host=None) -> Answer:
        given = [("Host", host or f"127.0.0.1:{self.port}"), *dict(headers).items()]
        if body:
            given.append(("Content-Length", str(len(body))))
        request = h11.Request(method=method, target=target, headers=given)
        out = self._http.send(request)
        if body:
            out += self._http.send(h11.Data(data=body))
        await self.stream.send_all(out + self._http.send(h11.EndOfMessage()))
        answer = await self._answer()
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
        return answer

    async def _answer(self) -> Answer:
        found = Answer(0, {}, b"", whole=False)
        while True:
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError:
                return found  # cut short
            if event is h11.NEED_DATA:
                self._http.receive_data(await self.stream.receive_some(1 << 20))
            elif isinstance(event, h11.Response):
                found.status = event.status_code
                found.headers = {k.decode().lower(): v.decode() for k, v in event.headers}
            elif isinstance(event, h11.Data):
                found.body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                found.whole = True
                found.trailers = {k.decode().lower(): v.decode() for k, v in event.headers}
                return found
            elif isinstance(event, h11.ConnectionClosed):
                return found

    async def raw(self, data: bytes, *, most: int = 1 << 20) -> bytes:
        """Send bytes, and all that comes back until the server closes."""
        await self.stream.send_all(data)
        found = b""
        while len(found) < most:
            try:
                piece = await self.stream.receive_some(1 << 16)
            except trio.BrokenResourceError:
                return found
            if not piece:
                return found
            found += piece
        return found


@asynccontextmanager
async def connected(port: int):
    """A `Client`."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        yield Client(stream, port)


async def ask(port: int, target: str, **more) -> Answer:
    """One request over a connection of its own."""
    async with connected(port) as client:
        return await client.ask(target, **more)
