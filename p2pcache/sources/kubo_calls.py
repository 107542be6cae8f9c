"""What is asked of a Kubo, apart from bulk bytes: its RPC, and single blocks of its gateway.

Not with ipfshttpclient: a question has to be over within 250 ms also when Kubo hangs or drips, and
that client reads in a thread that nobody can cancel, answers of any length, and through the proxy
of the environment. Nor with httpx, whose first use costs an agent 7 MB and 0.2 s. One question is
one connection: on loopback that is 0.2 ms.
"""

from __future__ import annotations

import json
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

import h11
import trio

from p2pcache.content import cid as cids
from p2pcache.content.dag.hashes import verify_cid
from p2pcache.errors import Denied, NotFound, P2PCacheError, Unavailable, Untrusted
from p2pcache.sources.urls import origin_of
from p2pcache.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_ANSWER_BYTES = 1 << 20  # of one question; a list of pins is never asked for
MAX_BLOCK_BYTES = 2 << 20  # what bitswap carries and Kubo takes in
READ_BYTES = 64 << 10
CLOSE_S = 1.0
CACHED = ("Cache-Control", "only-if-cached")  # no search in the network; tells of the root alone
_BROKEN = (OSError, trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError)


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back: all of it."""

    status: int
    body: bytes


class KuboCalls:
    """One Kubo. `timeout_s`: of one answer, from the connection to its last byte."""

    def __init__(self, api: str, timeout_s: float) -> None:
        self._api = api
        self._timeout_s = timeout_s

    async def rpc(self, call: str, *args: str, **options: str) -> dict[str, Any]:
        """One call of `/api/v0`; its JSON answer.

        Raises NotFound for what Kubo has not, or has not pinned; Unavailable, Denied, Untrusted.
        """
        url = f"{self._api}/api/v0/{call}"
        try:
            answer = json.loads(await self.ask(call, *args, **options))
        except (ValueError, RecursionError) as exc:
            raise Untrusted(f"{url} answers something that is no JSON: it is no Kubo") from exc
        if not isinstance(answer, dict):
            raise Untrusted(f"{url} answers a JSON of another shape: it is no Kubo")
        return answer

    async def ask(self, call: str, *args: str, **options: str) -> bytes:
        """One call that answers with no JSON, or with rows of it. Raises as `rpc`."""
        query = [("arg", arg) for arg in args]
        query += [(name.replace("_", "-"), value) for name, value in options.items()]
        url = f"{self._api}/api/v0/{call}"
        reply = await self._ask("POST", f"{url}?{urlencode(query)}", MAX_ANSWER_BYTES)
        if reply.status == 500:
            raise _refused(self._api, reply.body)
        _check_status(reply.status, url)
        return reply.body

    async def block(self, gateway: str, cid: bytes) -> bytes:
        """A block that Kubo has, verified. Raises NotFound, Unavailable, Denied; Untrusted for
        other bytes than the CID names.
        """
        url = f"{gateway}/ipfs/{cids.format_cid(cid)}"
        reply = await self._ask("GET", f"{url}?format=raw", MAX_BLOCK_BYTES, [CACHED])
        _check_status(reply.status, url)
        try:
            verify_cid(cid, reply.body)
        except Untrusted as exc:
            raise Untrusted(
                f"{origin_of(gateway)} sent other bytes for {cids.format_cid(cid)}: {exc.message}"
            ) from exc
        return reply.body

    async def _ask(
        self, method: str, url: str, most: int, headers: Sequence[tuple[str, str]] = ()
    ) -> Reply:
        where = origin_of(url)
        try:
            with trio.fail_after(self._timeout_s):
                return await _exchange(method, url, most, headers)
        except trio.TooSlowError as exc:
            raise Unavailable(f"Kubo at {where} is silent", hint=_IS_IT_UP) from exc
        except h11.RemoteProtocolError as exc:
            raise Untrusted(f"what answers at {where} is no Kubo: {exc}") from exc
        except _BROKEN as exc:
            said = str(exc)[:200] or type(exc).__name__
            raise Unavailable(f"Kubo at {where} cannot be reached: {said}", hint=_IS_IT_UP) from exc


_IS_IT_UP = "is `ipfs daemon` running there?"


async def _exchange(method: str, url: str, most: int, headers: Sequence[tuple[str, str]]) -> Reply:
    """One request on a connection of its own. Raises OSError, trio's, h11's and our errors."""
    parts = urlsplit(url)
    host, is_tls = parts.hostname or "", parts.scheme == "https"
    stream: trio.abc.Stream = await trio.open_tcp_stream(
        host, parts.port or (443 if is_tls else 80)
    )
    if is_tls:
        context = await trio.to_thread.run_sync(ssl.create_default_context)
        stream = trio.SSLStream(stream, context, server_hostname=host, https_compatible=True)
    try:
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        request = h11.Request(
            method=method,
            target=target,
            headers=[
                ("Host", parts.netloc), ("User-Agent", f"p2pcache/{__version__}"),
                ("Connection", "close"), ("Content-Length", "0"), *headers,
            ],
        )  # fmt: skip
        peer = h11.Connection(h11.CLIENT)
        await stream.send_all((peer.send(request) or b"") + (peer.send(h11.EndOfMessage()) or b""))
        return await _reply(peer, stream, most, origin_of(url))
    finally:
        with trio.move_on_after(CLOSE_S, shield=True):
            await trio.aclose_forcefully(stream)


async def _reply(peer: h11.Connection, stream: trio.abc.Stream, most: int, where: str) -> Reply:
    status, body, is_over = 0, bytearray(), False
    while True:
        try:
            event = peer.next_event()
        except h11.RemoteProtocolError as exc:
            if not is_over:
                raise
            text = f"Kubo at {where} hung up before its answer was complete"
            raise Unavailable(text, hint=_IS_IT_UP) from exc
        if event is h11.NEED_DATA:
            came = bytes(await stream.receive_some(READ_BYTES))
            is_over = not came
            peer.receive_data(came)
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > most:
                raise Untrusted(f"{where} answers more than {most} bytes")
        elif isinstance(event, h11.EndOfMessage):
            return Reply(status, bytes(body))


def _refused(api: str, body: bytes) -> P2PCacheError:
    """What Kubo says with a 500, which it answers to everything that is not as it should be."""
    try:
        said = str(json.loads(body)["Message"])[:300]
    except (ValueError, KeyError, TypeError, RecursionError):
        return Unavailable(f"Kubo at {api} fails (HTTP 500)")
    if "not pinned" in said or "not found" in said or "could not find" in said:
        return NotFound(f"Kubo at {api} does not have it: {said}")
    return Unavailable(f"Kubo at {api} says: {said}")


def _check_status(status: int, url: str) -> None:
    """Raise what a status means: 404, 410, 412 (not cached): NotFound; other 4xx: Denied; the rest
    Unavailable.
    """
    if status == 200:
        return
    if status in (404, 410, 412):
        raise NotFound(f"Kubo at {origin_of(url)} does not have {url.rpartition('/')[2]}")
    if status == 406:
        raise Denied(
            f"the gateway at {origin_of(url)} gives no single blocks (HTTP 406)",
            hint="its Gateway settings do not allow what p2pcache needs",
        )
    if 300 <= status < 500 and status not in (408, 429):
        raise Denied(f"{origin_of(url)} refuses (HTTP {status})", hint="is this a Kubo's address?")
    raise Unavailable(f"{origin_of(url)} cannot answer now (HTTP {status})")
