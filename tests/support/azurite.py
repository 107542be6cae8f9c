"""Azurite, Microsoft's own emulator of Azure Blob Storage, on loopback with a fresh folder.

It checks keys and signatures as Azure does; accounts are in the path of an address.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import html
import re
import ssl
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.node_packages import installed, node
from tests.support.processes import free_port, running

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.support.certs import ServerCert

SOURCE = Path(__file__).with_name("azurite_server")
ACCOUNT = "tester"
KEY = base64.b64encode(b"a secret key of the tester's account, for Azurite alone").decode()
_VERSION = "2021-12-02"


@dataclass(frozen=True)
class Azurite:
    """A server that runs. `azure`: what the caller's environment would bring to `get`."""

    url: str
    port: int
    log: Path
    ca_file: Path | None = None

    @property
    def azure(self) -> dict[str, str]:
        return {
            "azure_account": ACCOUNT,
            "azure_key": KEY,
            "azure_endpoint_url": f"{self.url}/{ACCOUNT}",
        }

    def container(self, name: str, files: Mapping[str, bytes] | None = None) -> None:
        """A new container with these blobs."""
        self.call("PUT", f"/{name}", "restype=container")
        for key, body in (files or {}).items():
            self.put(name, key, body)

    def put(
        self, container: str, key: str, body: bytes, metadata: Mapping[str, str] | None = None
    ) -> None:
        """One blob."""
        told = {f"x-ms-meta-{name}": value for name, value in (metadata or {}).items()}
        told["x-ms-blob-type"] = "BlockBlob"
        self.call("PUT", f"/{container}/{urllib.parse.quote(key)}", "", body, told)

    def read(self, container: str, key: str) -> bytes:
        """The bytes of one blob."""
        return self.call("GET", f"/{container}/{urllib.parse.quote(key)}")

    def keys(self, container: str) -> list[str]:
        """The names of all blobs."""
        page = self.call("GET", f"/{container}", "restype=container&comp=list").decode()
        return [html.unescape(name) for name in re.findall("<Name>([^<]*)</Name>", page)]

    def staged(self, container: str, key: str) -> list[str]:
        """The ids of blocks that wait to become a blob."""
        query = "blocklisttype=uncommitted&comp=blocklist"
        try:
            page = self.call("GET", f"/{container}/{urllib.parse.quote(key)}", query).decode()
        except AssertionError:  # there is nothing yet
            return []
        return re.findall("<Name>([^<]*)</Name>", page)

    def sha256(self, container: str, key: str) -> str:
        """What our own uploads say about a blob."""
        prefix = urllib.parse.quote(key, safe="")
        query = f"restype=container&comp=list&include=metadata&prefix={prefix}"
        page = self.call("GET", f"/{container}", query).decode()
        return re.findall("(?i)<p2pcache_sha256>([^<]*)<", page)[0]

    def call(
        self, method: str, path: str, query: str = "", body: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> bytes:  # fmt: skip
        """One request, signed with the account's key ("Authorize with Shared Key")."""
        sent = {**(headers or {}), "x-ms-date": formatdate(usegmt=True), "x-ms-version": _VERSION}
        fields = "".join(f"{name}:{sent[name]}\n" for name in sorted(sent))
        length = str(len(body)) if body else ""
        kind = "application/octet-stream" if method == "PUT" else ""
        said = "".join(f"\n{name}:{value}" for name, value in sorted(urllib.parse.parse_qsl(query)))
        # In the path of an emulator the account is there twice.
        resource = f"/{ACCOUNT}/{ACCOUNT}{path}{said}"
        text = f"{method}\n\n\n{length}\n\n{kind}\n\n\n\n\n\n\n{fields}{resource}"
        mac = hmac.digest(base64.b64decode(KEY), text.encode(), hashlib.sha256)
        sent["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(mac).decode()}"
        if kind:
            sent["Content-Type"] = kind
        url = f"{self.url}/{ACCOUNT}{path}" + (f"?{query}" if query else "")
        data = body if method == "PUT" else None
        request = urllib.request.Request(url, data, sent, method=method)
        trusted = None if self.ca_file is None else ssl.create_default_context(cafile=self.ca_file)
        try:
            with urllib.request.urlopen(request, timeout=30, context=trusted) as reply:
                return bytes(reply.read())
        except urllib.error.HTTPError as exc:
            with exc:
                raise AssertionError(f"{exc.code} {exc.read()[:600]!r}") from exc


@contextlib.contextmanager
def azurite(folder: Path, *, tls: ServerCert | None = None) -> Iterator[Azurite]:
    """The server, until the block ends. With `tls` it takes tokens, which it only reads."""
    folder.mkdir(parents=True, exist_ok=True)
    port, log = free_port(), folder / "azurite.log"
    script = installed("azurite", SOURCE) / "node_modules/azurite/dist/src/blob/main.js"
    argv = [
        str(node()), str(script), "--skipApiVersionCheck", "--silent", "--disableTelemetry",
        "--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder),
    ]  # fmt: skip
    if tls is not None:
        argv += ["--oauth", "basic", "--cert", str(tls.cert_file), "--key", str(tls.key_file)]
    env = {"AZURITE_ACCOUNTS": f"{ACCOUNT}:{KEY}", "HOME": str(folder)}
    with running(argv, port=port, log=log, env=env, cwd=folder):
        if tls is None:
            yield Azurite(f"http://127.0.0.1:{port}", port, log)
        else:
            yield Azurite(f"https://127.0.0.1:{port}", port, log, tls.ca_file)
