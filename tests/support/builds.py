"""All programs of others that the tests run and that have to be made first: the one list of them.

    python -m tests.support.builds [NAME...]

makes what is missing, AT_ONCE side by side. `scripts/test` runs it beside what needs none of them,
so that no test waits for a build; a test that is run by itself makes what it needs.
"""

from __future__ import annotations

import contextlib
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support import azurite, helia_peer, js_peer, kubo, kubo_rpc, registry
from tests.support.building import go_command, tool
from tests.support.fake_gcs import fake_gcs_binary
from tests.support.hf_cache_sync import hf_cache_sync_command
from tests.support.hubs import VERSIONS, hub_python
from tests.support.minio import minio_binary
from tests.support.node_packages import installed
from tests.support.ollama import ollama_binary
from tests.support.swift import swift_python

if TYPE_CHECKING:
    from collections.abc import Callable

AT_ONCE = 2  # while one waits for the network, the other compiles
SUPPORT = Path(__file__).parent
# What compiles and what comes over the network take turns; the long ones first. Each is done at
# once when it is there, and may be asked for by several.
BUILDS: dict[str, Callable[[], object]] = {
    "ollama": ollama_binary,
    "js-helia": partial(installed, "js-helia", helia_peer.SOURCE),
    "kubo": kubo.ipfs_binary,
    "olah": partial(tool, "olah-cli"),
    "minio": minio_binary,
    "js-libp2p": partial(installed, "js-libp2p", js_peer.SOURCE),
    **{name: partial(registry.tool, name) for name in registry.TOOLS},
    "go-car": kubo.go_car_binary,  # of Kubo's modules
    "fake-gcs": fake_gcs_binary,
    "azurite": partial(installed, "azurite", azurite.SOURCE),
    "swift": swift_python,
    "helia-gateway": partial(installed, "helia-gateway", SUPPORT / "helia_gateway"),
    "kubo-rpc-client": partial(installed, "kubo-rpc-client", kubo_rpc.JS_SOURCE),
    "truss-transfer": partial(tool, "truss-transfer"),
    "hf-cache-sync": hf_cache_sync_command,
    **{f"huggingface_hub-{version}": partial(hub_python, version) for version in VERSIONS},
}


def build(name: str) -> None:
    """Make one, and say how long it took when it was more than a look."""
    began = time.monotonic()
    BUILDS[name]()
    took = time.monotonic() - began
    if took > 1.0:
        print(f"builds: {name} ({took:.0f} s)", flush=True)


def main(*names: str) -> int:
    """Make those, or all; what fails is said, and does not keep the others from being made."""
    with contextlib.suppress(KeyboardInterrupt), ThreadPoolExecutor(AT_ONCE) as pool:
        go_command()  # several ask for it at once
        running = {name: pool.submit(build, name) for name in names or BUILDS}
        failed = {name: error for name, one in running.items() if (error := one.exception())}
        for name, error in failed.items():
            print(f"error: {name} could not be made: {error}", file=sys.stderr)
        return 1 if failed else 0
    return 130


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
