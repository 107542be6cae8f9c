"""`/api/v0/...`: who may call, what there is, and errors as Kubo tells them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import trio

from p2pcache.errors import Unavailable
from p2pcache.gateway.kubo_rpc import add, answers, block, dag, files, node, pin, read
from p2pcache.gateway.kubo_rpc.call import Call, Context
from p2pcache.gateway.kubo_rpc.query import Query
from p2pcache.gateway.messages import Request, Response, text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from p2pcache.gateway.http import Server

PREFIX = "/api/v0/"
Handle = Callable[[Call], Awaitable[Response]]

CALLS: Mapping[str, Handle] = {
    "add": add.add,
    "block/get": block.get,
    "block/put": block.put,
    "block/rm": block.rm,
    "block/stat": block.stat,
    "cat": read.cat,
    "dag/export": dag.export,
    "dag/get": dag.get,
    "dag/import": dag.import_,
    "dag/put": dag.put,
    "dag/resolve": dag.resolve,
    "dag/stat": dag.stat,
    "files/cp": files.cp,
    "files/flush": files.flush,
    "files/ls": files.ls,
    "files/mkdir": files.mkdir,
    "files/mv": files.mv,
    "files/read": files.read,
    "files/rm": files.rm,
    "files/stat": files.stat,
    "files/write": files.write,
    "get": read.get,
    "id": node.id_,
    "ls": read.ls,
    "pin/add": pin.add,
    "pin/ls": pin.ls,
    "pin/rm": pin.rm,
    "pin/update": pin.update,
    "refs": read.refs,
    "repo/gc": node.repo_gc,
    "repo/stat": node.repo_stat,
    "repo/version": node.repo_version,
    "resolve": read.resolve,
    "routing/findprovs": node.find_providers,
    "routing/provide": node.provide,
    "stats/bw": node.bandwidth,
    "stats/repo": node.repo_stat,
    "swarm/addrs": node.addrs,
    "swarm/addrs/listen": node.addrs_local,
    "swarm/addrs/local": node.addrs_local,
    "swarm/connect": node.connect,
    "swarm/peers": node.peers,
    "version": node.version,
}

OTHERS = frozenset({
    "bitswap", "bootstrap", "cid", "commands", "config", "dht", "diag", "filestore", "key", "log",
    "mount", "multibase", "name", "object", "p2p", "ping", "provide", "pubsub", "shutdown", "tar",
    "update",
})  # fmt: skip
"""What Kubo has besides, by its first word: known, and not supported. (Calls within a group that is
supported in part are told from typing errors by that group.)
"""
GROUPS = frozenset(name.partition("/")[0] for name in CALLS if "/" in name)


class Api:
    """The handler of a server."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._port = 0

    def listens(self, server: Server) -> None:
        """Where it is served: pages of that origin may call, as Kubo's own web page does."""
        self._port = server.port

    async def __call__(self, request: Request) -> Response:
        """Answer one call. Raises our errors; `answers.failed` shapes them."""
        name = unquote(request.path).removeprefix(PREFIX).rstrip("/")
        if not request.path.startswith(PREFIX):
            return text(404, "404 page not found")
        if request.method != "POST":
            return text(405, "405 - Method Not Allowed", {"Allow": "OPTIONS, POST"})
        if self._is_foreign(request):
            return text(403, "403 - Forbidden")
        handle = CALLS.get(name)
        if handle is None:
            first = name.partition("/")[0]
            if first in OTHERS or first in GROUPS:
                return answers.unsupported(name[:80])
            return text(404, "404 page not found")
        query = Query(request.query)
        call = Call(self._context, request, query)
        seconds = query.seconds("timeout")
        if seconds is None:
            return await handle(call)
        with trio.move_on_after(seconds) as scope:
            return await handle(call)
        assert scope.cancelled_caught
        raise Unavailable("context deadline exceeded")

    def _is_foreign(self, request: Request) -> bool:
        """Whether a web page of somebody else is behind it: Kubo's rules. A browser that tells no
        origin is taken for one.
        """
        told = [request.header("origin"), request.header("referer")]
        found = [value for value in told if value]
        if not found:
            return (request.header("user-agent") or "").startswith("Mozilla")
        return not all(self._is_ours(value) for value in found)

    def _is_ours(self, origin: str) -> bool:
        parts = urlsplit(origin)
        try:
            port = parts.port
        except ValueError:
            return False
        names = ("localhost", "127.0.0.1", "::1")
        return parts.scheme in ("http", "https") and parts.hostname in names and port == self._port
