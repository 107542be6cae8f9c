"""Requests to a store's own API: bounded, without retries, synchronous, for worker processes.

No body, header or query of a request is ever in an error: they carry logins.
"""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
import urllib.request
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit, urlunsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from p2pcache.errors import (
    Denied,
    LocalFault,
    NotFound,
    P2PCacheError,
    Unavailable,
    Untrusted,
    UsageError,
)
from p2pcache.sources import headers as header
from p2pcache.sources.certificates import distrust, reason, trusting
from p2pcache.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Self

    from p2pcache.sources.rest_options import RestOptions

_CHUNK_BYTES = 1 << 18
_CODE = re.compile(r"[A-Za-z][A-Za-z0-9]{0,63}")
_BUSY = frozenset({408, 425, 429})


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole reply. Names of `headers` are in lower case."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


class Rest:
    """Asks one endpoint; open while its context is. `endpoint`: how messages call it.

    At the deadline its connections are cut: behind a timeout for each read, an answer that comes
    by drops, its headers too, would hold a worker for ever.
    """

    def __init__(self, endpoint: str, options: RestOptions) -> None:
        self.endpoint = endpoint
        self._options = options
        self._until = time.monotonic() + options.deadline_s
        self._managers: dict[str | None, urllib3.PoolManager] = {}
        self._sockets: list[socket.socket] = []
        self._pools = _pools(self._sockets, self._check_time)
        self._end = threading.Timer(options.deadline_s, self._cut)
        self._end.daemon = True

    def __enter__(self) -> Self:
        self._end.start()
        return self

    def _cut(self) -> None:
        for one in list(self._sockets):
            with contextlib.suppress(OSError):  # the other side ended it already
                one.shutdown(socket.SHUT_RDWR)  # of the connection, whoever reads it

    def __exit__(self, *_: object) -> None:
        self._end.cancel()
        for manager in self._managers.values():
            manager.clear()
        self._end.join()  # it may be at it
        for one in self._sockets:
            one.close()

    def ask(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> Answer:
        """One request, not redirected; any status is an answer. Raises Unavailable, Untrusted."""
        self._check_time()
        left_s = self._until - time.monotonic()
        wait_s = min(left_s, self._options.request_timeout_s)
        sent = {"User-Agent": f"p2pcache/{__version__}", "Accept-Encoding": "identity", **headers}
        try:
            reply = self.manager(url).urlopen(
                method, url, headers=sent, body=body, redirect=False, retries=False,
                timeout=urllib3.Timeout(connect=wait_s, read=wait_s),
                preload_content=False, decode_content=False,
            )  # fmt: skip
            try:
                data = self._read(reply)
            except BaseException:
                reply.close()
                raise
            finally:
                reply.release_conn()
        except urllib3.exceptions.HTTPError as exc:
            self._check_time()
            raise self._unreached(exc) from exc
        told = {name.lower(): value for name, value in reply.headers.items()}
        return Answer(reply.status, told, data)

    def _read(self, reply: urllib3.BaseHTTPResponse) -> bytes:
        body = bytearray()
        for chunk in reply.stream(_CHUNK_BYTES):
            body += chunk
            if len(body) > self._options.max_reply_bytes:
                raise Untrusted(f"a reply is longer than {self._options.max_reply_bytes} bytes")
            self._check_time()
        self._check_time()  # what was cut may look like a body that ended
        return bytes(body)

    def _check_time(self) -> None:
        if time.monotonic() >= self._until:
            raise Unavailable(f"a question took longer than {self._options.deadline_s:g} s")

    def manager(self, url: str) -> urllib3.PoolManager:
        """Connections to a URL, through the environment's proxy where it names one."""
        proxy = _proxy_for(url)
        if proxy not in self._managers:
            more: dict[str, Any] = {}
            if self._options.ca_file is not None:
                more["ssl_context"] = trusting(self._options.ca_file)
            self._managers[proxy] = _manager(proxy, more)
            self._managers[proxy].pool_classes_by_scheme = self._pools
        return self._managers[proxy]

    def _unreached(self, exc: Exception) -> P2PCacheError:
        if (untrusted := distrust(exc, self.endpoint)) is not None:
            return untrusted
        hint = "check the endpoint, the network and the proxy settings; --offline uses what is here"
        refused = isinstance(exc, urllib3.exceptions.NewConnectionError)  # a timeout to urllib3
        if isinstance(exc, urllib3.exceptions.TimeoutError) and not refused:
            return Unavailable(f"{self.endpoint} is silent", hint=hint)
        return Unavailable(f"{self.endpoint} cannot be reached: {_plain(exc)}", hint=hint)


def _plain(exc: Exception) -> str:
    """Without an address: urllib3 quotes whole URLs, and their signatures with them."""
    if isinstance(exc, urllib3.exceptions.ProtocolError):
        return "the connection was cut"
    return re.sub(r"\S*(?:/|\?|=)\S*", "...", reason(exc))


def _pools(
    opened: list[socket.socket], check: Callable[[], None]
) -> dict[str, type[HTTPConnectionPool]]:
    """Pools whose connections put a second name of their sockets into `opened`, before anything is
    read of them: what a proxy answers, and a handshake, may come by drops, too.
    `check` raises at the deadline.
    """

    class Plain(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return _noted(super()._new_conn(), opened)

    class Secure(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return _noted(super()._new_conn(), opened)

        def _tunnel(self) -> None:
            super()._tunnel()  # http.client's
            check()  # what was cut looks like headers that ended

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}


def _noted(made: socket.socket, opened: list[socket.socket]) -> socket.socket:
    opened.append(made.dup())  # TLS takes the socket itself away, from the handshake on
    return made


def _manager(proxy: str | None, more: dict[str, Any]) -> urllib3.PoolManager:
    if proxy is None:
        return urllib3.PoolManager(**more)
    parts = urlsplit(proxy)
    login = None
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        login = urllib3.util.make_headers(proxy_basic_auth=pair)
    bare = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], "", "", ""))
    return urllib3.ProxyManager(bare, proxy_headers=login, **more)


