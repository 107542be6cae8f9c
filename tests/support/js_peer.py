"""js-libp2p, as another implementation that must be able to join.

node comes from pinned packages (`scripts/setup --tool node`), js-libp2p from `js_libp2p/`'s
package-lock.json, whose hashes npm checks; both lie in the cache that all checkouts share.
"""

from __future__ import annotations

import base64
import contextlib
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from tests.support.node_packages import installed, node

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = Path(__file__).parent / "js_libp2p"
ANSWER_S = 20.0


@dataclass(frozen=True)
class JsPeer:
    """A running peer."""

    peer: str
    addresses: list[str]
    _process: subprocess.Popen[bytes]

    async def ask(self, **command: object) -> Any:
        """What it answers. Raises RuntimeError with its own words."""
        with trio.fail_after(ANSWER_S):
            answer = await trio.to_thread.run_sync(self._ask, command, abandon_on_cancel=True)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["result"]

    def _ask(self, command: object) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


@contextlib.contextmanager
def js_peer(swarm_key: bytes | None) -> Iterator[JsPeer]:
    """Ready; its peers need `swarm_key` (the file's content)."""
    folder = installed("js-libp2p", SOURCE)
    key = "none" if swarm_key is None else base64.b64encode(swarm_key).decode()
    process = subprocess.Popen(
        [node(), folder / "peer.mjs", key], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
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
