"""A real nginx on a port of its own: plain or TLS, with or without a rate limit or ranges.

It serves a folder as files, and on request a `HubRepo` as a static Hugging Face Hub (the /api
replies are JSON files, the headers that clients need come from a generated map), so that
unmodified clients and p2pcache can be measured against the same fast origin.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from tests.support.processes import free_port, listens, running

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.support.certs import ServerCert
    from tests.support.hub_repo import HubRepo

_CONFIG = """\
{user}
daemon off;
worker_processes {workers};
pid {data}/nginx.pid;
error_log {data}/error.log warn;
events {{ worker_connections 1024; }}
http {{
  types {{ }}
  default_type application/octet-stream;
  client_body_temp_path {data}/tmp_body;
  proxy_temp_path {data}/tmp_proxy;
  fastcgi_temp_path {data}/tmp_fastcgi;
  uwsgi_temp_path {data}/tmp_uwsgi;
  scgi_temp_path {data}/tmp_scgi;
  log_format requests escape=json '{{"method":"$request_method","uri":"$uri","range":"$http_range",'
    '"authorization":"$http_authorization","status":$status,"body_bytes":$body_bytes_sent}}';
  access_log {data}/access.log requests;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 100000;
  {http_extra}
  server {{
    listen {host}:{port}{ssl};
    root {root};
    {limits}
    {server_extra}
  }}
}}
"""


@dataclass(frozen=True)
class Request:
    method: str
    uri: str
    range: str
    authorization: str
    status: int
    body_bytes: int


@dataclass(frozen=True)
class Nginx:
    url: str
    pid: int
    data: Path

    def requests(self) -> list[Request]:
        """What was asked so far; nginx writes a line when a request has ended."""
        lines = (self.data / "access.log").read_text().splitlines()
        return [Request(**json.loads(line)) for line in lines]

    def body_bytes(self) -> int:
        return sum(request.body_bytes for request in self.requests())


@dataclass(frozen=True)
class Extra:
    """Further configuration: lines of the `http` block and of the `server` block."""

    http: str = ""
    server: str = ""


@contextlib.contextmanager
def nginx(
    root: Path,
    data: Path,
    *,
    tls: ServerCert | None = None,
    limit_rate_bytes_per_s: int | None = None,
    ranges: bool = True,
    extra: Extra = Extra(),
    port: int | None = None,
    workers: int = 1,
    host: str = "127.0.0.1",
    prefix: Sequence[str] = (),
) -> Iterator[Nginx]:
    """Serve `root` until the block ends; `data` holds its configuration and logs.

    `prefix`: what runs a command where `host` is an address (`namespaces.Lan.prefix`).
    `workers`: processes; a benchmark uses one a core, so that nginx is not what is measured.
    """
    data.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    limits = []
    if limit_rate_bytes_per_s is not None:
        limits.append(f"limit_rate {limit_rate_bytes_per_s};")  # of each connection
    if not ranges:
        limits.append("max_ranges 0;")
    if tls is not None:
        limits += [f"ssl_certificate {tls.cert_file};", f"ssl_certificate_key {tls.key_file};"]
        limits.append("ssl_protocols TLSv1.2 TLSv1.3;")
    config = data / "nginx.conf"
    config.write_text(
        _CONFIG.format(
            # as root the workers would become `nobody`, who cannot read a test's folder
            user="user root;" if os.geteuid() == 0 else "",
            workers=workers,
            data=data,
            root=root,
            host=host,
            port=port,
            ssl=" ssl" if tls else "",
            limits="\n    ".join(limits),
            http_extra=extra.http,
            server_extra=extra.server,
        )
    )
    argv = [*prefix, _command(), "-c", str(config), "-p", str(data), "-e", str(data / "error.log")]
    ready = (lambda pid: listens(pid, port)) if prefix else None
    with running(argv, port=port, log=data / "output.log", ready=ready) as process:
        yield Nginx(f"{'https' if tls else 'http'}://{host}:{port}", process.pid, data)


def static_hub(repo: HubRepo, site: Path) -> Extra:
    """Lay a repository out as a Hub below `site` (nginx's root) and give the headers it needs.

    The large files are linked, not copied. `main`, the tags and the commit can be asked for.
    """
    kind = f"{repo.repo_type}s"
    prefix = "" if repo.repo_type == "model" else f"{kind}/"
    tree = json.dumps([file.tree_entry() for file in repo.files.values()])
    info = {
        "id": repo.repo_id, "sha": repo.commit, "gated": False, "private": False,
        "siblings": [{"rfilename": path} for path in repo.files],
    }  # fmt: skip
    api = site / "api" / kind
    revisions = [repo.commit, *(name for name in repo.refs if "/" not in name)]
    for revision in revisions:
        _write(api / repo.repo_id / "revision" / f"{revision}.json", json.dumps(info))
        _write(api / repo.repo_id / "tree" / f"{revision}.json", tree)
        resolved = site / prefix / repo.repo_id / "resolve" / revision
        resolved.parent.mkdir(parents=True, exist_ok=True)
        resolved.symlink_to(repo.plain)
    _write(api / f"{repo.repo_id}.json", json.dumps(info))
    etags = "\n".join(
        f'  "{_nginx_text(f"/{prefix}{repo.repo_id}/resolve/{revision}/{path}")}" {file.etag};'
        for revision in revisions
        for path, file in repo.files.items()
    )
    _write(site / "etags.map", etags)
    return Extra(
        http=(
            "map_hash_max_size 262144; map_hash_bucket_size 1024;\n"
            f"  map $uri $linked_etag {{\n  include {site}/etags.map;\n  }}"
        ),
        server=(
            "location /api/ { default_type application/json; try_files $uri.json =404; }\n"
            "    location / {\n"
            "      etag off;\n"
            f"      add_header X-Repo-Commit {repo.commit};\n"
            "      add_header ETag '\"$linked_etag\"';\n"
            "    }"
        ),
    )


def file_url(base: str, path: str) -> str:
    """The URL of a file that nginx serves."""
    return f"{base}/{quote(path)}"


def _nginx_text(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"')


def _write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")


def _command() -> str:
    """nginx lives in /usr/sbin on Debian, which is not on every user's PATH."""
    for folder in [*os.environ.get("PATH", "").split(":"), "/usr/sbin", "/usr/local/sbin"]:
        candidate = Path(folder) / "nginx"
        if folder and candidate.exists():
            return str(candidate)
    raise RuntimeError("nginx is needed: apt-get install nginx-light")
