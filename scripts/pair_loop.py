"""The bound of `scripts/bench pair`: ranged GETs of a file between bare processes.

The same layout as an agent's: one server process (a thread a connection), worker processes that
fetch ranges of 16 MiB, hash every block with sha2-256 and write it. Nothing else: no checks, no
ticket, no store, no one that coordinates.

    python -m scripts.pair_loop FILE OUT WORKERS [CERT KEY]     prints seconds and CPU seconds
"""

from __future__ import annotations

import hashlib
import mmap
import multiprocessing
import os
import re
import socket
import ssl
import sys
import threading
import time
from pathlib import Path

BLOCK_BYTES = 1 << 20
RUN_BYTES = 16 << 20  # as p2pcache's own runs


def serve(path: str, listener: socket.socket, tls: tuple[str, str] | None) -> None:
    """Answer for ever."""
    context = None
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(*tls)
    descriptor = os.open(path, os.O_RDONLY)
    size = os.fstat(descriptor).st_size
    view = memoryview(mmap.mmap(descriptor, 0, prot=mmap.PROT_READ))

    def answer(raw: socket.socket) -> None:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock = raw if context is None else context.wrap_socket(raw, server_side=True)
        asked = b""
        while True:
            while b"\r\n\r\n" not in asked:
                more = sock.recv(65536)
                if not more:
                    return
                asked += more
            head, _, asked = asked.partition(b"\r\n\r\n")
            found = re.search(rb"bytes=(\d+)-(\d+)", head)
            assert found is not None
            start, end = int(found[1]), int(found[2]) + 1
            sock.sendall(
                b"HTTP/1.1 206 Partial Content\r\nContent-Length: %d\r\n"
                b"Content-Range: bytes %d-%d/%d\r\n\r\n" % (end - start, start, end - 1, size)
            )
            if context is None:
                while start < end:
                    start += os.sendfile(sock.fileno(), descriptor, start, end - start)
            else:
                for at in range(start, end, BLOCK_BYTES):
                    sock.sendall(view[at : min(at + BLOCK_BYTES, end)])

    while True:
        connection, _ = listener.accept()
        threading.Thread(target=answer, args=(connection,), daemon=True).start()


def work(out: str, size: int, port: int, tls: bool, first: int, step: int, go: object) -> None:
    """Every `step`-th run of the file, from the `first`."""
    descriptor = os.open(out, os.O_RDWR)
    raw = socket.create_connection(("127.0.0.1", port))
    sock = raw
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        sock = context.wrap_socket(raw)
    block = memoryview(bytearray(BLOCK_BYTES))
    go.wait()  # type: ignore[attr-defined]
    for start in range(first * RUN_BYTES, size, step * RUN_BYTES):
        end = min(start + RUN_BYTES, size)
        sock.sendall(b"GET / HTTP/1.1\r\nRange: bytes=%d-%d\r\n\r\n" % (start, end - 1))
        head = b""
        while b"\r\n\r\n" not in head:
            head += sock.recv(1)
        for at in range(start, end, BLOCK_BYTES):
            want, got = min(BLOCK_BYTES, end - at), 0
            while got < want:
                count = sock.recv_into(block[got:want])
                if not count:
                    raise EOFError("the server hung up")
                got += count
            hashlib.sha256(block[:want]).digest()
            os.pwrite(descriptor, block[:want], at)


def main() -> None:
    path, out, workers, *tls = sys.argv[1:]
    pair = (tls[0], tls[1]) if tls else None
    size = Path(path).stat().st_size
    with open(out, "wb") as made:
        made.truncate(size)
    listener = socket.create_server(("127.0.0.1", 0))
    context = multiprocessing.get_context("fork")
    server = context.Process(target=serve, args=(path, listener, pair), daemon=True)
    server.start()
    port, count = listener.getsockname()[1], int(workers)
    go = context.Barrier(count + 1)
    running = [
        context.Process(target=work, args=(out, size, port, pair is not None, n, count, go))
        for n in range(count)
    ]
    for process in running:
        process.start()
    go.wait()
    began = time.perf_counter()
    for process in running:
        process.join()
        if process.exitcode:
            raise SystemExit(process.exitcode)
    seconds = time.perf_counter() - began
    cpu = os.times()
    print(seconds, cpu.children_user + cpu.children_system)  # the server's are not in it: it lives
    server.terminate()


if __name__ == "__main__":
    main()
