"""scripts/bench small: a repository of 5,000 files of 2-40 KB from nginx with TLS.

The other side is huggingface_hub's snapshot_download with its own defaults (8 threads). Both run as
whole processes on a cold cache and end with the same snapshot in a Hugging Face cache folder;
p2pcache has verified every file by then, huggingface_hub compares sizes.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import statistics
import sys
from pathlib import Path

import measure as gauge
from bench_support import (
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
from origins import HubRepo, git_blob_id, make_authority, nginx

REPO = "bench/small"
COMMIT = hashlib.sha1(b"bench small", usedforsecurity=False).hexdigest()
FILES = 5000
SIZES = (2_000, 40_000)  # bytes
SNAPSHOT = Path("models--bench--small", "snapshots", COMMIT)

HF_SNAPSHOT = """
import sys
from huggingface_hub import snapshot_download
print(snapshot_download(sys.argv[1]))
"""


def make_repo(folder: Path) -> HubRepo:
    """The same bytes every time: 50 folders of 100 files."""
    root, chance = folder / "repo", random.Random(5000)
    etags: dict[str, str] = {}
    tree = []
    for number in range(FILES):
        path = f"part-{number // 100:02}/file-{number:04}.json"
        data = chance.randbytes(chance.randint(*SIZES))
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
        etags[path] = git_blob_id(data)
        tree.append({"type": "file", "path": path, "size": len(data), "oid": etags[path]})
    info_json, tree_json = folder / "info.json", folder / "tree.json"
    siblings = [{"rfilename": path} for path in etags]
    info_json.write_text(json.dumps({"id": REPO, "sha": COMMIT, "siblings": siblings}))
    tree_json.write_text(json.dumps(tree))
    return HubRepo(REPO, COMMIT, root, tree_json, info_json, etags, {})


def _check(repo: HubRepo, snapshot: Path) -> None:
    for path in repo.etags:
        if (snapshot / path).read_bytes() != (repo.folder / path).read_bytes():
            raise RuntimeError(f"{snapshot / path} holds wrong bytes")


def _theirs(repo: HubRepo, home: Path, **more: str) -> float:
    env = environment(HF_HOME=str(home), HF_HUB_DISABLE_XET="1", **more)
    took = gauge.run([sys.executable, "-c", HF_SNAPSHOT, REPO], env).seconds
    _check(repo, home / "hub" / SNAPSHOT)
    shutil.rmtree(home)
    return took


def _ours(repo: HubRepo, home: Path, **more: str) -> float:
    hf_home = home.with_name(home.name + "-hf")
    with agent(home, HF_HOME=str(hf_home), **more) as running:
        done = gauge.run([P2PCACHE, "get", f"hf://{REPO}", "--hf-cache", "--json"], running.env)
    expected = sum((repo.folder / path).stat().st_size for path in repo.etags)
    if last_json(done.stdout)["fetched_bytes"] != expected:
        raise RuntimeError("the pull did not fetch every byte")
    _check(repo, hf_home / "hub" / SNAPSHOT)
    shutil.rmtree(home)
    shutil.rmtree(hf_home)
    return done.seconds


def measure(options: Options) -> list[Row]:
    """Every row of this benchmark."""
    rounds = 1 if options.quick else 3
    theirs, ours = [], []
    with on_tmpfs(2 * GIB) as folder:
        repo = make_repo(folder)
        tls = make_authority(folder / "tls")
        with nginx(folder / "nginx", folder / "repo", tls=tls, repos=[repo]) as server:
            assert server.tls is not None
            more = {"HF_ENDPOINT": server.tls, "SSL_CERT_FILE": str(tls.ca_file)}
            for number in range(rounds):
                # Each goes first in turn.
                for ours_now in (number % 2 == 0, number % 2 == 1):
                    if ours_now:
                        ours.append(_ours(repo, folder / "home", **more))
                    else:
                        theirs.append(_theirs(repo, folder / "hf", **more))
                progress(f"round {number + 1} of {rounds}")
    their_s, our_s = statistics.median(theirs), statistics.median(ours)
    return [
        info("huggingface_hub snapshot_download, files/s", FILES / their_s),
        info("p2pcache get, files/s", FILES / our_s),
        at_least("times as fast as huggingface_hub", their_s / our_s, 3.0),
    ]
