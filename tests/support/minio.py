"""MinIO, the S3 of other people, on loopback with a fresh folder."""

from __future__ import annotations

import contextlib
import shutil
import ssl
import time
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.support.building import CACHE, go_build, go_module, made
from tests.support.processes import free_port, running
from tests.support.s3_server import S3Server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.certs import ServerCert

MODULE = "github.com/minio/minio"
VERSION = "v0.0.0-20260212201848-7aac2a2c5b7c"  # the last one that there is
START_S = 60.0  # a second here; several start at once on a busy machine
USER, PASSWORD = "minio-root", "minio-root-secret"


def minio_binary() -> Path:
    """The `minio` command, built when it is missing."""
    place = CACHE / f"minio-{VERSION.partition('-')[2]}" / "minio"
    return made(place, lambda draft: go_build(go_module(MODULE, VERSION), draft))


@dataclass(frozen=True)
class Minio(S3Server):
    """A server that runs. The names of its administrator: USER, PASSWORD."""

    pid: int = 0


REGION = "eu-test-1"  # not what clients take when nobody says: it has to be found


@contextlib.contextmanager
def minio(
    folder: Path, *, tls: ServerCert | None = None, domain: str | None = None
) -> Iterator[Minio]:
    """The server, until the block ends. `domain`: buckets are hosts of it, too."""
    folder.mkdir(parents=True, exist_ok=True)
    port, log = free_port(), folder / "minio.log"
    argv = [str(minio_binary()), "server", "--quiet", "--address", f"127.0.0.1:{port}"]
    env = {
        "MINIO_ROOT_USER": USER,
        "MINIO_ROOT_PASSWORD": PASSWORD,
        "MINIO_REGION": REGION,
        "MINIO_UPDATE": "off",
        "MINIO_BROWSER": "off",
        "HOME": str(folder),
    }
    if domain is not None:
        env["MINIO_DOMAIN"] = domain
    if tls is not None:
        certs = folder / "certs"
        certs.mkdir()
        shutil.copyfile(tls.cert_file, certs / "public.crt")
        shutil.copyfile(tls.key_file, certs / "private.key")
        argv += ["--certs-dir", str(certs)]
    data = folder / "data"
    data.mkdir()
    with (
        running([*argv, str(data)], port=port, log=log, env=env) as process,
        contextlib.ExitStack() as closing,
    ):
        scheme = "http" if tls is None else "https"
        ca_file = None if tls is None else str(tls.ca_file)
        url = f"{scheme}://127.0.0.1:{port}"
        found = Minio(url, port, log, closing, ca_file, USER, PASSWORD, REGION, process.pid)
        _wait_usable(found)
        yield found


def _wait_usable(server: Minio) -> None:
    """It answers before its storage does."""
    trusted = None if server.ca_file is None else ssl.create_default_context(cafile=server.ca_file)
    direct = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trusted)
    )
    give_up = time.monotonic() + START_S
    while True:
        with (
            contextlib.suppress(OSError),
            direct.open(f"{server.url}/minio/health/cluster", timeout=5),
        ):
            return
        assert time.monotonic() < give_up, server.log.read_text()
        time.sleep(0.05)
