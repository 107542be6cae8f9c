"""Helia's gateway client fetches files through our gateway, and verifies every block itself."""

import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.support.ipfs_gateway import gateway
from tests.support.ipfs_site import FILES, fill
from tests.support.node_packages import installed, node

SOURCE = Path(__file__).parents[1] / "support" / "helia_gateway"
FETCH_S = 120.0


def fetched(port: int, *wanted: str) -> list[dict]:
    """What Helia got: sizes and hashes, in order."""
    folder = installed("helia-gateway", SOURCE)
    done = subprocess.run(
        [node(), folder / "get.mjs", f"http://127.0.0.1:{port}", *wanted],
        cwd=folder, env=dict(os.environ), capture_output=True, text=True, timeout=FETCH_S,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_helia_gets_files_of_our_own_and_of_others_by_path_and_by_cid(tmp_path):
    with gateway(tmp_path) as ours:
        site = fill(ours.store)
        paths = ["sub/big.bin", "hello.txt", "sub/deeper/twice"]
        found = fetched(ours.port, *(f"{site.root}/{path}" for path in paths), site.foreign)
    wanted = [*(FILES[path] for path in paths), site.foreign_data]
    assert [one["size"] for one in found] == [len(data) for data in wanted]
    assert [one["sha256"] for one in found] == [hashlib.sha256(d).hexdigest() for d in wanted]
