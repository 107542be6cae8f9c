"""A backend that speaks Kubo's RPC: Kubo itself, or a p2pcache agent."""

from __future__ import annotations

import json
import secrets
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import urllib3

from p2pcache.content import cid as cids
from p2pcache.content.blocks import MAX_BLOCK_BYTES
from p2pcache.content.dag import hashes
from p2pcache.errors import NotFound, Unavailable, Untrusted, UsageError
from p2pcache.ipfs_backend import local
from p2pcache.ipfs_backend.backend import CODECS, VerifyingBackend
from p2pcache.ipfs_backend.failures import as_runtime_errors

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from p2pcache.content.dag.build import Profile

MAX_ANSWER_BYTES = 64 << 20  # of rows: an `add` of 400,000 files
FILE, FOLDER, LINK = "application/octet-stream", "application/x-directory", "application/symlink"


@dataclass(frozen=True, slots=True)
class RpcOptions:
    """Patience, in seconds."""

    connect_s: float = 2.0  # loopback, mostly
    silence_s: float = 120.0  # content may have to be found in a network first
    probe_s: float = 2.0  # to say who it is


class RpcBackend(VerifyingBackend):
    """`url`: `http://127.0.0.1:5001`."""

    def __init__(self, name: str, url: str, options: RpcOptions | None = None) -> None:
        self.name = self.role = name
        self.url = url.rstrip("/")
        self._options = options or RpcOptions()
        self._pool = urllib3.PoolManager(maxsize=4, retries=False)

    def version(self) -> dict[str, Any]:
        """Who answers. Raises Unavailable."""
        found: dict[str, Any] = self._rows("version", timeout_s=self._options.probe_s)[0]
        return found

    def fetch(self, cid: bytes) -> bytes:
        """See the base."""
        with self._asked("block/get", {"arg": cids.format_cid(cid)}) as answer:
            block: bytes = answer.read(MAX_BLOCK_BYTES + 1)
        if len(block) > MAX_BLOCK_BYTES:
            raise Untrusted(f"a block of more than {MAX_BLOCK_BYTES} bytes")
        return block

    def add_bytes(self, data: bytes, *, pin: bool = True) -> str:
        """See the port."""
        with as_runtime_errors():
            expected = local.Expected(local.PROFILE)
            pieces = expected.file("", iter([bytes(data)]))
            rows = self._add(local.PROFILE, pin, [("", FILE, pieces)])
            return cids.format_cid(expected.check("", _hash(rows)))

    def add_path(
        self,
        path: str | os.PathLike[str],
        *,
        recursive: bool = True,
        pin: bool = True,
        chunker: str | None = None,
    ) -> str:
        """See the port. `chunker`: `size-<bytes>`."""
        with as_runtime_errors():
            top = Path(path).absolute()
            profile = local.profile(chunker)
            expected = local.Expected(profile)
            found = local.items(top, recursive=recursive)
            rows = self._add(profile, pin, (_part(item, expected) for item in found))
            return cids.format_cid(expected.check(top.name or "folder", _hash(rows)))

    def _add(self, profile: Profile, pin: bool, parts: Any) -> list[dict[str, Any]]:  # noqa: ANN401
        options = {
            "pin": _word(pin), "cid-version": "1", "raw-leaves": "true", "progress": "false",
            "chunker": f"size-{profile.chunk_bytes}", "max-file-links": str(profile.max_links),
        }  # fmt: skip
        return self._rows("add", options, parts=parts)

    def pin(self, cid: str) -> None:
        """See the port."""
        with as_runtime_errors():
            self._rows("pin/add", {"arg": cids.format_cid(self._resolve(cid))})

    def unpin(self, cid: str) -> None:
        """See the port. Raises NotFound when it is not pinned."""
        with as_runtime_errors():
            self._rows("pin/rm", {"arg": cids.format_cid(self._resolve(cid))})

    def block_put(self, data: bytes, *, codec: str = "raw") -> str:
        """See the port."""
        with as_runtime_errors():
            if codec not in CODECS:
                known = ", ".join(CODECS)
                raise UsageError(f"`{codec[:80]}` is no codec of ours", hint=f"known: {known}")
            if len(data) > MAX_BLOCK_BYTES:
                raise UsageError(f"a block of more than {MAX_BLOCK_BYTES} bytes is kept by nobody")
            cid = hashes.cid_of(CODECS[codec], bytes(data))
            parts = [("block", FILE, iter([bytes(data)]))]
            rows = self._rows("block/put", {"cid-codec": codec}, parts=parts)
            if cids.parse_cid(str(rows[-1].get("Key", ""))) != cid:
                said = str(rows[-1].get("Key"))[:200]
                raise Untrusted(f"the backend keeps {cids.format_cid(cid)} as {said}")
            return cids.format_cid(cid)

    # -- the wire --------------------------------------------------------------------------------

    def _rows(
        self,
        call: str,
        arguments: dict[str, str] | None = None,
        *,
        parts: Any = None,  # noqa: ANN401 - an iterable of `_Part`
        timeout_s: float | None = None,
    ) -> list[dict[str, Any]]:
        """The lines of an answer. Raises as `_asked`, Untrusted: no JSON, or far too much."""
        with self._asked(call, arguments or {}, parts, timeout_s) as answer:
            body = answer.read(MAX_ANSWER_BYTES + 1)
        if len(body) > MAX_ANSWER_BYTES:
            raise Untrusted(f"an answer of more than {MAX_ANSWER_BYTES} bytes")
        try:
            rows = [json.loads(line) for line in body.splitlines() if line]
        except ValueError as exc:
            raise Untrusted(f"`{call}` answered with something that is no JSON") from exc
        if any(not isinstance(row, dict) for row in rows):
            raise Untrusted(f"`{call}` answered with something that is no row")
        return rows

    @contextmanager
    def _asked(
        self,
        call: str,
        arguments: dict[str, str],
        parts: Any = None,  # noqa: ANN401
        timeout_s: float | None = None,
    ) -> Iterator[Any]:
        """An answer that is read within. Raises Unavailable, NotFound, UsageError."""
        boundary = secrets.token_hex(16)
        headers = {}
        if parts is not None:
            headers["Content-Type"] = f"multipart/form-data; boundary={boundary}"
        silence_s = timeout_s or self._options.silence_s
        timeout = urllib3.Timeout(connect=self._options.connect_s, read=silence_s)
        url = f"{self.url}/api/v0/{call}?{urlencode(arguments)}"
        try:
            answer = self._pool.request(
                "POST", url, headers=headers, timeout=timeout, preload_content=False,
                body=None if parts is None else _multipart(boundary, parts), redirect=False,
            )  # fmt: skip
        except urllib3.exceptions.HTTPError as exc:
            raise _unreachable(self, exc) from exc
        try:
            if answer.status != 200:
                raise _refused(call, answer.status, answer.read(64 << 10))
            yield answer
        except urllib3.exceptions.HTTPError as exc:
            raise _unreachable(self, exc) from exc
        finally:
            answer.close()  # what was not read is not waited for; the pool makes a new connection


