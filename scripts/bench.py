"""Run one benchmark by name. Exit status 0: it ran; whether goals hold stands in the results."""

from __future__ import annotations

import argparse
import importlib
import sys
import time

from scripts.bench_support import Options, document, table

BENCHES = {
    "origin": "1 GiB from nginx, plain and TLS, beside curl, aria2c and huggingface_hub",
    "small": "5,000 files of 2-40 KB over TLS: nginx, huggingface_hub's snapshot_download, a peer",
    "pair": "1 GiB agent to agent, plain and TLS, beside a raw loop, Kubo and libtorrent",
    "kubo": "1 GiB out of a Kubo by its CID, a file and a folder, beside Kubo's own pin add",
    "swarm": "N agents in namespaces start together: time over the bound, origin copies",
    "preload": "8 agents in namespaces preload, one is killed, one has a get: copies, its speed",
    "s3": "1 GiB from a MinIO, beside boto3, hf-cache-sync, obstore and s5cmd",
    "oci": "1 GiB from a registry, beside crane, oras, skopeo and Ollama",
    "bitswap": "256 MiB by bitswap: agent to agent, from Kubo, to Kubo; a block that comes late",
    "sim": "the pull machine of many nodes in virtual time: the bound, copies, faults",
    "latency": "first byte from a peer, cost of a miss, frozen and dead peers, push and eviction",
    "idle": "16 agents in one network with 10,000 blobs each: memory and CPU while nobody asks",
    "local": "what is already here: socket, whole CLI process, the idle agent",
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__.partition("\n")[0])
    parser.add_argument("name", nargs="?", choices=tuple(BENCHES))
    parser.add_argument("--quick", action="store_true", help="under about 90 s; the same goals")
    parser.add_argument("--json", action="store_true", help="only the JSON document on stdout")
    parser.add_argument("--list", action="store_true", help="the names, one a line")
    args = parser.parse_args()
    if args.list:
        print("\n".join(BENCHES))
        return
    if args.name is None:
        parser.error("which one? " + "; ".join(f"{name}: {BENCHES[name]}" for name in BENCHES))
    began = time.monotonic()
    rows = importlib.import_module(f"scripts.bench_{args.name}").measure(Options(args.quick))
    if not args.json:
        print(table(rows))
    print(document(args.name, rows, quick=args.quick, seconds=time.monotonic() - began))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
