"""Connections that stay open between the calls of one worker process.

urllib3 pools by scheme, host, port and TLS settings, direct or through the environment's proxy.
Every byte that urllib3 and http.client receive passes `_CountedIo`, so that the watchdog sees
headers and chunk lines too, not only bodies.
"""

from __future__ import annotations

import http.client
import io
import ssl
import threading
import urllib.request
from collections import OrderedDict
from typing import IO, TYPE_CHECKING, Any, cast
from urllib.parse import unquote, urlsplit, urlunsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.util import make_headers

from p2pcache.lanes.faults import Ended, disk_fault, ended
from p2pcache.lanes.orders import FaultKind, Tls
from p2pcache.lanes.tls import BulkContext

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from _typeshed import WriteableBuffer

    from p2pcache.lanes.pace import Guard

MAX_MANAGERS = 64  # one per (TLS settings, proxy): a peer's pin is one, so 64 peers a worker
MAX_HOSTS = 64  # pools of one manager: the hub and its CDN hosts; without TLS, every peer
MAX_IDLE = 16  # connections of one host: as many as threads of one batch


class _Call(threading.local):
    """What the request that this thread is making needs down in http.client."""

    guard: Guard | None = None
    reused = False


_call = _Call()
_managers: OrderedDict[tuple[Tls | None, str | None], urllib3.PoolManager] = OrderedDict()
_managers_lock = threading.Lock()


class _CountedIo(io.RawIOBase):
    """A socket as a raw stream whose receives are counted by the guard of the call."""

    def __init__(self, sock: socket.socket, guard: Guard | None) -> None:
        super().__init__()
        # A `Connection: close` answer makes http.client close the socket while the body is still
        # to come; this file keeps the descriptor alive until we are closed.
        self._held = sock.makefile("rb", buffering=0)
        self._sock = sock
        self._guard = guard

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        count = self._sock.recv_into(buffer)
        if self._guard is not None:
            self._guard.received(count)
        return count

    def close(self) -> None:
        if not self.closed:
            self._held.close()
        super().close()


