"""A byte server process and a reader of it, without the agent between them."""

from __future__ import annotations

import itertools
import secrets
import socket
import ssl
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

from p2pcache.lanes.certificate import Certificate, make_certificate
from p2pcache.lanes.reach import Reach
from p2pcache.lanes.serve.control import Unpacker, pack
from p2pcache.lanes.serve.options import ServeOptions
from p2pcache.lanes.tickets import (
    Ticket,
    address_binding,
    certificate_binding,
    issue_ticket,
)

if TYPE_CHECKING:
    from pathlib import Path

    from p2pcache.lanes.orders import Location
    from p2pcache.lanes.serve.table import Entry

SCOPE = b"scope of the tests"
NAME = b"\x12\x20" + bytes(32)
READER = b"reader of the tests"


@dataclass
class Reader:
    """Another agent: its certificate on disk, as fetch workers want it."""

    folder: Path
    name: bytes = READER

    def __post_init__(self) -> None:
        self.certificate: Certificate = make_certificate()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.cert_path, self.key_path = self.folder / "reader.pem", self.folder / "reader.key"
        self.cert_path.write_bytes(self.certificate.pem)
        self.key_path.write_bytes(self.certificate.key_pem)

    def context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.load_cert_chain(self.cert_path, self.key_path)
        return context


@dataclass
class LaneServer:
    """The process, while the context is open. With `tls`, it has a certificate."""

    tls: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def __enter__(self) -> Self:
        self._numbers = itertools.count(1)
        self._unpacker = Unpacker()
        self.stale: list[bytes] = []
        self.loads: list[tuple[float, float]] = []
        self.crowded: list[bytes] = []
        self._control, theirs = socket.socketpair()
        self._control.settimeout(20)
        command = [sys.executable, "-m", "p2pcache.lanes.serve", "--control-fd"]
        self.process = subprocess.Popen(
            [*command, str(theirs.fileno())], pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
        )
        theirs.close()
        made = ServeOptions(secrets.token_bytes(32), ("127.0.0.1",))
        self.certificate = make_certificate()
        if self.tls:
            made = replace(
                made, certificate_pem=self.certificate.pem, key_pem=self.certificate.key_pem
            )
        self.made = replace(made, **self.options)
        _, _, self.port, self.fingerprint = self.tell("options", self.made.to_wire())
        return self

    def __exit__(self, *_exc: object) -> None:
        self._control.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def tell(self, kind: str, *fields: object) -> list[Any]:
        number = next(self._numbers)
        self._control.sendall(pack(kind, number, *fields))
        answer: list[Any] | None = None
        while answer is None:
            for message in self._unpacker.feed(self._control.recv(1 << 16)):
                if message[0] == "stale":
                    self.stale.append(message[1])
                elif message[0] == "load":
                    self.loads.append((message[1], message[2]))
                elif message[0] == "crowded":
                    self.crowded += message[1]
                elif message[1] == number:
                    answer = message
        assert answer[0] != "failed", answer
        return answer

    def serve(self, entries: dict[bytes, Entry], scope: bytes = SCOPE) -> None:
        self.tell("add", scope, [[name, entry.to_wire()] for name, entry in entries.items()])

    def statistics(self) -> dict[str, Any]:
        return self.tell("statistics")[2]  # type: ignore[no-any-return]

    def token(
        self, reader: Reader | None = None, *, scope: bytes = SCOPE, lifetime_s: float = 60.0
    ) -> str:
        """For a reader's certificate, or without one for 127.0.0.1."""
        binding = address_binding("127.0.0.1")
        if reader is not None:
            binding = certificate_binding(reader.certificate.fingerprint)
        name = READER if reader is None else reader.name
        ticket = Ticket(name, scope, time.monotonic() + lifetime_s)
        return issue_ticket(self.made.secret, ticket, binding)

    def location(
        self, reader: Reader | None = None, name: bytes = NAME, token: str | None = None
    ) -> Location:
        """What a fetch worker is given."""
        return self.reach(reader, token).blob(name)

    def bundle(self, reader: Reader | None = None) -> Location:
        return self.reach(reader).bundle()

    def reach(self, reader: Reader | None = None, token: str | None = None) -> Reach:
        token = self.token(reader) if token is None else token
        if reader is None:
            return Reach("127.0.0.1", self.port, token)
        fingerprint = self.certificate.fingerprint
        paths = str(reader.cert_path), str(reader.key_path)
        return Reach("127.0.0.1", self.port, token, fingerprint, *paths)

    def connect(self, source: str = "127.0.0.1") -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), 10, source_address=(source, 0))

    def ask(self, sock: socket.socket, target: str, *headers: str, method: str = "GET") -> None:
        sock.sendall("\r\n".join([f"{method} {target} HTTP/1.1", *headers, "", ""]).encode())

    def get(self, *headers: str, name: bytes = NAME, method: str = "GET") -> Answer:
        """One request over a connection of its own."""
        with self.connect() as sock:
            ticket = f"Authorization: Ticket {self.token()}"
            self.ask(sock, f"/blob/{name.hex()}", "Host: x", ticket, *headers, method=method)
            return read_answer(sock, body=method != "HEAD")


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def said(self) -> str:
        return self.headers.get("x-error-message", "")


def read_answer(sock: socket.socket, *, body: bool = True) -> Answer:
    """One answer; `status` 0 when the connection ends without one."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = sock.recv(65536)
        if not more:
            return Answer(0, {}, data)
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = {
        name.lower(): value.strip()
        for name, _, value in (line.partition(":") for line in lines[1:])
    }
    length = int(headers.get("content-length", 0)) if body else 0
    while len(rest) < length and (more := sock.recv(65536)):
        rest += more
    return Answer(int(lines[0].split()[1]), headers, rest)


def is_cut(sock: socket.socket, within_s: float) -> bool:
    """Whether the other end closes the connection in time, whatever it still says."""
    give_up = time.monotonic() + within_s
    try:
        while (left := give_up - time.monotonic()) > 0:
            sock.settimeout(left)
            if not sock.recv(65536):
                return True
    except TimeoutError:
        return False
    except OSError:
        return True
    return False