def _proxy_for(url: str) -> str | None:
    parts = urlsplit(url)
    if urllib.request.proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    proxies = urllib.request.getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy:
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def checked_code(text: object) -> str:
    """A store's one word for an error, where it is one; else nothing."""
    return text if isinstance(text, str) and _CODE.fullmatch(text) else ""


def refusal(
    answer: Answer, code: str, name: str, endpoint: str, *, login: bool, help_login: str
) -> P2PCacheError:
    """The error for a status that is no success: the one table of both clouds (HOUSE R4).

    | status                | ours        | who acts
    |-----------------------|-------------|---------------------------------------------
    | 404, 410              | NotFound    | the user checks the name
    | 401, 403, 407, 451    | Denied      | the user mends the login, or asks the owner
    | 412                   | Untrusted   | who writes to it; it is run again
    | 501, other 4xx        | UsageError  | the user checks the ref
    | 408, 425, 429, 5xx    | Unavailable | nobody: try again
    | anything else         | Untrusted   | drop this endpoint

    `code`: the store's word, checked. `login`: one was sent. `help_login`: where one comes from.
    """
    status = answer.status
    said = f"HTTP {status}" + (f", {code}" if code else "")
    if status in (404, 410):
        return NotFound(f"{endpoint} has no {name} ({said})", hint="check the name")
    if status in _BUSY or (status >= 500 and status != 501):
        told = answer.headers.get("retry-after")
        wait_s = header.retry_after_s(told, None, now_unix_s=time.time())
        what = "limits our requests" if status in (429, 503) else "has a fault"
        return Unavailable(f"{endpoint} {what} for {name} ({said})", retry_after_s=wait_s)
    if status == 407:
        return Denied("the proxy wants a login (HTTP 407)", hint="write it into HTTPS_PROXY")
    if status in (401, 403, 451):
        if status == 451:
            return Denied(f"{endpoint} does not give out {name} for legal reasons ({said})")
        if not login:
            return Denied(
                f"{endpoint} does not give out {name} without a login ({said})", hint=help_login
            )
        return Denied(
            f"{endpoint} does not accept the login, or gives it no access to {name} ({said})",
            hint=f"ask the owner for that right; or mend the login: {help_login}",
        )
    if status == 412:
        return Untrusted(f"{name} changed while it was listed", hint="run it again")
    if 400 <= status < 500 or status == 501:
        return UsageError(f"{endpoint} does not understand {name} ({said})")
    return Untrusted(f"{endpoint} answers HTTP {status} for {name}", hint="check the endpoint")


def missing_library(what: str, package: str, extra: str) -> LocalFault:
    """The error where an extra is not installed."""
    return LocalFault(
        f"{what} needs {package}, which is not installed",
        hint=f"pip install 'p2pcache[{extra}]', where the agent's Python is",
    )