class _Readable:
    """Stands for the socket in `http.client.HTTPResponse`, which only asks it for a file."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_CountedIo(self._sock, _call.guard))


class Reply(http.client.HTTPResponse):
    """A response that also knows its socket: bodies are received without a stream in between."""

    def __init__(
        self,
        sock: socket.socket,
        debuglevel: int = 0,
        method: str | None = None,
        url: str | None = None,
    ) -> None:
        super().__init__(_Readable(sock), debuglevel, method, url)  # type: ignore[arg-type]
        self.sock = sock


class _Http(HTTPConnection):
    response_class = Reply
    _answers = 0

    def putrequest(
        self,
        method: str,
        url: str,
        skip_host: bool = False,
        skip_accept_encoding: bool = False,
    ) -> None:
        _call.reused = self._answers > 0
        super().putrequest(method, url, skip_host, skip_accept_encoding)

    def getresponse(self) -> urllib3.response.HTTPResponse:  # type: ignore[override]
        if _call.guard is not None:
            _call.guard.asked()
        response = super().getresponse()
        self._answers += 1
        return response

    def close(self) -> None:
        self._answers = 0
        super().close()


class _Https(_Http, HTTPSConnection):
    pass


class _HttpPool(HTTPConnectionPool):
    ConnectionCls = _Http


class _HttpsPool(HTTPSConnectionPool):
    ConnectionCls = _Https


_POOLS = {"http": _HttpPool, "https": _HttpsPool}


def request(
    url: str,
    headers: dict[str, str],
    tls: Tls,
    timeout: urllib3.Timeout,
    guard: Guard,
    ask: bytes | None = None,
    *,
    direct: bool = False,
) -> urllib3.BaseHTTPResponse:
    """One GET, not redirected, nothing read of its body. Raises what urllib3 raises, and `Ended`.

    With `ask` a POST of that body. `direct`: whatever proxies the environment names.

    Repeated once, at once, when a kept connection turns out to be dead before any byte of an
    answer: the server closed it while it lay idle, and nobody is to blame.
    """
    manager = _manager_for(url, tls, direct=direct)
    _call.guard = guard
    try:
        while True:
            _call.reused = False
            try:
                return manager.urlopen(
                    "GET" if ask is None else "POST", url, headers=headers, body=ask,
                    redirect=False, retries=False, timeout=timeout,
                    preload_content=False, decode_content=False,
                )  # fmt: skip
            except urllib3.exceptions.ProtocolError as exc:
                died_idle = _call.reused and guard.silent
                if not (died_idle and isinstance(exc.args[-1], ConnectionError)):
                    raise
    finally:
        _call.guard = None


def send(
    method: str,
    url: str,
    headers: dict[str, str],
    tls: Tls,
    timeout: urllib3.Timeout,
    body: Iterator[memoryview],
    guard: Guard | None = None,
) -> urllib3.BaseHTTPResponse:
    """One request with a body that is read once: not redirected, not repeated, nothing read of its
    answer; `headers` say how long the body is. Raises what urllib3 raises, and `Ended`.
    """
    manager = _manager_for(url, tls)
    _call.guard = guard
    try:
        return manager.urlopen(
            method, url, headers=headers, body=cast("IO[bytes]", body),
            redirect=False, retries=False, timeout=timeout,
            preload_content=False, decode_content=False,
        )  # fmt: skip
    finally:
        _call.guard = None


def _manager_for(url: str, tls: Tls, *, direct: bool = False) -> urllib3.PoolManager:
    proxy = None if direct else _proxy_for(url)
    is_tls = urlsplit(url).scheme == "https" or (proxy or "").startswith("https")
    return _manager(tls if is_tls else None, proxy)  # without: no 50 ms for the machine's CAs


def _manager(tls: Tls | None, proxy: str | None) -> urllib3.PoolManager:
    key = (tls, proxy)
    with _managers_lock:
        manager = _managers.get(key)
        if manager is None:
            manager = _managers[key] = _new_manager(tls, proxy)
            if len(_managers) > MAX_MANAGERS:
                _managers.popitem(last=False)[1].clear()
        _managers.move_to_end(key)
        return manager


def _new_manager(tls: Tls | None, proxy: str | None) -> urllib3.PoolManager:
    options: dict[str, Any] = {"num_pools": MAX_HOSTS, "maxsize": MAX_IDLE}
    if tls is not None:
        options["ssl_context"] = _context(tls)
    if tls is not None and tls.pin_sha256 is not None:
        options |= {"assert_fingerprint": tls.pin_sha256, "assert_hostname": False}
    manager = urllib3.PoolManager(**options) if proxy is None else _proxied(proxy, options)
    manager.pool_classes_by_scheme = _POOLS
    return manager


def _proxied(proxy: str, options: dict[str, Any]) -> urllib3.ProxyManager:
    parts = urlsplit(proxy)
    headers = None
    if parts.username is not None:
        user, password = unquote(parts.username), unquote(parts.password or "")
        headers = make_headers(proxy_basic_auth=f"{user}:{password}")
    bare = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], "", "", ""))
    return urllib3.ProxyManager(bare, proxy_headers=headers, **options)


def _context(tls: Tls) -> ssl.SSLContext:
    context = BulkContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies chain and name unless told not to
    if tls.pin_sha256 is not None:
        if not _is_fingerprint(tls.pin_sha256):
            raise ended(FaultKind.LOCAL, "the certificate pin is not a sha-256 in hex")
        context.check_hostname = False  # the fingerprint is the name and the chain
        context.verify_mode = ssl.CERT_NONE
    elif tls.ca_file is None:
        context.load_default_certs()
    else:
        try:
            context.load_verify_locations(tls.ca_file)
        except OSError as exc:
            raise Ended(disk_fault(exc, "read the CA file")) from exc
    if tls.client_cert is not None:
        context.minimum_version = ssl.TLSVersion.TLSv1_3  # a lane of ours; nothing older exists
        try:
            context.load_cert_chain(tls.client_cert, tls.client_key)
        except OSError as exc:
            raise Ended(disk_fault(exc, "read our own certificate")) from exc
    return context


def _is_fingerprint(text: str) -> bool:
    try:
        return len(bytes.fromhex(text.replace(":", ""))) == 32
    except ValueError:
        return False


def _proxy_for(url: str) -> str | None:
    """The environment's proxy for a URL, None for a direct connection."""
    parts = urlsplit(url)
    if urllib.request.proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    proxies = urllib.request.getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy:
        return None
    return proxy if "://" in proxy else f"http://{proxy}"
