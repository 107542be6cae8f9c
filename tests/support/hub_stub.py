"""A small Hugging Face Hub in this process, for what no installable Hub does on demand.

Redirects to another origin, X-Linked-* and Xet headers, Link pagination, missing sizes, every
X-Error-Code, refused tokens, 429 with Retry-After, outages, and hostile replies. It serves the
same `HubRepo`s as olah and nginx. `HubStub.asked` is the log of requests; the switches may be set
while it runs.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import parse_qs, quote, unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.support.hub_repo import BuiltFile, HubRepo

GOOD_TOKEN = "hf_good"  # allowed everywhere
NO_ACCESS_TOKEN = "hf_no_access"  # valid, but on no list and in no organisation
_TYPES = ("models", "datasets", "spaces")
_SHORT_BODY_BYTES = 1 << 16


@dataclass(frozen=True)
class Asked:
    origin: str  # "hub" or "cdn"
    method: str
    path: str  # with its query, still quoted
    authorization: str | None
    range: str | None
    accept_encoding: str | None


@dataclass(frozen=True)
class Answer:
    """A whole reply that takes the place of the usual one."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


@dataclass
class HubStub:
    """The running stub: its addresses, its switches, and what it was asked."""

    url: str
    cdn_url: str
    repos: dict[tuple[str, str], HubRepo]
    gated: set[str] = field(default_factory=set)  # repository ids
    private: set[str] = field(default_factory=set)
    disabled: set[str] = field(default_factory=set)
    redirect_lfs: bool = True  # /resolve of LFS files answers 302 to the other origin
    xet: bool = False  # advertise Xet in /tree and on /resolve
    sizes: bool = True  # X-Linked-Size and Content-Length on HEAD
    page_entries: int = 1000  # of /tree, as the Hub
    pages_at: str | None = None  # the origin that `Link: rel="next"` names, else the hub itself
    down: bool = False  # connections are cut without a reply
    storm: Answer | None = None  # for every request, e.g. 429 or 503
    replies: dict[str, Answer] = field(default_factory=dict)  # by the start of the path
    asked: list[Asked] = field(default_factory=list)
    corrupt: Callable[[str, bytes], bytes] | None = None  # (path, body) -> body

    def paths(self) -> list[str]:
        return [request.path for request in self.asked]

    def limit(self, retry_after: str | None = "7") -> None:
        """Answer 429 until `storm` is None again."""
        headers = () if retry_after is None else (("Retry-After", retry_after),)
        self.storm = Answer(429, b'{"error":"Too many requests"}', headers)


@contextlib.contextmanager
def hub_stub(*repos: HubRepo) -> Iterator[HubStub]:
    """Two servers (hub and CDN) on ports of their own, until the block ends."""
    servers = [_Server(("127.0.0.1", 0), _Handler) for _ in range(2)]
    urls = [f"http://127.0.0.1:{server.server_address[1]}" for server in servers]
    stub = HubStub(urls[0], urls[1], {(f"{r.repo_type}s", r.repo_id): r for r in repos})
    threads = []
    for server, origin in zip(servers, ("hub", "cdn"), strict=True):
        server.stub, server.origin = stub, origin
        threads.append(threading.Thread(target=server.serve_forever, args=(0.02,)))
        threads[-1].start()
    try:
        yield stub
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            server.server_close()
            thread.join()


