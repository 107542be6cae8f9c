"""scripts/bench pair: one large file from agent to agent, tmpfs to tmpfs, over loopback.

Beside it, in the same rounds: a raw loop of the same process layout (scripts/pair_loop), Kubo to
Kubo `pin add`, and libtorrent, one seed to one leech. iroh has no transfer of files in its Python
wheel, and building its `sendme` takes Rust and minutes: its rows say "not measured".

p2pcache is asked by the UnixFS root (the block hashes are the proof, as with Kubo) and by sha2-256
(the whole digest as well). What is timed is the call, not the start of any process.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import shutil
import statistics
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from scripts import measure as gauge
from scripts.bench_network import joined
from scripts.bench_support import (
    CORES,
    GB,
    GIB,
    MIB,
    Options,
    Row,
    at_least,
    at_most,
    environment,
    info,
    on_tmpfs,
    progress,
)
from scripts.libtorrent_nodes import libtorrent_python, make_torrent, torrent_node
from tests.support.certs import make_server_cert
from tests.support.kubo_daemon import kubo_daemon

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scripts.bench_support import Agent

ROOT = Path(__file__).resolve().parent.parent
REQUESTS_PER_S = 1000  # of a busy agent
LOOP_WORKERS = 2
SCHEMES = {"tls": "on", "plain": "off"}
LOOP_SHARE = 0.85
TIMES = {"tls": 1.8, "plain": 2.4}  # the fastest other peer, asked by CID
CPU_GOAL = {"tls": 2.3, "plain": 1.4}  # CPU-s/GB of the receiver, asked by CID


@dataclass(slots=True)
class Figures:
    """Seconds of each round, and CPU seconds of the receiver, by what ran."""

    size: int
    seconds: dict[str, list[float]] = field(default_factory=dict)
    cpu_s: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, seconds: float, cpu_s: float | None = None) -> None:
        self.seconds.setdefault(name, []).append(seconds)
        if cpu_s is not None:
            self.cpu_s.setdefault(name, []).append(cpu_s)

    def mb_per_s(self, name: str) -> float | None:
        took = self.seconds.get(name)
        return None if not took else self.size / 1e6 / statistics.median(took)

    def cpu_per_gb(self, name: str) -> float:
        return statistics.median(self.cpu_s[name]) / (self.size / GB)


def _file(path: Path, size: int) -> None:
    source = random.Random(7)
    with path.open("wb") as stream:
        for _ in range(size // MIB):
            stream.write(source.randbytes(MIB))


def _loop(folder: Path, file: Path, tls: tuple[Path, Path] | None) -> float:
    out = folder / "loop.out"
    pair = [] if tls is None else [str(part) for part in tls]
    command = [sys.executable, "-m", "scripts.pair_loop", str(file), str(out)]
    done = gauge.run([*command, str(LOOP_WORKERS), *pair], environment(PYTHONPATH=str(ROOT)))
    out.unlink()
    return float(done.stdout.split()[0])


def _torrent(folder: Path, file: Path, python: str) -> float:
    out, torrent = folder / "torrent", folder / "model.torrent"
    make_torrent(python, file, torrent)
    with torrent_node(python, torrent, file.parent, "127.0.0.1", []) as seed:
        seed.start()
        peers = [f"127.0.0.1:{seed.port}"]
        with torrent_node(python, torrent, out, "127.0.0.1", peers) as leech:
            leech.start()
            seconds = leech.seconds()
    if (out / file.name).stat().st_size != file.stat().st_size:
        raise RuntimeError("libtorrent left another file")
    shutil.rmtree(out)
    return seconds


def _kubo(folder: Path, file: Path, rounds: int) -> list[float]:
    """`pin add` on a second daemon: what the first has, verified and kept."""
    from tests.support.kubo import ipfs_binary

    took = []
    with kubo_daemon(folder / "kubo-a", None) as seed:
        added = subprocess.run(
            [ipfs_binary(), "add", "-Q", "--cid-version=1", "--chunker=size-1048576", str(file)],
            env={"IPFS_PATH": str(folder / "kubo-a"), "HOME": str(folder)},
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        root = added.stdout.strip()
        for number in range(rounds):
            repo = folder / f"kubo-b{number}"
            with kubo_daemon(repo, None) as leech:
                leech.rpc("swarm/connect", f"{seed.addresses[0]}/p2p/{seed.peer}")
                began = time.perf_counter()
                leech.rpc("pin/add", root, timeout=600)
                took.append(time.perf_counter() - began)
            shutil.rmtree(repo)
    shutil.rmtree(folder / "kubo-a")
    return took


def _get(reader: Agent, ref: str, size: int) -> tuple[float, float]:
    """Seconds and CPU seconds of one pull into an empty store."""
    before = gauge.cpu_s(reader.pid)
    with reader.client() as client:
        began = time.perf_counter()
        done = client.get(ref)
        seconds = time.perf_counter() - began
        cpu_s = gauge.cpu_s(reader.pid) - before
        if done["fetched_bytes"] != size:
            raise RuntimeError(f"the pull moved {done['fetched_bytes']} of {size} bytes")
        client.gc(target_bytes=1)  # a blob that came by its name alone is in no manifest
    return seconds, cpu_s


@contextlib.contextmanager
def _busy(running: Agent) -> Iterator[list[int]]:
    """Local requests, at most REQUESTS_PER_S, no DHT refresh; yields [how many were answered]."""
    ended, answered = threading.Event(), [0]

    def ask() -> None:
        with running.client() as client:
            began = time.perf_counter()
            while not ended.is_set():
                client.status()
                answered[0] += 1
                ahead = answered[0] / REQUESTS_PER_S - (time.perf_counter() - began)
                if ahead > 0:
                    time.sleep(ahead)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield answered
    finally:
        ended.set()
        thread.join()


def _agents(figures: Figures, folder: Path, file: Path, scheme: str, rounds: int) -> list[Row]:
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    with ExitStack() as stack:
        giver, reader = joined(stack, folder / scheme, 2, P2PCACHE_LANES_TLS=SCHEMES[scheme])
        with giver.client() as client:
            root = client.push(file)["root"]
        for number in range(-1, rounds):  # one round that is not counted warms workers
            for kind, ref in (("cid", root), ("sha256", f"sha256:{sha256}")):
                seconds, cpu_s = _get(reader, ref, figures.size)
                if number >= 0:
                    figures.add(f"{scheme} {kind}", seconds, cpu_s)
        rate = 0.0
        for _ in range(rounds):
            with _busy(giver) as asked:
                began = time.perf_counter()
                seconds, _ = _get(reader, root, figures.size)
                rate = asked[0] / (time.perf_counter() - began)
            figures.add(f"{scheme} busy", seconds)
        return [info(f"{scheme}: local requests/s of the busy agent while it serves", rate)]


def measure(options: Options) -> list[Row]:
    """Every row of this benchmark."""
    size, rounds = (256 * MIB, 1) if options.quick else (GIB, 3)
    rows: list[Row] = []
    figures = Figures(size)
    with on_tmpfs(5 * size + GIB) as folder:
        file = folder / "model.safetensors"
        _file(file, size)
        cert = make_server_cert(folder / "cert")
        torrent = libtorrent_python()
        for scheme in SCHEMES:
            progress(f"{scheme}: raw loop")
            pair = (cert.cert_file, cert.key_file) if scheme == "tls" else None
            _loop(folder, file, pair)
            for _ in range(rounds):
                figures.add(f"{scheme} loop", _loop(folder, file, pair))
            progress(f"{scheme}: agent to agent")
            rows += _agents(figures, folder, file, scheme, rounds)
            shutil.rmtree(folder / scheme)
        progress("Kubo to Kubo")
        for seconds in _kubo(folder, file, rounds):
            figures.add("kubo", seconds)
        if torrent is not None:
            progress("libtorrent")
            for _ in range(rounds):
                figures.add("libtorrent", _torrent(folder, file, torrent))
    return _rows(figures) + rows


def _rows(figures: Figures) -> list[Row]:
    kubo, torrent = figures.mb_per_s("kubo"), figures.mb_per_s("libtorrent")
    fastest = max(rate for rate in (kubo, torrent) if rate is not None)
    rows = [
        info("Kubo to Kubo pin add, MB/s", kubo),
        info("libtorrent, MB/s", torrent),
        info("iroh, MB/s", None),
    ]
    for scheme in SCHEMES:
        loop, cid, whole, busy = (
            _rate(figures, f"{scheme} {what}") for what in ("loop", "cid", "sha256", "busy")
        )
        cid_cpu = figures.cpu_per_gb(f"{scheme} cid")
        more_cpu = figures.cpu_per_gb(f"{scheme} sha256") - cid_cpu
        rows += [
            info(f"{scheme}: raw loop, {LOOP_WORKERS} workers, {CORES} cores, MB/s", loop),
            info(f"{scheme}: by CID, MB/s", cid),
            info(f"{scheme}: by sha256, MB/s", whole),
            at_least(f"{scheme}: by CID, share of the raw loop", cid / loop, LOOP_SHARE),
            at_least(f"{scheme}: by CID, times the fastest peer", cid / fastest, TIMES[scheme]),
            at_most(f"{scheme}: by CID, receiver's CPU-s/GB", cid_cpu, CPU_GOAL[scheme]),
            at_most(f"{scheme}: by sha256, CPU-s/GB more than by CID", more_cpu, 0.6),
            at_most(f"{scheme}: what local requests cost the lane, share", 1 - busy / cid, 0.25),
        ]
        if scheme == "tls":
            rows += [
                at_least("tls: by CID, MB/s (2 cores)", cid, 700.0),
                at_least("tls: by sha256, MB/s (2 cores)", whole, 550.0),
                at_least("tls: by sha256, times the fastest peer", whole / fastest, 1.3),
            ]
    return rows


def _rate(figures: Figures, name: str) -> float:
    rate = figures.mb_per_s(name)
    if rate is None:
        raise RuntimeError(f"nothing was measured of {name}")
    return rate