_Part = tuple[str, str, "Iterator[bytes]"]


def _part(item: local.Item, expected: local.Expected) -> _Part:
    if item.kind == "folder":
        expected.folder(item.path)
        return item.path, FOLDER, iter(())
    if item.kind == "link":
        target = str(item.place.readlink())
        expected.link(item.path, target)
        return item.path, LINK, iter([target.encode()])
    return item.path, FILE, expected.file(item.path, local.pieces_of(item.place))


def _multipart(boundary: str, parts: Iterator[_Part]) -> Iterator[bytes]:
    """A body, as it is read."""
    for name, kind, pieces in parts:
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"'
        head += f'; filename="{quote(name, safe="")}"\r\nContent-Type: {kind}\r\n\r\n'
        yield head.encode()
        yield from pieces
        yield b"\r\n"
    yield f"--{boundary}--\r\n".encode()


def _hash(rows: list[dict[str, Any]]) -> str:
    """The CID of what was added: the last row's. Raises Untrusted."""
    if not rows or not isinstance(rows[-1].get("Hash"), str):
        raise Untrusted("the backend does not say what it added")
    return str(rows[-1]["Hash"])


def _word(value: bool) -> str:
    return "true" if value else "false"


def _unreachable(backend: RpcBackend, exc: Exception) -> Unavailable:
    return Unavailable(f"{backend.name} at {backend.url} does not answer: {type(exc).__name__}")


def _refused(call: str, status: int, body: bytes) -> Exception:
    """Kubo tells kinds of errors by words alone."""
    try:
        said = str(json.loads(body)["Message"])
    except (ValueError, KeyError, TypeError):
        said = body.decode("utf-8", "replace").strip()
    message = f"`{call}`: {said[:1000] or status}"
    if any(words in said for words in ("not pinned", "could not find", "no link named")):
        return NotFound(message)
    if status in (400, 404, 405, 501):
        return UsageError(message)
    return Unavailable(message)
