"""scripts/bench origin: one large file from nginx on this machine, tmpfs to tmpfs.

Every peer runs in every round, in an order that moves on by one each time, as a whole process from
start to exit; the row is the median. Each ends with a file that holds the right bytes: p2pcache,
aria2c and `curl | tee | sha256sum` verify it themselves; huggingface_hub checks no digest, so being
compared with it is the harder test. A bare `curl -o` does not verify either and is no goal: its row
says what verifying costs.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from scripts import measure as gauge
from scripts.bench_support import (
    CORES,
    GB,
    GIB,
    MIB,
    P2PCACHE,
    WORKERS,
    Options,
    Row,
    above,
    agent,
    at_least,
    at_most,
    cli,
    environment,
    info,
    last_json,
    on_tmpfs,
    progress,
)  # fmt: skip
from tests.support.certs import ServerCert, make_server_cert
from tests.support.hub_repo import HubRepo, build_repo, lfs
from tests.support.nginx import nginx, static_hub

FILE = "model.safetensors"
REPO = "bench/origin"
PIECE_BYTES = 16 * MIB  # the largest piece, which the memory bound is stated in
MEMORY_BOUND_MIB = 64 + 2 * (PIECE_BYTES // MIB) * WORKERS
SAME_MIB = 16  # "the same for both sizes": within one piece
CPU_GOAL = {"plain": 2.0, "tls": 2.9}  # CPU-s/GB with both digests

HF_DOWNLOAD = """
import sys, time
from huggingface_hub import hf_hub_download
began = time.perf_counter()
path = hf_hub_download(*sys.argv[1:3], revision=sys.argv[3])
print(time.perf_counter() - began)
"""


@dataclass(frozen=True, slots=True)
class Setting:
    """One origin and one scheme."""

    scheme: str
    base: str
    folder: Path
    size: int
    sha256: str
    commit: str
    ca_file: Path

    @property
    def url(self) -> str:
        return f"{self.base}/{REPO}/resolve/{self.commit}/{FILE}"


@dataclass(slots=True)
class Times:
    """Seconds of each round, by peer; p2pcache's CPU seconds; huggingface_hub without imports."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    cpu_s: list[float] = field(default_factory=list)
    hf_call_s: list[float] = field(default_factory=list)

    def median(self, peer: str) -> float:
        return statistics.median(self.seconds[peer])


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _check(where: Setting, peer: str, path: Path) -> None:
    if _digest(path) != where.sha256:
        raise RuntimeError(f"{peer} left wrong bytes in {path}")


def _fresh(where: Setting, name: str) -> Path:
    folder = where.folder / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def _curl(where: Setting, times: Times, check: bool) -> float:
    out = _fresh(where, "curl") / FILE
    command = ["curl", "-sSf", "--cacert", str(where.ca_file), "-o", str(out), where.url]
    took = gauge.run(command, environment()).seconds
    if check:
        _check(where, "curl", out)
    shutil.rmtree(out.parent)
    return took


def _curl_tee(where: Setting, times: Times, check: bool) -> float:
    out = _fresh(where, "tee") / FILE
    script = 'set -o pipefail; curl -sSf --cacert "$1" "$2" | tee "$3" | sha256sum'
    done = gauge.run(
        ["bash", "-c", script, "bash", str(where.ca_file), where.url, str(out)], environment()
    )
    if done.stdout.split()[0] != where.sha256:
        raise RuntimeError("curl | tee | sha256sum: another digest")
    shutil.rmtree(out.parent)
    return done.seconds


def _aria2c(where: Setting, times: Times, check: bool) -> float:
    out = _fresh(where, "aria2c") / FILE
    command = [
        "aria2c", "-x8", "-s8", "--quiet", "--no-conf", "--file-allocation=none",
        f"--checksum=sha-256={where.sha256}", f"--ca-certificate={where.ca_file}",
        "-d", str(out.parent), "-o", out.name, where.url,
    ]  # fmt: skip
    took = gauge.run(command, environment()).seconds
    if check:
        _check(where, "aria2c", out)
    shutil.rmtree(out.parent)
    return took


def _huggingface_hub(where: Setting, times: Times, check: bool) -> float:
    cache = _fresh(where, "hf")
    env = environment(
        HF_ENDPOINT=where.base, HF_HOME=str(cache), HF_HUB_DISABLE_XET="1",
        SSL_CERT_FILE=str(where.ca_file),
    )  # fmt: skip
    done = gauge.run([sys.executable, "-c", HF_DOWNLOAD, REPO, FILE, where.commit], env)
    times.hf_call_s.append(float(done.stdout.split()[-1]))
    if check:
        found = cache / "hub" / "models--bench--origin" / "snapshots" / where.commit / FILE
        _check(where, "huggingface_hub", found)
    shutil.rmtree(cache)
    return done.seconds


