"""The workers against a real nginx, plain and over TLS with a private authority."""

from __future__ import annotations

import hashlib
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from p2pcache.lanes.fetch import fetch
from p2pcache.lanes.follow import follow
from p2pcache.lanes.orders import (
    BLOCK_BYTES,
    FaultKind,
    FetchLimits,
    FollowOrder,
    Location,
    SmallOrder,
    Tls,
)
from p2pcache.lanes.small import fetch_small
from tests.support.partial_files import PartialFiles, block_hashes, some_bytes
from tests.support.private_ca import PrivateCa, make_private_ca

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SIZE = 9 * BLOCK_BYTES + 12_345
BODY = some_bytes(SIZE, b"nginx")
LIMITS = FetchLimits(no_progress_s=5.0)
CONFIG = """
daemon off; master_process off; pid {dir}/pid; error_log {dir}/error.log;
events {{ worker_connections 128; }}
http {{
  access_log off; client_body_temp_path {dir}/b; proxy_temp_path {dir}/p;
  fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
  gzip on; gzip_types *; gzip_min_length 1;
  server {{
    listen 127.0.0.1:{plain};
    listen 127.0.0.1:{secure} ssl;
    ssl_certificate {cert}; ssl_certificate_key {key};
    root {dir}/www;
    location /moved/ {{ rewrite ^/moved/(.*)$ /$1 redirect; }}
    location /no-range/ {{ alias {dir}/www/; max_ranges 0; }}
  }}
}}
"""


@dataclass(frozen=True)
class Nginx:
    folder: Path
    ca: PrivateCa
    plain: str
    secure: str

    def location(self, name: str, kind: str) -> Location:
        if kind == "plain":
            return Location(f"{self.plain}/{name}")
        return Location(f"{self.secure}/{name}", tls=Tls(ca_file=self.ca.ca_file))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    folder = tmp_path_factory.mktemp("nginx")
    folder.chmod(0o755)
    ca = make_private_ca(folder)
    (folder / "www").mkdir()
    (folder / "www" / "f").write_bytes(BODY)
    plain, secure = free_port(), free_port()
    (folder / "nginx.conf").write_text(
        CONFIG.format(dir=folder, plain=plain, secure=secure, cert=ca.cert_file, key=ca.key_file)
    )
    command = ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until_open(plain)
            yield Nginx(folder, ca, f"http://127.0.0.1:{plain}", f"https://127.0.0.1:{secure}")
        finally:
            process.terminate()


def wait_until_open(port: int) -> None:
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.025)
        else:
            return
    raise AssertionError("nginx did not start")


@pytest.mark.parametrize("kind", ["plain", "tls"])
def test_pieces_and_the_follower_rebuild_the_blob(kind: str, nginx: Nginx, tmp_path: Path) -> None:
    partial = PartialFiles(tmp_path / "p", SIZE)
    location = nginx.location("moved/f", kind)
    piece = 4 * BLOCK_BYTES
    orders = [
        partial.order(location, start=at, end=min(at + piece, SIZE), limits=LIMITS)
        for at in reversed(range(0, SIZE, piece))
    ]
    with ThreadPoolExecutor(3) as pool:
        following = pool.submit(
            follow, FollowOrder(partial.path("data"), partial.path("live"), SIZE, git_sha1=True)
        )
        for report in pool.map(fetch, orders):
            assert report.fault is None
        whole = following.result(10)
    assert whole.sha256 == hashlib.sha256(BODY).digest()
    assert partial.read("data") == BODY
    assert partial.read("map") == block_hashes(BODY)


def test_a_server_without_ranges_gives_one_stream(nginx: Nginx, tmp_path: Path) -> None:
    partial = PartialFiles(tmp_path / "p", SIZE)
    location = nginx.location("no-range/f", "plain")
    piece = fetch(partial.order(location, end=BLOCK_BYTES, limits=LIMITS))
    assert piece.fault is not None
    assert piece.fault.kind is FaultKind.RANGE_IGNORED
    whole = fetch(partial.order(location, whole=True, limits=LIMITS))
    assert (whole.fault, whole.done) == (None, SIZE)
    assert partial.read("data") == BODY


def test_a_range_beyond_the_end_says_that_the_size_changed(nginx: Nginx, tmp_path: Path) -> None:
    partial = PartialFiles(tmp_path / "p", 20 * BLOCK_BYTES)
    order = partial.order(
        nginx.location("f", "plain"), start=16 * BLOCK_BYTES, end=20 * BLOCK_BYTES, limits=LIMITS
    )
    report = fetch(order)
    assert report.fault is not None
    assert (report.fault.kind, report.fault.http_status) == (FaultKind.UNTRUSTED, 416)


@pytest.mark.parametrize("kind", ["plain", "tls"])
def test_many_small_files_come_in_one_batch(kind: str, nginx: Nginx, tmp_path: Path) -> None:
    orders, bodies = [], []
    for number in range(60):
        data = some_bytes(number * 37, b"small%d" % number)
        (nginx.folder / "www" / f"small{number}").write_bytes(data)
        bodies.append(data)
        orders.append(
            SmallOrder(
                nginx.location(f"small{number}", kind), str(tmp_path / str(number)), len(data),
                sha256=hashlib.sha256(data).digest(),
            )
        )  # fmt: skip
    batch = fetch_small(tuple(orders), LIMITS, threads=4)
    assert [report.fault for report in batch.reports] == [None] * 60
    assert [(tmp_path / str(number)).read_bytes() for number in range(60)] == bodies
