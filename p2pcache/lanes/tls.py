"""TLS over big receives: a client socket that asks the kernel for 1 MiB at a time.

`ssl.SSLSocket` lets OpenSSL read the socket, which costs two system calls and four layers of
Python for every record of 16 KiB. Here ciphertext is received in large pieces into a memory BIO
and decrypted from there, as many records a call as have arrived. A whole fetch of 512 MiB from
nginx over TLS 1.3 (received, hashed, written to tmpfs; one process, 5 alternating rounds) costs
1.79-2.00 CPU-s/GB with `SSLSocket`, 1.57-1.83 with receives of 256 KiB, 1.49-1.68 with 1 MiB.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import ssl
import threading
import time
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import io
    import socket

    from _typeshed import ReadableBuffer, WriteableBuffer

# Measured (see above); 64 KiB gained nothing over SSLSocket. One buffer a thread, so it is cheap.
RECEIVE_BYTES = 1 << 20
PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS  # see `receive`: workers are forked


class _Scratch(threading.local):
    """Ciphertext on its way into a BIO; one per thread, not per connection."""

    def __init__(self) -> None:
        self.view = memoryview(mmap.mmap(-1, RECEIVE_BYTES, flags=PRIVATE))


_scratch = _Scratch()


class BulkContext(ssl.SSLContext):
    """A client context whose sockets are `BulkTlsSocket`s. Verification is ssl's own.

    Some builds of Python 3.11 (Debian 12's 3.11.2) tell OpenSSL to take a connection that was cut
    for a clean end. It is not: anybody on the path can cut.
    """

    def __init__(self, _protocol: int) -> None:
        self.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF

    def wrap_socket(  # type: ignore[override]
        self, sock: socket.socket, *_args: object, server_hostname: str | None = None, **_kw: object
    ) -> BulkTlsSocket:
        """Shake hands within the socket's timeout. Raises what `ssl` raises, and TimeoutError."""
        return BulkTlsSocket(sock, self, server_hostname)


def _cut(exc: ssl.SSLError) -> bool:
    """Whether TLS ended without a goodbye; Python 3.11.2 has no exception of its own for it."""
    return isinstance(exc, ssl.SSLEOFError) or exc.reason == "UNEXPECTED_EOF_WHILE_READING"


class BulkTlsSocket:
    """What http.client and urllib3 need of a TLS socket. Belongs to one thread at a time."""

    def __init__(
        self, sock: socket.socket, context: ssl.SSLContext, server_hostname: str | None
    ) -> None:
        self._sock = sock
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_hostname=server_hostname
        )
        timeout_s = sock.gettimeout()
        try:
            self._shake_hands(None if timeout_s is None else time.monotonic() + timeout_s)
        finally:
            sock.settimeout(timeout_s)

    def _shake_hands(self, deadline: float | None) -> None:
        """The timeout bounds the whole handshake: a dripping server must not prolong it."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                if deadline is not None:
                    self._sock.settimeout(max(deadline - time.monotonic(), 0.001))
                self._receive()
            except ssl.SSLError:
                with contextlib.suppress(OSError):
                    self._flush()  # the alert that tells the server why
                raise
            else:
                self._flush()
                return

    def recv_into(self, buffer: WriteableBuffer) -> int:
        """Decrypt everything that has arrived into `buffer`, at most its length; 0 at the end.

        Raises ConnectionResetError when the connection ends without TLS saying so.
        """
        view = memoryview(buffer)
        got = 0
        while True:
            try:
                while got < len(view):
                    # typeshed has read() return bytes; into a buffer it returns their number
                    count = cast(int, self._tls.read(len(view) - got, view[got:]))
                    if not count:  # a clean end, where it is not an SSLZeroReturnError
                        return got
                    got += count
                return got
            except ssl.SSLWantReadError:
                if got:
                    return got
                self._receive()
            except ssl.SSLZeroReturnError:
                return got
            except ssl.SSLError as exc:
                if not _cut(exc):
                    raise
                # Without a goodbye anybody on the path may have cut it: not the end of a body.
                if got:
                    return got
                raise ConnectionResetError(errno.ECONNRESET, "TLS ended abruptly") from exc

    def recv(self, count: int) -> bytes:
        """At most `count` bytes, empty at the end (urllib3 asks this of a proxy's socket)."""
        buffer = bytearray(count)
        return bytes(buffer[: self.recv_into(buffer)])

    def sendall(self, data: ReadableBuffer) -> None:
        """Encrypt and send everything."""
        self._tls.write(data)
        self._flush()

    def _flush(self) -> None:
        if data := self._outgoing.read():
            self._sock.sendall(data)

    def _receive(self) -> None:
        self._flush()  # whatever reading caused, such as the answer to a key update
        count = self._sock.recv_into(_scratch.view)
        if count:
            self._incoming.write(_scratch.view[:count])
        else:
            self._incoming.write_eof()

    def makefile(self, *args: Any, **kwargs: Any) -> io.IOBase:  # noqa: ANN401 (socket's own)
        """Keeps the descriptor open until it is closed, as a socket's file does. Not readable."""
        return self._sock.makefile(*args, **kwargs)  # type: ignore[no-any-return]

    def getpeercert(self, binary_form: bool = False) -> Any:  # noqa: ANN401 (ssl's own)
        """The server's certificate."""
        return self._tls.getpeercert(binary_form)

    def selected_alpn_protocol(self) -> str | None:
        """What was negotiated, if anything."""
        return self._tls.selected_alpn_protocol()

    def version(self) -> str | None:
        """The protocol, such as "TLSv1.3"."""
        return self._tls.version()

    def fileno(self) -> int:
        """The descriptor, to wait for."""
        return self._sock.fileno()

    def gettimeout(self) -> float | None:
        """Seconds that one receive may wait."""
        return self._sock.gettimeout()

    def settimeout(self, value: float | None) -> None:
        """Bound every receive and send."""
        self._sock.settimeout(value)

    def shutdown(self, how: int) -> None:
        """Cut the connection under TLS."""
        self._sock.shutdown(how)

    def close(self) -> None:
        """Close as soon as no file holds the descriptor."""
        self._sock.close()
