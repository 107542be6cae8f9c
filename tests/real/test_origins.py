"""The test origins themselves: an unmodified huggingface_hub downloads from each of them.

What p2pcache is measured against must be real: if these fail, no other result means anything.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from typing import TYPE_CHECKING

import pytest

from tests.support.certs import make_server_cert
from tests.support.hub_repo import HubRepo, build_repo, many_small_files, small_model
from tests.support.hub_stub import hub_stub
from tests.support.nginx import nginx, static_hub
from tests.support.olah import olah

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> HubRepo:
    recipes = {**small_model(lfs_bytes=300_000), **many_small_files(20)}
    return build_repo(tmp_path_factory.mktemp("repo"), recipes)


def download(repo: HubRepo, url: str, home: Path, **environment: str) -> None:
    """Run the official client in a process and an environment of its own; compare every byte."""
    code = "import huggingface_hub as h, sys; print(h.snapshot_download(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, repo.repo_id],
        env={**os.environ, "HF_HOME": str(home), "HF_ENDPOINT": url, "HF_TOKEN": "", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    snapshot = done.stdout.strip()
    assert os.path.basename(snapshot) == repo.commit
    for path, file in repo.files.items():
        with open(os.path.join(snapshot, path), "rb") as got:
            assert got.read() == file.on_disk.read_bytes(), path


def test_the_same_recipe_gives_the_same_commit(repo: HubRepo, tmp_path: Path) -> None:
    again = build_repo(tmp_path, {**small_model(lfs_bytes=300_000), **many_small_files(20)})
    assert again.commit == repo.commit


def test_the_official_client_downloads_from_olah(repo: HubRepo, tmp_path: Path) -> None:
    with olah(repo, tmp_path / "olah") as server:
        download(repo, server.url, tmp_path / "home")


def test_the_official_client_downloads_from_nginx_with_tls(repo: HubRepo, tmp_path: Path) -> None:
    cert = make_server_cert(tmp_path / "cert")
    hub = static_hub(repo, tmp_path / "site")
    with nginx(tmp_path / "site", tmp_path / "nginx", tls=cert, extra=hub) as server:
        download(repo, server.url, tmp_path / "home", SSL_CERT_FILE=str(cert.ca_file))
    assert server.body_bytes() >= repo.total_bytes


def test_the_official_client_downloads_from_the_stub(repo: HubRepo, tmp_path: Path) -> None:
    with hub_stub(repo) as stub:
        stub.page_entries = 7
        download(repo, stub.url, tmp_path / "home")
    assert {request.origin for request in stub.asked} == {"hub", "cdn"}


def test_nginx_limits_its_rate(repo: HubRepo, tmp_path: Path) -> None:
    # 300 kB at 200 kB/s: nginx sends the first second's worth at once, then waits
    with nginx(repo.plain, tmp_path, limit_rate_bytes_per_s=200_000) as server:
        url = f"{server.url}/model-00001-of-00002.safetensors"
        began = time.monotonic()
        with urllib.request.urlopen(url, timeout=30) as answer:
            answer.read()
    assert time.monotonic() - began > 0.3, "the whole file came at once"
