"""fake-gcs-server, the Google Cloud Storage of other people, built from source as Kubo is.

It keeps objects in memory, speaks the JSON API, and asks nobody for a login.
"""

from __future__ import annotations

import contextlib
import json
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.support.building import CACHE, go_build, go_module, made
from tests.support.processes import free_port, running

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

MODULE = "github.com/fsouza/fake-gcs-server"
VERSION = "v1.56.1"


def fake_gcs_binary() -> Path:
    """The command, built when it is missing."""
    place = CACHE / f"fake-gcs-server-{VERSION}" / "fake-gcs-server"
    return made(place, lambda draft: go_build(go_module(MODULE, VERSION), draft))


@dataclass(frozen=True)
class FakeGcs:
    """A server that runs."""

    url: str
    port: int
    log: Path

    def bucket(self, name: str, files: Mapping[str, bytes] | None = None) -> None:
        """A new bucket with these objects."""
        body = json.dumps({"name": name}).encode()
        self.call("POST", "/storage/v1/b?project=test", body, "application/json")
        for key, content in (files or {}).items():
            self.put(name, key, content)

    def put(
        self, bucket: str, key: str, body: bytes, metadata: Mapping[str, str] | None = None
    ) -> Any:
        """One object, as the JSON API has it then."""
        about = json.dumps({"name": key, "metadata": dict(metadata or {})}).encode()
        whole = (
            b"--b\r\nContent-Type: application/json\r\n\r\n" + about
            + b"\r\n--b\r\nContent-Type: application/octet-stream\r\n\r\n" + body + b"\r\n--b--\r\n"
        )  # fmt: skip
        path = f"/upload/storage/v1/b/{bucket}/o?uploadType=multipart"
        return self.call("POST", path, whole, "multipart/related; boundary=b")

    def read(self, bucket: str, key: str) -> bytes:
        """The bytes of one object."""
        path = f"/storage/v1/b/{bucket}/o/{urllib.parse.quote(key, safe='')}?alt=media"
        with urllib.request.urlopen(self.url + path, timeout=10) as reply:
            return bytes(reply.read())

    def about(self, bucket: str, key: str) -> Any:
        """One object, as the JSON API has it."""
        path = f"/storage/v1/b/{bucket}/o/{urllib.parse.quote(key, safe='')}"
        return self.call("GET", path)

    def keys(self, bucket: str) -> list[str]:
        """The names of all objects."""
        found = self.call("GET", f"/storage/v1/b/{bucket}/o")
        return [item["name"] for item in found.get("items", ())]

    def call(self, method: str, path: str, body: bytes | None = None, kind: str = "") -> Any:
        request = urllib.request.Request(self.url + path, body, method=method)
        if kind:
            request.add_header("Content-Type", kind)
        with urllib.request.urlopen(request, timeout=30) as reply:
            return json.loads(reply.read() or b"null")


@contextlib.contextmanager
def fake_gcs(folder: Path) -> Iterator[FakeGcs]:
    """The server, until the block ends."""
    folder.mkdir(parents=True, exist_ok=True)
    port, log = free_port(), folder / "fake-gcs.log"
    argv = [
        str(fake_gcs_binary()), "-scheme", "http", "-host", "127.0.0.1", "-port", str(port),
        "-backend", "memory", "-public-host", f"127.0.0.1:{port}", "-log-level", "warn",
    ]  # fmt: skip
    with running(argv, port=port, log=log, env={"HOME": str(folder)}):
        yield FakeGcs(f"http://127.0.0.1:{port}", port, log)