class _Server(ThreadingHTTPServer):
    stub: HubStub
    origin: str
    daemon_threads = True
    request_queue_size = 64


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    routes: ClassVar[Sequence[tuple[re.Pattern[str], str]]] = [
        (re.compile(rf"^/api/({'|'.join(_TYPES)})/([^/]+/[^/]+)$"), "info"),
        (re.compile(rf"^/api/({'|'.join(_TYPES)})/([^/]+/[^/]+)/revision/([^/]+)$"), "info"),
        (re.compile(rf"^/api/({'|'.join(_TYPES)})/([^/]+/[^/]+)/tree/([^/]+)(?:/(.*))?$"), "tree"),
        (re.compile(rf"^/api/({'|'.join(_TYPES)})/([^/]+/[^/]+)/auth-check$"), "auth_check"),
        (re.compile(r"^/(?:(datasets|spaces)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)$"), "resolve"),
        (re.compile(rf"^/cdn/({'|'.join(_TYPES)})/([^/]+/[^/]+)/(.+)$"), "cdn"),
    ]

    def log_message(self, *_: object) -> None:
        """Nothing on stderr: the log is `HubStub.asked`."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        stub = self.server.stub
        header = self.headers.get
        stub.asked.append(
            Asked(self.server.origin, self.command, self.path, header("Authorization"),
                  header("Range"), header("Accept-Encoding"))
        )  # fmt: skip
        if stub.down:
            self.close_connection = True
            return
        if stub.storm is not None:
            self._answer(stub.storm)
            return
        path = urlsplit(self.path).path
        for start, answer in stub.replies.items():
            if path.startswith(start):
                self._answer(answer)
                return
        for pattern, name in self.routes:
            if found := pattern.match(path):
                values = [None if part is None else unquote(part) for part in found.groups()]
                getattr(self, f"_{name}")(*values)
                return
        self._error(404, None, "Sorry, we can't find the page you are looking for.")

    # what the Hub does

    def _info(self, kind: str, repo_id: str, revision: str | None = None) -> None:
        repo = self._repo(kind, repo_id)
        commit = repo and self._commit(repo, revision or "main")
        if repo is None or commit is None:
            return
        gated: object = "manual" if repo_id in self.server.stub.gated else False
        private = repo_id in self.server.stub.private
        siblings = [{"rfilename": path} for path in repo.files]
        self._json(
            {"id": repo_id, "sha": commit, "gated": gated, "private": private, "siblings": siblings}
        )

    def _tree(self, kind: str, repo_id: str, revision: str, below: str | None = None) -> None:
        repo = self._repo(kind, repo_id)
        commit = repo and self._commit(repo, revision)
        if repo is None or commit is None:
            return
        query = parse_qs(urlsplit(self.path).query)
        recursive = query.get("recursive", ["false"])[0].lower() == "true"
        entries = self._entries(repo, (below or "").rstrip("/"), recursive)
        if below and not entries:
            self._error(404, "EntryNotFound", f"{below} does not exist on {revision}")
            return
        start = int(query.get("cursor", ["0"])[0])
        end = start + self.server.stub.page_entries
        headers = []
        if end < len(entries):
            again = f"{self.server.stub.pages_at or self.server.stub.url}{urlsplit(self.path).path}"
            flags = f"recursive={str(recursive).lower()}&expand=false"
            headers.append(("Link", f'<{again}?{flags}&cursor={end}>; rel="next"'))
        self._json(entries[start:end], headers)

    def _entries(self, repo: HubRepo, below: str, recursive: bool) -> list[dict[str, Any]]:
        start = f"{below}/" if below else ""
        folders, files = {}, []
        for path, file in sorted(repo.files.items()):
            if not path.startswith(start):
                continue
            parts = path[len(start) :].split("/")
            for depth in range(1, len(parts) if recursive else min(2, len(parts))):
                folder = start + "/".join(parts[:depth])
                folders[folder] = {"type": "directory", "oid": "1" * 40, "size": 0, "path": folder}
            if recursive or len(parts) == 1:
                advertise = self.server.stub.xet and file.lfs
                files.append(file.tree_entry(_xet_hash(file) if advertise else None))
        return [*folders.values(), *files]

    def _auth_check(self, kind: str, repo_id: str) -> None:
        if self._repo(kind, repo_id) is not None and self._may_read(repo_id):
            self._json({})

    def _resolve(self, kind: str | None, repo_id: str, revision: str, path: str) -> None:
        stub = self.server.stub
        kind = kind or "models"
        repo = self._repo(kind, repo_id)
        commit = repo and self._commit(repo, revision)
        if repo is None or commit is None or not self._may_read(repo_id):
            return
        file = repo.files.get(path)
        commit_header = ("X-Repo-Commit", commit)
        if file is None:
            self._error(404, "EntryNotFound", "Entry not found", [commit_header])
            return
        headers = [commit_header, ("Accept-Ranges", "bytes")]
        if not file.lfs:
            self._file(file, [*headers, ("ETag", f'"{file.etag}"')])
            return
        headers.append(("X-Linked-Etag", f'"{file.etag}"'))
        if stub.sizes:
            headers.append(("X-Linked-Size", str(file.size)))
        if stub.xet:
            token_route = f"{stub.url}/api/{kind}/{repo_id}/xet-read-token/{commit}"
            headers += [("X-Xet-Hash", _xet_hash(file))]
            headers += [("Link", f'<{token_route}>; rel="xet-auth"')]
        if stub.redirect_lfs:
            target = f"{stub.cdn_url}/cdn/{kind}/{repo_id}/{quote(path)}?signature=secret"
            self._answer(Answer(302, b"", (*headers, ("Location", target))))
        else:
            self._file(file, [*headers, ("ETag", f'"{file.etag}"')])

    def _cdn(self, kind: str, repo_id: str, path: str) -> None:
        if self.headers.get("Authorization") is not None:  # as presigned URLs of S3 do
            self._answer(Answer(400, b"Only one auth mechanism allowed"))
            return
        file = self.server.stub.repos[kind, repo_id].files[path]
        self._file(file, [("ETag", f'"{file.etag}"'), ("Accept-Ranges", "bytes")])

    # who may see what

    def _token(self) -> str | None:
        value = self.headers.get("Authorization")
        return None if value is None else value.removeprefix("Bearer ")

    def _repo(self, kind: str, repo_id: str) -> HubRepo | None:
        """The repository, or an error reply and None."""
        stub, token = self.server.stub, self._token()
        if token not in (None, GOOD_TOKEN, NO_ACCESS_TOKEN):
            self._error(401, None, "Invalid credentials in Authorization header")
            return None
        repo = stub.repos.get((kind, repo_id))
        if repo is None or (repo_id in stub.private and token != GOOD_TOKEN):
            # anonymous callers get the same 401 for missing and private (contracts.md A4)
            self._error(401 if token is None else 404, "RepoNotFound", "Repository not found")
            return None
        if repo_id in stub.disabled:
            self._error(403, None, "Access to this resource is disabled.")
            return None
        return repo

    def _may_read(self, repo_id: str) -> bool:
        if repo_id not in self.server.stub.gated or self._token() == GOOD_TOKEN:
            return True
        said = f"Access to {repo_id} is restricted. Visit the repository page to ask for access."
        self._error(401 if self._token() is None else 403, "GatedRepo", said)
        return False

    def _commit(self, repo: HubRepo, revision: str) -> str | None:
        if revision == repo.commit:
            return revision
        if revision not in repo.refs:
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return repo.refs.get(revision)

    # replies

    def _json(self, value: object, headers: Sequence[tuple[str, str]] = ()) -> None:
        body = json.dumps(value).encode()
        self._answer(Answer(200, body, (("Content-Type", "application/json"), *headers)))

    def _error(
        self, status: int, code: str | None, said: str, headers: Sequence[tuple[str, str]] = ()
    ) -> None:
        named = [*headers, ("X-Error-Message", said)]
        if code is not None:
            named.append(("X-Error-Code", code))
        self._answer(Answer(status, json.dumps({"error": said}).encode(), tuple(named)))

    def _file(self, file: BuiltFile, headers: list[tuple[str, str]]) -> None:
        stub = self.server.stub
        body = file.on_disk.read_bytes()
        if stub.corrupt is not None:
            body = stub.corrupt(file.path, body)
        if self.command == "HEAD" and not stub.sizes:
            self._answer(Answer(200, b"", tuple(headers)), length=False)
            return
        status = 200
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            first, last = int(wanted[1]), int(wanted[2] or len(body) - 1)
            if first >= len(body):
                self._answer(Answer(416, b"", (("Content-Range", f"bytes */{len(body)}"),)))
                return
            last = min(last, len(body) - 1)
            headers.append(("Content-Range", f"bytes {first}-{last}/{len(body)}"))
            status, body = 206, body[first : last + 1]
        self._answer(Answer(status, body, tuple(headers)))

    def _answer(self, answer: Answer, *, length: bool = True) -> None:
        self.send_response(answer.status)
        names = {name.lower() for name, _ in answer.headers}
        for name, value in answer.headers:
            self.send_header(name, value)
        if length and not names & {"content-length", "transfer-encoding"}:
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        with contextlib.suppress(ConnectionError):  # a client that read enough may hang up
            for at in range(0, len(answer.body), _SHORT_BODY_BYTES):
                self.wfile.write(answer.body[at : at + _SHORT_BODY_BYTES])


def _xet_hash(file: BuiltFile) -> str:
    """Any 64 hex digits do: p2pcache must not use Xet, and the stub has no Xet storage."""
    return file.sha256[::-1]
