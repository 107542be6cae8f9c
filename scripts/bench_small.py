"""scripts/bench small: a repository of 5,000 files of 2-40 KB from nginx with TLS, and from a peer.

The other side is huggingface_hub's snapshot_download with its own defaults (8 threads). Both run as
whole processes on a cold cache and end with the same snapshot in a Hugging Face cache folder;
p2pcache has verified every file by then, huggingface_hub compares sizes. From a peer: the agent
that pulled from nginx is asked for all of it by a second one, whose own origin is nginx too.
"""

from __future__ import annotations

import shutil
import statistics
import sys
from contextlib import ExitStack
from pathlib import Path

from scripts import measure as gauge
from scripts.bench_network import joined
from scripts.bench_support import (
    CORES,
    GIB,
    P2PCACHE,
    Options,
    Row,
    agent,
    at_least,
    environment,
    info,
    last_json,
    on_tmpfs,
    progress,
)
from tests.support.certs import make_server_cert
from tests.support.hub_repo import HubRepo, build_repo, many_small_files
from tests.support.nginx import nginx, static_hub

REPO = "bench/small"
FILES = 5000

HF_SNAPSHOT = """
import sys
from huggingface_hub import snapshot_download
print(snapshot_download(sys.argv[1]))
"""


def _check(repo: HubRepo, hf_home: Path) -> None:
    snapshot = hf_home / "hub" / "models--bench--small" / "snapshots" / repo.commit
    for path, file in repo.files.items():
        if (snapshot / path).read_bytes() != file.on_disk.read_bytes():
            raise RuntimeError(f"{snapshot / path} holds wrong bytes")


def _theirs(repo: HubRepo, home: Path, **more: str) -> float:
    env = environment(HF_HOME=str(home), HF_HUB_DISABLE_XET="1", **more)
    took = gauge.run([sys.executable, "-c", HF_SNAPSHOT, REPO], env).seconds
    _check(repo, home)
    shutil.rmtree(home)
    return took


def _ours(repo: HubRepo, home: Path, **more: str) -> float:
    hf_home = home.with_name(home.name + "-hf")
    with agent(home, HF_HOME=str(hf_home), **more) as running:
        done = gauge.run([P2PCACHE, "get", f"hf://{REPO}", "--hf-cache", "--json"], running.env)
    if last_json(done.stdout)["fetched_bytes"] != repo.total_bytes:
        raise RuntimeError("the pull did not fetch every byte")
    _check(repo, hf_home)
    shutil.rmtree(home)
    shutil.rmtree(hf_home)
    return done.seconds


def _from_peer(repo: HubRepo, folder: Path, **more: str) -> tuple[float, float]:
    """Seconds of a pull from a peer, and the share of the bytes that the peer sent."""
    with ExitStack() as stack:
        # each with a cache folder of its own, or the second would find the first one's files
        homes = [str(folder / f"hf-{n}") for n in range(2)]
        giver, reader = joined(stack, folder, 2, all_know=True, **more)
        command = [P2PCACHE, "get", f"hf://{REPO}", "--hf-cache", "--json"]
        gauge.run(command, {**giver.env, "HF_HOME": homes[0]})
        done = gauge.run(command, {**reader.env, "HF_HOME": homes[1]})
        if last_json(done.stdout)["fetched_bytes"] != repo.total_bytes:
            raise RuntimeError("the pull did not fetch every byte")
        _check(repo, Path(homes[1]))
        with reader.client() as client:
            sources = client.why()["sources"]
    sent = sum(source["bytes"] for source in sources if source["kind"] == "peer")
    shutil.rmtree(folder)
    return done.seconds, sent / repo.total_bytes


def measure(options: Options) -> list[Row]:
    """Every row of this benchmark."""
    rounds = 1 if options.quick else 3
    theirs, ours, peers, shares = [], [], [], []
    with on_tmpfs(2 * GIB) as folder:
        repo = build_repo(folder / "repo", many_small_files(FILES), repo_id=REPO)
        site, tls = folder / "site", make_server_cert(folder / "tls")
        hub = static_hub(repo, site)
        with nginx(site, folder / "nginx", tls=tls, extra=hub, workers=CORES) as server:
            more = {"HF_ENDPOINT": server.url, "SSL_CERT_FILE": str(tls.ca_file)}
            for number in range(rounds):
                # Each goes first in turn.
                for ours_now in (number % 2 == 0, number % 2 == 1):
                    if ours_now:
                        ours.append(_ours(repo, folder / "home", **more))
                    else:
                        theirs.append(_theirs(repo, folder / "hf", **more))
                seconds, share = _from_peer(repo, folder / "pair", **more)
                peers.append(seconds)
                shares.append(share)
                progress(f"round {number + 1} of {rounds}")
    their_s, our_s = statistics.median(theirs), statistics.median(ours)
    peer_s = statistics.median(peers)
    return [
        info("huggingface_hub snapshot_download, files/s", FILES / their_s),
        info("p2pcache get, files/s", FILES / our_s),
        at_least("times as fast as huggingface_hub", their_s / our_s, 3.0),
        info("p2pcache get from a peer, files/s", FILES / peer_s),
        info("share of the bytes that the peer sent", statistics.median(shares)),
        at_least("from a peer, times as fast as from nginx", our_s / peer_s, 1.0),
    ]
