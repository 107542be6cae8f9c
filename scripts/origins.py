"""The origins of demo and benchmarks: nginx (plain and TLS with a private authority) and olah.

Each is a context manager: started on a free loopback port with a data folder of its own, waited
for, and ended by its own process id.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import ipaddress
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

START_TIMEOUT_S = 20.0  # olah imports fastapi and pydantic: 2-4 s on two busy cores
STOP_TIMEOUT_S = 5.0


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a server that we started, politely first."""
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return when the server listens; raise with the end of its log when it does not."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
            return
        time.sleep(0.02)
    tail = log.read_text(errors="replace")[-2000:] if log.exists() else ""
    stop(process)
    raise RuntimeError(f"{process.args!r} does not listen on port {port}\n{tail}")


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority that only this run trusts, and a certificate for 127.0.0.1."""

    ca_file: Path
    certificate: Path
    key: Path


def make_authority(folder: Path) -> Authority:
    """Valid for a day: it never leaves the run that made it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    folder.mkdir(parents=True, exist_ok=True)
    now = datetime.datetime.now(datetime.UTC)

    def certify(
        name: str, issuer: str, key: ec.EllipticCurvePrivateKey, signer: ec.EllipticCurvePrivateKey,
        *, authority: bool,
    ) -> bytes:  # fmt: skip
        def named(text: str) -> x509.Name:
            return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

        builder = (
            x509.CertificateBuilder()
            .subject_name(named(name))
            .issuer_name(named(issuer))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()),
                critical=False,
            )
        )
        if not authority:
            loopback = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
            names = x509.SubjectAlternativeName([loopback, x509.DNSName("localhost")])
            builder = builder.add_extension(names, critical=False)
        return builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    made = Authority(folder / "ca.pem", folder / "server.pem", folder / "server.key")
    ca_name = "p2pcache test authority"
    made.ca_file.write_bytes(certify(ca_name, ca_name, ca_key, ca_key, authority=True))
    made.certificate.write_bytes(certify("127.0.0.1", ca_name, key, ca_key, authority=False))
    made.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return made


@dataclass(frozen=True, slots=True)
class HubRepo:
    """A repository that nginx serves the way the Hub does: `etags` maps each path to its ETag."""

    repo_id: str
    commit: str
    folder: Path
    tree_json: Path
    info_json: Path
    etags: Mapping[str, str]
    large: Mapping[str, int]  # paths whose ETag is a sha256, with their sizes: X-Linked-*


def _hub_maps(repos: Iterable[HubRepo]) -> Iterator[str]:
    """Variables by request path: nginx answers with the headers that the Hub would send."""
    for variable, pick in (
        ("hub_etag", lambda repo, path: repo.etags[path]),
        ("hub_linked_etag", lambda repo, path: repo.etags[path] if path in repo.large else None),
        ("hub_linked_size", lambda repo, path: repo.large.get(path)),
    ):
        yield f"  map $hub_path ${variable} {{\n    default '';\n"
        for repo in repos:
            for path in repo.etags:
                value = pick(repo, path)
                if value is not None:
                    text = value if variable == "hub_linked_size" else f'"{value}"'
                    yield f"    '{repo.repo_id}/{path}' '{text}';\n"
        yield "  }\n"


def _hub_locations(repo: HubRepo) -> str:
    api = f"/api/models/{repo.repo_id}"
    return f"""
    location = {api} {{ default_type application/json; alias {repo.info_json}; }}
    location ~ ^{api}/revision/(main|{repo.commit})$ {{
      default_type application/json; alias {repo.info_json};
    }}
    location ~ ^{api}/tree/(main|{repo.commit})/?$ {{
      default_type application/json; alias {repo.tree_json};
    }}
    location ~ ^/{repo.repo_id}/resolve/(main|{repo.commit})/(?<file>.+)$ {{
      set $hub_path {repo.repo_id}/$file;
      etag off;
      default_type application/octet-stream;
      add_header ETag $hub_etag;
      add_header X-Linked-Etag $hub_linked_etag;
      add_header X-Linked-Size $hub_linked_size;
      add_header X-Repo-Commit {repo.commit};
      alias {repo.folder}/$file;
    }}
"""


