"""The answers of the trustless and the path gateway.

The order of an answer: what is asked for (400, 405, 406), whether the client has it (304), the way
to it (404, 412, 504), then its bytes in the format that was asked for. Everything that goes out was
hashed on its way: a blob as it came in, a block when it was read.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

import trio

from p2pcache.content import cid as cids
from p2pcache.content.carstream import encode_car
from p2pcache.content.dag import files, folders, path, traverse
from p2pcache.content.dag.links import value_of
from p2pcache.content.dag.path import Resolved
from p2pcache.errors import NotFound, P2PCacheError, Untrusted, plain_errors
from p2pcache.gateway.ipfs import content, listing
from p2pcache.gateway.ipfs.reader import BlockMissing, Pieces, Reader, file_bytes
from p2pcache.gateway.ipfs.request import Ask, Refusal, parse
from p2pcache.gateway.messages import Response, status_of, text
from p2pcache.gateway.ranges import Unsatisfiable, matches, parse_range, range_holds

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from p2pcache.content.dag.walk import Found
    from p2pcache.gateway.messages import Request
    from p2pcache.transfer.blocks import BlockService

    Bring = Callable[[bytes], Awaitable[bool]]

_log = logging.getLogger(__name__)

LATER = {"Retry-After": "10"}  # what was asked for may be on its way
NOWHERE = b"\x01\x55\x00\x00"  # bafkqaaa, the root of a CAR whose path leads nowhere
JSON, CBOR = 0x0200, 0x51  # multicodec table
_CODECS_OF = {  # which codecs a format shows as they are; nothing is converted (IPIP-524)
    "dag-json": (cids.DAG_JSON,),
    "json": (JSON, cids.DAG_JSON),
    "dag-cbor": (cids.DAG_CBOR,),
    "cbor": (CBOR, cids.DAG_CBOR),
}
_FORMAT_OF = {cids.DAG_JSON: "dag-json", cids.DAG_CBOR: "dag-cbor", JSON: "json", CBOR: "cbor"}


@dataclass(frozen=True, slots=True)
class GatewayOptions:
    """`answer_s`: until the first byte, as Kubo's gateway has it. `peers_s`: for members to say
    that they have a file that others than agents have, too: they answer within 0.25 s.
    """

    answer_s: float = 30.0
    peers_s: float = 0.5


async def _nobody_brings(_: bytes) -> bool:
    return False


class IpfsGateway:
    """`handle` is a handler of `gateway.http`. `bring`: has a whole file fetched into the store by
    its root, from peers that have it; whether it is here now.
    """

    def __init__(
        self,
        blocks: BlockService,
        bring: Bring = _nobody_brings,
        options: GatewayOptions | None = None,
    ) -> None:
        self._reader = Reader(blocks)
        self._bring = bring
        self._options = options or GatewayOptions()

    async def handle(self, request: Request) -> Response:
        """Answer one request. Raises nothing of ours."""
        try:
            ask = parse(request)
        except Refusal as refusal:
            return text(refusal.status, refusal.message, refusal.headers)
        try:
            with trio.fail_after(self._options.answer_s):
                return await _Answer(
                    self._reader, self._bring, self._options.peers_s, request, ask
                ).make()
        except trio.TooSlowError:
            return text(504, f"nobody gave it in {self._options.answer_s:.0f} s", LATER)
        except Refusal as refusal:
            return text(refusal.status, refusal.message, refusal.headers)
        except P2PCacheError as exc:
            if ask.only_if_cached and isinstance(exc, NotFound):
                return text(412, "it is not on this machine (only-if-cached)")
            hint = f"\nhint: {exc.hint}" if exc.hint else ""
            status = 404 if isinstance(exc, Untrusted) else status_of(exc)  # an invalid node
            return text(status, exc.message + hint, LATER if status == 504 else None)


class _Answer:
    """One request on its way to its answer."""

    def __init__(
        self, reader: Reader, bring: Bring, peers_s: float, request: Request, ask: Ask
    ) -> None:
        self._reader = reader
        self._bring = bring
        self._peers_s = peers_s
        self._request = request
        self._ask = ask

    async def make(self) -> Response:
        """Raises Refusal, and errors of ours."""
        ask = self._ask
        if not ask.only_if_cached and not await self._reader.run(self._is_here, ask.root):
            await self._wait_brought(cids.as_v1(ask.root))
        try:
            found = await self._reader.run(self._resolve)
        except BlockMissing:
            raise
        except NotFound:
            if ask.format != "car":
                raise
            found = Resolved(NOWHERE, (), (ask.root,), ())  # a CAR that shows that it is not
        headers = {
            "X-Ipfs-Path": ask.text,
            "X-Ipfs-Roots": ",".join(cids.format_cid(root) for root in found.roots),
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": content.IMMUTABLE,
        }
        form = ask.format
        if form in ("raw", "car") or (form is not None and not found.remainder):
            return await self._formatted(found, headers)
        if found.remainder:
            raise Refusal(501, "values within a block are not served: ask for the block")
        codec = cids.codec(found.cid)
        if codec in _FORMAT_OF:
            self._ask = replace(ask, format=_FORMAT_OF[codec])  # type: ignore[arg-type]
            return await self._formatted(found, headers)
        if codec not in (cids.RAW, cids.DAG_PB):
            raise Refusal(400, f"blocks of the codec {codec:#x} are served as `?format=raw` alone")
        return await self._unixfs(found, headers)

    async def _wait_brought(self, root: bytes) -> None:
        """Ask peers for a whole file while others are asked for its root. Where they have that,
        peers get `peers_s` more; where nobody has it, they are what there is.
        Raises what the others said when the peers have none either: nobody is asked again.
        """
        missing: P2PCacheError | None = None
        came = False
        with plain_errors():
            async with trio.open_nursery() as nursery:
                brought = trio.Event()

                async def ask_peers() -> None:
                    nonlocal came
                    came = await self._bring(root)
                    brought.set()

                nursery.start_soon(ask_peers)
                try:
                    await self._reader.blocks.get(root)
                    with trio.move_on_after(self._peers_s):
                        await brought.wait()
                    nursery.cancel_scope.cancel()
                except P2PCacheError as exc:
                    missing = exc
        if missing is not None and not came:
            if isinstance(missing, NotFound):
                raise BlockMissing(missing.message, hint=missing.hint) from missing
            raise missing

    def _is_here(self, cid: bytes) -> bool:
        local = self._reader.blocks.local
        return local.length(cid) is not None or local.file_of(cid) is not None

    def _resolve(self) -> Resolved:
        ask = self._ask
        return self._reader.walk(path.resolve(ask.root, ask.path), local=ask.only_if_cached)

    # -- a block, a CAR --------------------------------------------------------------------------

    async def _formatted(self, found: Resolved, headers: dict[str, str]) -> Response:
        ask, cid = self._ask, found.cid
        etag = content.etag(ask, cid)
        headers |= {"ETag": etag, "Content-Type": content.content_type(ask), "Vary": "Accept"}
        if ask.by_accept:
            query = [pair for pair in self._request.query if pair[0] != "format"]
            query.insert(0, ("format", ask.format or ""))
            headers["Content-Location"] = f"{ask.text}?{urlencode(query, quote_via=quote)}"
        named = content.disposition(ask, cid)
        if named is not None:
            headers["Content-Disposition"] = named
        allowed = _CODECS_OF.get(ask.format or "")
        if allowed is not None and cids.codec(cid) not in allowed:
            raise Refusal(406, f"the content is no {ask.format}, and nothing is converted here")
        if self._is_known(etag):
            return Response(304, headers)
        if ask.format == "car":
            return await self._car(found, headers)
        data = await self._reader.run(self._get(), cid)
        if allowed is not None:
            await self._reader.run(_check_valid, cid, data)
        return self._ranged(headers, etag, len(data), lambda start, end: data[start:end])

    def _get(self) -> Callable[[bytes], bytes]:
        return self._reader.here if self._ask.only_if_cached else self._reader.get

    async def _car(self, found: Resolved, headers: dict[str, str]) -> Response:
        ask = self._ask
        headers["Accept-Ranges"] = "none"
        if found.cid != NOWHERE:  # what is not there is told before the head goes out
            await self._reader.run(self._get(), found.cid)
        if ask.head:
            return Response(200, headers, Pieces(self._reader, iter(())))  # chunked, as its GET is
        flow = traverse.blocks(
            ask.root, ask.path, ask.car.scope, ask.car.entity_bytes, duplicates=ask.car.duplicates
        )
        blocks = self._reader.flow(flow, local=ask.only_if_cached)
        body = await Pieces(self._reader, _car_of(found.cid, blocks)).begin()
        return Response(200, headers, body)

    # -- files and folders -----------------------------------------------------------------------

    async def _unixfs(self, found: Resolved, headers: dict[str, str]) -> Response:
        ask, cid = self._ask, found.cid
        blob = await self._reader.run(self._reader.blocks.local.file_of, cid)
        if blob is not None:
            return await self._file(cid, blob.size, headers, ask.path[-1] if ask.path else None)
        stat = await self._reader.run(self._stat, cid)
        if stat.kind == "directory":
            return await self._folder(cid, headers)
        if stat.kind == "symlink":
            headers |= {"ETag": content.etag(ask, cid), "Content-Type": "inode/symlink"}
            return Response(200, headers, (stat.target or "").encode())
        if ask.only_if_cached:
            await self._reader.run(self._all_here, cid)
        return await self._file(cid, stat.size, headers, ask.path[-1] if ask.path else None)

    def _stat(self, cid: bytes) -> files.Stat:
        return self._reader.walk(files.stat(cid), local=self._ask.only_if_cached)

    def _all_here(self, cid: bytes) -> None:
        """Raises NotFound unless every block of the file is local."""
        for leaf in self._reader.flow(files.leaves(cid), local=True):
            if leaf.data is None and self._reader.blocks.local.length(leaf.cid) is None:
                raise BlockMissing("a block is not here")

    async def _file(
        self, cid: bytes, size: int, headers: dict[str, str], name: str | None,
        *, named_by: bytes | None = None,
    ) -> Response:  # fmt: skip
        """`name`: what tells its type, unless `?filename=` does. `named_by`: the folder that it is
        shown for.
        """
        ask = self._ask
        etag = content.etag(ask, named_by or cid)
        headers["ETag"] = etag
        if self._is_known(etag):
            return Response(304, headers)
        named = content.disposition(ask, cid)
        if named is not None:
            headers["Content-Disposition"] = named
        known = content.type_by_name(ask.filename or name)
        headers["Content-Type"] = known or content.type_by_start(await self._start_of(cid, size))
        span = self._span(etag, size, headers)
        if ask.head or span[0] == span[1]:
            return _of_span(headers, size, span, b"")
        body = await Pieces(self._reader, self._bytes(cid, *span)).begin()
        return _of_span(headers, size, span, body)

    async def _start_of(self, cid: bytes, size: int) -> bytes:
        source = Pieces(self._reader, self._bytes(cid, 0, min(size, content.SNIFF_BYTES)))
        try:
            return b"".join([piece async for piece in source])
        finally:
            await source.aclose()

    def _bytes(self, cid: bytes, start: int, end: int) -> Iterator[bytes]:
        blob = self._reader.blocks.local.file_of(cid)
        if blob is not None:
            return file_bytes(blob, start, end)
        return self._reader.flow(files.read(cid, start, end), local=self._ask.only_if_cached)

    async def _folder(self, cid: bytes, headers: dict[str, str]) -> Response:
        ask = self._ask
        if not ask.slash:
            query = urlencode(self._request.query, quote_via=quote)
            del headers["Cache-Control"]
            headers["Location"] = ask.text + "/" + (f"?{query}" if query else "")
            return Response(301, headers, b"")
        index = await self._reader.run(self._index, cid)
        if index is not None:
            blob = await self._reader.run(self._reader.blocks.local.file_of, index)
            size = blob.size if blob else (await self._reader.run(self._stat, index)).size
            return await self._file(index, size, headers, "index.html", named_by=cid)
        etag = content.listing_etag(cid)
        headers |= {
            "ETag": etag, "Cache-Control": content.LISTING_AGE,
            "Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": listing.POLICY,
        }  # fmt: skip
        if self._is_known(etag):
            return Response(304, headers)
        return Response(200, headers, await self._reader.run(self._page, cid))

    def _index(self, cid: bytes) -> bytes | None:
        """The root of a file `index.html` in a folder."""
        walk = folders.find(cid, "index.html")
        entry = self._reader.walk(walk, local=self._ask.only_if_cached)
        if entry is None:
            return None
        try:
            kind = self._stat(entry.cid).kind
        except NotFound:
            if self._reader.blocks.local.file_of(entry.cid) is None:
                raise
            kind = "file"
        return entry.cid if kind == "file" else None

    def _page(self, cid: bytes) -> bytes:
        ask = self._ask
        flow = folders.entries(cid, listing.MAX_ENTRIES)
        entries = list(self._reader.flow(flow, local=ask.only_if_cached))
        shown = "/".join(["/ipfs", cids.format_cid(ask.root), *ask.path, ""])
        parent = shown.rstrip("/").rpartition("/")[0] + "/" if ask.path else None
        return listing.page(shown, cid, entries, parent)

    # -- conditions ------------------------------------------------------------------------------

    def _is_known(self, etag: str) -> bool:
        return matches(self._request.header("if-none-match"), etag)

    def _span(self, etag: str, size: int, headers: dict[str, str]) -> tuple[int, int]:
        """The half-open range to send; notes in `headers` what it is. Raises Refusal (416)."""
        headers["Accept-Ranges"] = "bytes"
        wanted = self._request.header("range")
        if not range_holds(self._request.header("if-range"), etag):
            wanted = None
        try:
            span = parse_range(wanted, size)
        except Unsatisfiable:
            more = {"Content-Range": f"bytes */{size}", "Accept-Ranges": "bytes"}
            raise Refusal(416, f"no such range: there are {size} bytes", more) from None
        if span is None:
            return 0, size
        headers["Content-Range"] = f"bytes {span[0]}-{span[1] - 1}/{size}"
        return span

    def _ranged(
        self, headers: dict[str, str], etag: str, size: int, cut: Callable[[int, int], bytes]
    ) -> Response:
        span = self._span(etag, size, headers)
        return _of_span(headers, size, span, cut(*span))


def _check_valid(cid: bytes, block: bytes) -> None:
    """Raises Refusal for a block of dag-json or dag-cbor that is none."""
    if cids.codec(cid) in (cids.DAG_JSON, cids.DAG_CBOR):
        try:
            value_of(cid, block)
        except Untrusted as exc:
            raise Refusal(500, f"the block is not valid: {exc.message}") from exc


def _of_span(
    headers: dict[str, str], size: int, span: tuple[int, int], body: bytes | Pieces
) -> Response:
    status = 206 if "Content-Range" in headers else 200
    if isinstance(body, bytes) and len(body) != span[1] - span[0]:
        return Response(status, headers, None, length=span[1] - span[0])  # HEAD
    return Response(status, headers, body, length=span[1] - span[0])


def _until_nothing(blocks: Iterator[Found]) -> Iterator[Found]:
    try:
        yield from blocks
    except BlockMissing:
        raise
    except NotFound:
        return


def _car_of(root: bytes, blocks: Iterator[Found]) -> Iterator[bytes]:
    """A CARv1. Of a path that leads nowhere it has the blocks that show it. Closing it closes what
    gives the blocks.
    """
    try:
        yield from encode_car([root], _until_nothing(blocks))
    finally:
        close = getattr(blocks, "close", None)
        if close is not None:
            close()