UNVERIFIED = "curl -o"
Peer = Callable[[Setting, Times, bool], float]
PEERS: dict[str, Peer] = {
    UNVERIFIED: _curl,
    "curl | tee | sha256sum": _curl_tee,
    "aria2c -x8": _aria2c,
    "huggingface_hub": _huggingface_hub,
}


def _p2pcache(pid: int, env: dict[str, str], where: Setting) -> Peer:
    ref = f"{where.url}#sha256={where.sha256}"

    def pull(where: Setting, times: Times, check: bool) -> float:
        before = gauge.cpu_s(pid)
        done = gauge.run([P2PCACHE, "get", ref, "--json"], env)
        times.cpu_s.append(gauge.cpu_s(pid) - before + done.cpu_s)
        _assert_fetched(done.stdout, where.size)
        if check:
            _check(where, "p2pcache", _result_path(done.stdout))
        cli(env, "rm", ref, "--force")
        return done.seconds

    return pull


def _result_path(stdout: str) -> Path:
    path = Path(str(last_json(stdout)["path"]))
    return path / FILE if path.is_dir() else path


def _assert_fetched(stdout: str, size: int) -> None:
    """A pull that found the bytes in its store would be no measurement."""
    fetched = last_json(stdout)["fetched_bytes"]
    if fetched != size:
        raise RuntimeError(f"the pull moved {fetched} of {size} bytes: the store was not empty")


def _rounds(where: Setting, rounds: int) -> Times:
    times = Times()
    more = {"SSL_CERT_FILE": str(where.ca_file)}
    with agent(where.folder / f"home-{where.scheme}", **more) as running:
        peers = {**PEERS, "p2pcache": _p2pcache(running.pid, dict(running.env), where)}
        names = list(peers)
        # One round that is not counted: workers, page tables and caches of every peer are warm.
        for number in range(-1, rounds):
            for name in names[number % len(names) :] + names[: number % len(names)]:
                took = peers[name](where, times, number == -1)
                if number >= 0:
                    times.seconds.setdefault(name, []).append(took)
                else:
                    times.cpu_s.clear()
                    times.hf_call_s.clear()
            progress(f"{where.scheme}: round {number + 1} of {rounds}")
    return times


def _rows(where: Setting, times: Times) -> list[Row]:
    scheme, ours = where.scheme, times.median("p2pcache")
    others = {peer: times.median(peer) for peer in PEERS}
    rows = [
        info(f"{scheme}: {peer}, MB/s", where.size / 1e6 / seconds)
        for peer, seconds in {**others, "p2pcache": ours}.items()
    ]
    hf_call = statistics.median(times.hf_call_s)
    rows += [
        info(f"{scheme}: huggingface_hub, the call alone, MB/s", where.size / 1e6 / hf_call),
        at_least(f"{scheme}: times as fast as aria2c -x8", others["aria2c -x8"] / ours, 1.4),
        at_least(
            f"{scheme}: times as fast as curl | tee | sha256sum",
            others["curl | tee | sha256sum"] / ours,
            2.5,
        ),
        above(f"{scheme}: times as fast as huggingface_hub", others["huggingface_hub"] / ours, 1.0),
        at_most(
            f"{scheme}: time over that of the fastest (curl -o, unverified, left out)",
            ours / min(seconds for peer, seconds in others.items() if peer != UNVERIFIED),
            1.05,
        ),
        info(f"{scheme}: time over that of an unverified curl -o", ours / others[UNVERIFIED]),
        at_most(
            f"{scheme}: receiver's CPU-s/GB (agent, workers, CLI)",
            statistics.median(times.cpu_s) / (where.size / GB),
            CPU_GOAL[scheme],
        ),
    ]
    return rows


