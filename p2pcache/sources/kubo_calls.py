"""What is asked of a Kubo, apart from bulk bytes: its RPC, and single blocks of its gateway.

With httpx and not ipfshttpclient: a question has to be over within 250 ms also when Kubo hangs or
drips, and that client reads in a thread that nobody can cancel, any length of answer, and through
the proxy of the environment (it adds files for us in a worker of its own, `kubo_add`). Apart from
`kubo.py` because httpx costs an agent 7 MB and 0.1 s.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from typing import TYPE_CHECKING, Any

import httpx
import trio

from p2pcache.content import cid as cids
from p2pcache.content import digests
from p2pcache.errors import Denied, NotFound, P2PCacheError, Unavailable, Untrusted
from p2pcache.sources.urls import origin_of
from p2pcache.version import __version__

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MAX_ANSWER_BYTES = 1 << 20  # of one question; a list of pins is never asked for
MAX_BLOCK_BYTES = 2 << 20  # what bitswap carries and Kubo takes in
CLOSE_S = 2.0
CACHED = {"Cache-Control": "only-if-cached"}  # no search in the network; tells of the root alone


class KuboCalls:
    """One Kubo: a pool of connections to its RPC and its gateway."""

    def __init__(self, api: str, timeout_s: float) -> None:
        self._api = api
        self._client = httpx.AsyncClient(
            timeout=timeout_s,
            trust_env=False,  # it is a neighbour: no proxy stands between
            headers={"User-Agent": f"p2pcache/{__version__}", "Accept-Encoding": "identity"},
        )

    async def aclose(self) -> None:
        """Close the pool. Bounded."""
        with trio.move_on_after(CLOSE_S, shield=True):
            await self._client.aclose()

    async def rpc(self, call: str, arg: str | None = None, **options: str) -> dict[str, Any]:
        """One call of `/api/v0`; its JSON answer.

        Raises NotFound for what Kubo has not, or has not pinned; Unavailable, Denied, Untrusted.
        """
        query = [] if arg is None else [("arg", arg)]
        query += [(name.replace("_", "-"), value) for name, value in options.items()]
        url = f"{self._api}/api/v0/{call}"
        async with self._reply("POST", url, params=query) as reply:
            body = await _read(reply, MAX_ANSWER_BYTES, url)
        if reply.status_code == 500:
            raise _refused(self._api, body)
        _check_status(reply, url)
        try:
            answer = json.loads(body)
        except ValueError as exc:
            raise Untrusted(f"{url} answers something that is no JSON: it is no Kubo") from exc
        if not isinstance(answer, dict):
            raise Untrusted(f"{url} answers a JSON of another shape: it is no Kubo")
        return answer

    async def block(self, gateway: str, cid: bytes) -> bytes:
        """A block that Kubo has, verified. Raises NotFound, Unavailable, Denied; Untrusted for
        other bytes than the CID names.
        """
        url = f"{gateway}/ipfs/{cids.format_cid(cid)}"
        async with self._reply("GET", url, params=[("format", "raw")], headers=CACHED) as reply:
            _check_status(reply, url)
            data = await _read(reply, MAX_BLOCK_BYTES, url)
        got = digests.sha256_digest(hashlib.sha256(data).digest())
        if got != cids.multihash(cid):
            raise Untrusted(
                f"{origin_of(gateway)} sent {digests.describe(got)} for the block "
                f"{cids.format_cid(cid)}"
            )
        return data

    @contextlib.asynccontextmanager
    async def _reply(
        self,
        method: str,
        url: str,
        *,
        params: list[tuple[str, str]],
        headers: dict[str, str] | None = None,
    ) -> AsyncIterator[httpx.Response]:
        try:
            async with self._client.stream(
                method, url, params=params, headers=headers, follow_redirects=False
            ) as reply:
                yield reply
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            silent = isinstance(exc, httpx.TimeoutException)
            said = "is silent" if silent else f"cannot be reached: {str(exc)[:200]}"
            raise Unavailable(
                f"Kubo at {origin_of(url)} {said}", hint="is `ipfs daemon` running there?"
            ) from exc


async def _read(reply: httpx.Response, most: int, url: str) -> bytes:
    data = bytearray()
    # Left by cancelling: leaving the loop would abandon the async generators below it.
    with trio.CancelScope() as reading:
        async for chunk in reply.aiter_raw():
            data += chunk
            if len(data) > most:
                reading.cancel()
    if len(data) > most:
        raise Untrusted(f"{url} answers more than {most} bytes")
    return bytes(data)


def _refused(api: str, body: bytes) -> P2PCacheError:
    """What Kubo says with a 500, which it answers to everything that is not as it should be."""
    try:
        said = str(json.loads(body)["Message"])[:300]
    except (ValueError, KeyError, TypeError):
        return Unavailable(f"Kubo at {api} fails (HTTP 500)")
    if "not pinned" in said or "not found" in said or "could not find" in said:
        return NotFound(f"Kubo at {api} does not have it: {said}")
    return Unavailable(f"Kubo at {api} says: {said}")


def _check_status(reply: httpx.Response, url: str) -> None:
    """Raise what a status means: 404, 410, 412 (not cached): NotFound; other 4xx: Denied; the rest
    Unavailable.
    """
    status = reply.status_code
    if status == 200:
        return
    if status in (404, 410, 412):
        raise NotFound(f"Kubo at {origin_of(url)} does not have {url.rpartition('/')[2]}")
    if status == 406:
        raise Denied(
            f"the gateway at {origin_of(url)} gives no single blocks (HTTP 406)",
            hint="its Gateway settings do not allow what p2pcache needs",
        )
    if 400 <= status < 500 and status not in (408, 429):
        raise Denied(f"{origin_of(url)} refuses (HTTP {status})", hint="is this a Kubo's address?")
    raise Unavailable(f"{origin_of(url)} cannot answer now (HTTP {status})")
