"""Clients of Kubo's RPC that other people wrote, asked the same of two servers.

A scenario is a generator of what it is told; `told` makes an answer or an error plain, so that two
runs can be compared. What differs by nature (peer ids, ports, times) is left out by the scenarios.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import subprocess
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.kubo import ipfs_binary
from tests.support.network import wait_until
from tests.support.node_packages import installed, node

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from tests.support.agents import Agent

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # distutils; a urllib3 argument that is going away
    import aioipfs
    import ipfshttpclient

__all__ = ["JsClient", "Server", "aioipfs", "ipfshttpclient", "js_client", "rpc_of", "told"]

ANSWER_S = 240.0
JS_SOURCE = Path(__file__).parent / "kubo_rpc_client"


@dataclass(frozen=True)
class Said:
    """Status, the headers that Kubo's clients look at, body, trailer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.body.splitlines()]

    @property
    def plain(self) -> tuple[int, Mapping[str, str], bytes]:
        return self.status, self.headers, self.body


SHOWN = ("content-type", "x-chunked-output", "x-stream-output", "x-content-length", "allow")


@dataclass(frozen=True)
class Server:
    """One that speaks Kubo's RPC on loopback."""

    host: str
    port: int
    folder: Path  # for the command line's own files

    @property
    def api(self) -> str:
        return f"/ip4/{self.host}/tcp/{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def post(
        self,
        call: str,
        *pairs: tuple[str, str],
        body: bytes | Iterator[bytes] | None = None,
        method: str = "POST",
        headers: Mapping[str, str] | None = None,
    ) -> Said:
        """One call, `call` being `cat?arg=...` or with its arguments in `pairs`."""
        from urllib.parse import urlencode

        target = f"/api/v0/{call}"
        if pairs:
            target += "?" + urlencode(pairs)
        connection = http.client.HTTPConnection(self.host, self.port, timeout=ANSWER_S)
        with contextlib.closing(connection):
            connection.request(method, target, body=body, headers=dict(headers or {}))
            answer = connection.getresponse()
            shown = {key: value for key in SHOWN if (value := answer.getheader(key)) is not None}
            try:
                content = answer.read()
            except http.client.IncompleteRead as exc:
                content = exc.partial
            return Said(answer.status, shown, content)

    def upload(self, call: str, *parts: Part, **options: Any) -> Said:
        """One call with a multipart body."""
        headers = {"Content-Type": "multipart/form-data; boundary=XX"}
        return self.post(call, body=multipart(parts), headers=headers, **options)

    def command(self, *args: str, stdin: bytes = b"", cwd: Path | None = None) -> Any:
        """`ipfs --api ... ARGS`: exit status, output and what it complained of."""
        env = {
            "PATH": os.environ["PATH"], "HOME": str(self.folder), "IPFS_TELEMETRY": "off",
            "IPFS_PATH": str(self.folder / "no-repo"),
        }  # fmt: skip
        done = subprocess.run(
            [ipfs_binary(), "--api", self.api, *args],
            input=stdin, check=False, capture_output=True, timeout=ANSWER_S, env=env, cwd=cwd,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr.decode(errors="replace")


def rpc_of(agent: Agent, folder: Path) -> Server:
    """Where it listens, once it does."""

    def url() -> str | None:
        with agent.client() as client:
            found = client.status()["ipfs"]["rpc"]
        return found

    wait_until(url, "no RPC")
    host, port = str(url()).removeprefix("http://").split(":")
    return Server(host, int(port), folder)


Part = tuple[str, bytes, str]
"""Name (percent-encoded by whoever writes it), content, media type."""

FILE, FOLDER, SYMLINK = "application/octet-stream", "application/x-directory", "application/symlink"


def multipart(parts: Sequence[Part]) -> bytes:
    """A body with the boundary XX."""
    out = bytearray()
    for name, content, kind in parts:
        out += b"--XX\r\n"
        out += f'Content-Disposition: form-data; name="file"; filename="{name}"\r\n'.encode()
        out += f"Content-Type: {kind}\r\n\r\n".encode() + content + b"\r\n"
    return bytes(out + b"--XX--\r\n")


def told(call: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """What it gives, or the error's type and words."""
    try:
        given = call(*args, **options)
        return list(given) if hasattr(given, "__next__") else given
    except Exception as exc:  # noqa: BLE001 - whatever a client makes of an answer
        return type(exc).__name__, str(exc)


@dataclass(frozen=True)
class JsClient:
    """kubo-rpc-client in a node of its own."""

    process: subprocess.Popen[bytes]

    def ask(self, call: str, *args: Any) -> Any:
        """The answer as `calls.mjs` tells it, or its error."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        line = json.dumps({"call": call, "args": [_given(arg) for arg in args]})
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


@dataclass(frozen=True)
class Cid:
    """Text that kubo-rpc-client wants as a CID."""

    text: str


def _given(value: Any) -> Any:
    match value:
        case bytes():
            return {"$bytes": base64.b64encode(value).decode()}
        case Cid():
            return {"$cid": value.text}
        case list():
            return [_given(one) for one in value]
        case dict():
            return {key: _given(one) for key, one in value.items()}
    return value


@contextlib.contextmanager
def js_client(server: Server) -> Iterator[JsClient]:
    """Ready to be asked."""
    folder = installed("kubo-rpc-client", JS_SOURCE)
    process = subprocess.Popen(
        [node(), folder / "calls.mjs", server.url], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        yield JsClient(process)
    finally:
        process.kill()
        process.wait()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        process.stdout.close()