def _parts_cpu(folder: Path) -> list[Row]:
    """What the steps of a plain pull cost one process that does nothing else: the least that a
    receiver with both digests can take here, beside what TCP costs.
    """
    block = memoryview(mmap.mmap(-1, MIB))
    count = 512
    path = folder / "parts"
    with path.open("w+b") as file:
        fd = file.fileno()
        steps: dict[str, Callable[[int], object]] = {
            "a sha2-256": lambda _: hashlib.sha256(block).digest(),
            "a write into a new file": lambda at: os.pwrite(fd, block, at * MIB),
            "a read of it": lambda at: os.preadv(fd, [block], at * MIB),
        }
        took: dict[str, float] = {}
        for name, step in steps.items():
            began = time.process_time()
            for at in range(count):
                step(at)
            took[name] = (time.process_time() - began) / (count * MIB / GB)
    path.unlink()
    least = 2 * took["a sha2-256"] + took["a write into a new file"] + took["a read of it"]
    rows = [info(f"{name}, CPU-s/GB", seconds) for name, seconds in took.items()]
    return [*rows, info("two digests, a write and a read, CPU-s/GB", least)]


def _gib(size: int) -> str:
    return f"{size / GIB:g} GiB"


def _peak_mib(home: Path, url: str, sha256: str, size: int, ca_file: Path) -> float:
    """Peak PSS of a fresh agent and its workers during one pull, above that agent when idle."""
    shutil.rmtree(home, ignore_errors=True)
    with agent(home, SSL_CERT_FILE=str(ca_file)) as running:
        idle = gauge.memory_bytes(running.pid)
        with gauge.watch(running.pid) as peak:
            done = gauge.run([P2PCACHE, "get", f"{url}#sha256={sha256}", "--json"], running.env)
        _assert_fetched(done.stdout, size)
    shutil.rmtree(home, ignore_errors=True)
    return (peak.bytes - idle) / MIB


def _zeros_sha256(size: int) -> str:
    block, state = bytes(MIB), hashlib.sha256()
    for _ in range(size // MIB):
        state.update(block)
    return state.hexdigest()


def _memory(folder: Path, where: Setting, tls: ServerCert, large_bytes: int) -> list[Row]:
    progress(f"memory: {_gib(where.size)}")
    small = _peak_mib(folder / "home-memory", where.url, where.sha256, where.size, tls.ca_file)
    name = "peak memory of agent and workers above idle (PSS), MiB"
    rows = [at_most(f"{_gib(where.size)}: {name}", small, MEMORY_BOUND_MIB)]
    large_name = f"{_gib(large_bytes)} sparse: {name}"
    disk = Path(tempfile.mkdtemp(prefix="p2pcache-bench-"))
    try:
        if shutil.disk_usage(disk).free < large_bytes + 2 * GIB:
            progress(f"{disk} has no room for {_gib(large_bytes)}: not measured")
            return [*rows, info(large_name, None)]
        progress(f"memory: {_gib(large_bytes)}, on disk (it does not fit into tmpfs)")
        (disk / "root").mkdir()
        with (disk / "root" / FILE).open("wb") as sparse:
            sparse.truncate(large_bytes)
        with nginx(disk / "root", disk / "nginx", tls=tls, workers=CORES) as server:
            url = f"{server.url}/{FILE}"
            sha256 = _zeros_sha256(large_bytes)
            large = _peak_mib(disk / "home", url, sha256, large_bytes, tls.ca_file)
    finally:
        shutil.rmtree(disk, ignore_errors=True)
    return [
        *rows,
        at_most(large_name, large, MEMORY_BOUND_MIB),
        at_most("growth of that peak with size, MiB", large - small, SAME_MIB),
    ]


def _setting(scheme: str, base: str, folder: Path, repo: HubRepo, tls: ServerCert) -> Setting:
    file = repo.files[FILE]
    return Setting(scheme, base, folder, file.size, file.sha256, repo.commit, tls.ca_file)


def measure(options: Options) -> list[Row]:
    """Every row of this benchmark."""
    size, rounds = (GIB // 2, 2) if options.quick else (GIB, 5)
    large_bytes = (4 if options.quick else 20) * GIB
    rows: list[Row] = []
    with on_tmpfs(3 * size + 256 * MIB) as folder:
        progress(f"making {_gib(size)}")
        repo = build_repo(folder / "repo", {FILE: lfs(size, 1)}, repo_id=REPO)
        site, tls = folder / "site", make_server_cert(folder / "tls")
        hub = static_hub(repo, site)
        with (
            nginx(site, folder / "plain", extra=hub, workers=CORES) as plain,
            nginx(site, folder / "secure", extra=hub, workers=CORES, tls=tls) as secure,
        ):
            for scheme, base in (("plain", plain.url), ("tls", secure.url)):
                where = _setting(scheme, base, folder, repo, tls)
                rows += _rows(where, _rounds(where, rounds))
            rows += _parts_cpu(folder)
            rows += _memory(folder, where, tls, large_bytes)
    return rows
