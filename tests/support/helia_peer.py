"""Helia's bitswap over js-libp2p, as another implementation that trades blocks with us.

Its packages (350 MB: it brings all transports) are pinned in `js_helia/package-lock.json`.
"""

from __future__ import annotations

import base64
import contextlib
import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.js_peer import JsPeer
from tests.support.node_packages import installed, node

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = Path(__file__).parent / "js_helia"


@contextlib.contextmanager
def helia_peer(swarm_key: bytes) -> Iterator[JsPeer]:
    """Ready; its peers need `swarm_key` (the file's content)."""
    folder = installed("js-helia", SOURCE)
    process = subprocess.Popen(
        [node(), folder / "peer.mjs", base64.b64encode(swarm_key).decode()],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=folder,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        said = json.loads(process.stdout.readline())
        yield JsPeer(said["peer"], said["addresses"], process)
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()
