"""What others need for the same as `scripts/bench swarm`: rows to compare with, without a goal.

One seed and no origin: libtorrent (every node knows every other; its own piece choice, TCP, plain)
and Kubo (`pin add` on all but the one that has it; all connected). Nobody has it, with an origin:
as many independent aria2c. Processes run and know each other before the clock starts.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

from scripts.bench_support import MIB, Row, environment, info, progress
from scripts.libtorrent_nodes import TorrentNode, libtorrent_python, make_torrent, torrent_node
from tests.support.kubo import ipfs_binary
from tests.support.kubo_daemon import CONFIG
from tests.support.processes import stop

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.namespaces import Lan
    from tests.support.nginx import Nginx

START_S = 60.0
END_S = 600.0
KUBO_PORT = 4001


def aria2c(net: Lan, hub: Nginx, nodes: int, size: int, bound_s: float, folder: Path) -> list[Row]:
    """Everybody for himself, from the origin."""
    progress(f"{nodes} independent aria2c")
    url = f"{hub.url}/demo/model/resolve/main/model.safetensors"
    began = time.monotonic()
    with ExitStack() as stack:
        running = [
            stack.enter_context(
                _running(
                    net.argv(number, ["aria2c", "-x8", "-s8", "--quiet", "--no-conf",
                                      "-d", str(folder / f"a{number}"), "-o", "model", url])
                )
            )
            for number in range(nodes)
        ]  # fmt: skip
        if any(process.wait(END_S) for process in running):
            raise RuntimeError("aria2c failed")
    ratio = (time.monotonic() - began) / bound_s
    copies = hub.body_bytes() / size
    return [
        info(f"{nodes} independent aria2c, {size // MIB} MiB: last over the bound", ratio),
        info(f"{nodes} independent aria2c: copies that left the origin", copies),
    ]


def libtorrent(
    net: Lan, nodes: int, file: Path, link: int, bound_s: float, folder: Path
) -> list[Row]:
    """One seed, which is the first node."""
    name = f"libtorrent, {nodes} nodes, one seed, {file.stat().st_size // MIB} MiB"
    progress(name)
    python = libtorrent_python()
    if python is None:
        return [info(f"{name}: last over the bound", None)]
    torrent = folder / "model.torrent"
    make_torrent(python, file, torrent)
    with ExitStack() as stack:
        running: list[TorrentNode] = []
        peers: list[str] = []
        for number in range(nodes):
            place = file.parent if number == 0 else folder / f"t{number}"
            host = net.ip_of(number)
            node = stack.enter_context(
                torrent_node(python, torrent, place, host, peers, net.prefix(number))
            )
            peers.append(f"{host}:{node.port}")
            running.append(node)
        for number in range(nodes):
            net.limit(number, link)
        began = time.monotonic()
        for node in running:
            node.start()
        for node in running[1:]:
            node.seconds()
        ratio = (time.monotonic() - began) / bound_s
    return [info(f"{name}: last over the bound", ratio)]


def kubo(net: Lan, nodes: int, file: Path, link: int, bound_s: float, folder: Path) -> list[Row]:
    """One that has it, which is the first node."""
    name = f"Kubo, {nodes} nodes, one has it, {file.stat().st_size // MIB} MiB"
    progress(name)
    with ExitStack() as stack:
        repos = [folder / f"k{number}" for number in range(nodes)]
        for number, repo in enumerate(repos):
            stack.enter_context(_daemon(net, number, repo))
        at = [
            f"/ip4/{net.ip_of(n)}/tcp/{KUBO_PORT}/p2p/{_id(repo)}" for n, repo in enumerate(repos)
        ]
        for number, repo in enumerate(repos):
            for other in at[:number]:
                _ipfs(net, number, repo, "swarm", "connect", other)
        root = _ipfs(net, 0, repos[0], "add", "-Q", "--cid-version=1", "--chunker=size-1048576",
                     str(file))  # fmt: skip
        for number in range(nodes):
            net.limit(number, link)
        began = time.monotonic()
        pins = [
            stack.enter_context(
                _running(net.argv(n, [str(ipfs_binary()), "pin", "add", root]), _env(repos[n]))
            )
            for n in range(1, nodes)
        ]
        if any(pin.wait(END_S) for pin in pins):
            raise RuntimeError("ipfs pin add failed")
        ratio = (time.monotonic() - began) / bound_s
    for repo in repos:
        shutil.rmtree(repo)
    return [info(f"{name}: last over the bound", ratio)]


@contextmanager
def _running(
    argv: list[str], env: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Ended at the end, whatever becomes of the others."""
    process = subprocess.Popen(argv, env=env, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        stop(process)


def _env(repo: Path) -> dict[str, str]:
    return environment(IPFS_PATH=str(repo), HOME=str(repo), IPFS_TELEMETRY="off")


def _listens(net: Lan, number: int) -> str:
    return f"/ip4/{net.ip_of(number)}/tcp/{KUBO_PORT}"


def _id(repo: Path) -> str:
    peer: str = json.loads((repo / "config").read_text())["Identity"]["PeerID"]
    return peer


def _ipfs(net: Lan, number: int, repo: Path, *args: str) -> str:
    return subprocess.run(
        net.argv(number, [str(ipfs_binary()), *args]),
        env=_env(repo), check=True, capture_output=True, text=True, timeout=START_S,
    ).stdout.strip()  # fmt: skip


@contextmanager
def _daemon(net: Lan, number: int, repo: Path) -> Iterator[None]:
    """A Kubo on one of the hosts that answers its own command line."""
    repo.mkdir()
    _ipfs(net, number, repo, "init", "-e")
    config = json.loads((repo / "config").read_text()) | CONFIG
    config["Addresses"] = {**config["Addresses"], "Swarm": [_listens(net, number)]}
    (repo / "config").write_text(json.dumps(config))
    with (repo / "daemon.log").open("ab") as log:
        process = subprocess.Popen(
            net.argv(number, [str(ipfs_binary()), "daemon"]), env=_env(repo), stdout=log, stderr=log
        )
    try:
        give_up = time.monotonic() + START_S
        while not (repo / "api").exists():
            if process.poll() is not None or time.monotonic() > give_up:
                raise RuntimeError((repo / "daemon.log").read_text()[-2000:])
            time.sleep(0.05)
        while time.monotonic() < give_up:
            with suppress(subprocess.CalledProcessError):
                _ipfs(net, number, repo, "id")
                break
            time.sleep(0.05)
        yield
    finally:
        stop(process)