def _nginx_conf(
    folder: Path, root: Path, ports: tuple[int, int], tls: Authority | None, repos: list[HubRepo]
) -> str:
    listen = f"    listen 127.0.0.1:{ports[0]} backlog=1024;\n"
    if tls is not None:
        listen += f"""    listen 127.0.0.1:{ports[1]} ssl backlog=1024;
    ssl_certificate {tls.certificate};
    ssl_certificate_key {tls.key};
    ssl_protocols TLSv1.3;
    ssl_session_cache shared:tls:1m;
"""
    # Workers must read folders that only their owner may enter.
    user = "user root;\n" if os.geteuid() == 0 else ""
    temporary = "".join(
        f"  {kind}_temp_path {folder}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""{user}daemon off;
worker_processes auto;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 1024; }}
http {{
{temporary}  access_log off;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 1000000;
  default_type application/octet-stream;
  map_hash_max_size 65536;
  map_hash_bucket_size 512;
  variables_hash_max_size 4096;
{"".join(_hub_maps(repos)) if repos else ""}  server {{
{listen}    root {root};
{"".join(_hub_locations(repo) for repo in repos)}  }}
}}
"""


@dataclass(frozen=True, slots=True)
class Nginx:
    """A running nginx: `plain` and `tls` are base URLs without a final slash."""

    plain: str
    tls: str | None
    process: subprocess.Popen[bytes]


@contextlib.contextmanager
def nginx(
    folder: Path, root: Path, *, tls: Authority | None = None, repos: Iterable[HubRepo] = ()
) -> Iterator[Nginx]:
    """Serve `root` (and `repos` as a Hub) on loopback until the block ends."""
    folder.mkdir(parents=True, exist_ok=True)
    program = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if program is None:
        raise RuntimeError("nginx is not installed: run scripts/setup bench")
    ports = (free_port(), free_port())
    conf, log = folder / "nginx.conf", folder / "error.log"
    conf.write_text(_nginx_conf(folder, root, ports, tls, list(repos)))
    with log.open("wb") as out:
        process = subprocess.Popen(
            [program, "-p", str(folder), "-c", str(conf), "-e", str(log)],
            stdin=subprocess.DEVNULL, stdout=out, stderr=out,
        )  # fmt: skip
    try:
        wait_port(ports[0], process, log)
        secure = f"https://127.0.0.1:{ports[1]}" if tls is not None else None
        yield Nginx(f"http://127.0.0.1:{ports[0]}", secure, process)
    finally:
        stop(process)


def git_blob_id(data: bytes) -> str:
    """What git, and the Hub for small files, calls this content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):  # a loopback URL that we built
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


@contextlib.contextmanager
def olah(program: Path, folder: Path, mirrors: Path) -> Iterator[str]:
    """olah in offline mode over the git repositories below `mirrors`; its base URL."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    conf, log = folder / "olah.toml", folder / "olah.log"
    conf.write_text(f"""[basic]
host = "127.0.0.1"
port = {port}
hf-scheme = "http"
hf-netloc = "127.0.0.1:9"
repos-path = "{folder}/repos"
mirrors-path = ["{mirrors}"]

[accessibility]
offline = true
""")
    with log.open("wb") as out:
        process = subprocess.Popen(
            [str(program), "--config", str(conf)],
            cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
        )  # fmt: skip
    try:
        wait_port(port, process, log)
        base = f"http://127.0.0.1:{port}"
        if not _answers(base):
            raise RuntimeError(f"olah does not answer: see {log}")
        yield base
    finally:
        stop(process)


def file_url(base: str, path: str) -> str:
    """The URL of a file below nginx's root."""
    return f"{base}/{quote(path)}"
