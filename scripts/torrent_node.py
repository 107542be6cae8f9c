"""libtorrent, as a peer of `scripts/bench pair` and `scripts/bench swarm`.

Run by the Python of libtorrent's own virtual environment, which has nothing else in it:

    PYTHON scripts/torrent_node.py make FILE TORRENT             write a torrent of one file
    PYTHON scripts/torrent_node.py run TORRENT FOLDER HOST PEER...

`run` is a seed where FOLDER has the file. It prints its port, waits for a line on standard input,
prints the seconds until it has everything, and serves until standard input ends. PEER: HOST:PORT.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import libtorrent as lt

SETTINGS = {
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "enable_incoming_utp": False,  # 11-17 MB/s on loopback: its delay control is for far links
    "enable_outgoing_utp": False,
    "allow_multiple_connections_per_ip": True,
    "rate_limit_ip_overhead": False,
    "alert_mask": 0,
    "in_enc_policy": 2,  # plain
    "out_enc_policy": 2,
}
PATIENCE_S = 300.0
PIECE_BYTES = 1 << 20


def make(file: Path, out: Path) -> None:
    """Write the torrent of a file."""
    storage = lt.file_storage()
    storage.add_file(file.name, file.stat().st_size)
    made = lt.create_torrent(storage, PIECE_BYTES, lt.create_torrent.v1_only)
    lt.set_piece_hashes(made, str(file.parent))
    out.write_bytes(lt.bencode(made.generate()))


def run(torrent: Path, folder: Path, host: str, peers: list[str]) -> None:
    """Seed or fetch; see the module."""
    info = lt.torrent_info(lt.bdecode(torrent.read_bytes()))
    seeds = (folder / info.name()).exists()
    session = lt.session({**SETTINGS, "listen_interfaces": f"{host}:0"})
    while not session.listen_port():
        time.sleep(0.01)
    print(session.listen_port(), flush=True)
    sys.stdin.readline()
    began = time.perf_counter()
    params = lt.add_torrent_params()
    params.ti, params.save_path = info, str(folder)
    if seeds:
        params.flags |= lt.torrent_flags.seed_mode
    params.flags &= ~lt.torrent_flags.auto_managed
    params.flags &= ~lt.torrent_flags.paused
    handle = session.add_torrent(params)
    for peer in peers:
        name, port = peer.rsplit(":", 1)
        handle.connect_peer((name, int(port)))
    while not handle.status().is_seeding:
        if time.perf_counter() - began > PATIENCE_S:
            raise SystemExit(f"stuck: {handle.status().progress:.0%}")
        time.sleep(0.005)
    print(time.perf_counter() - began, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    if command == "make":
        make(Path(arguments[0]), Path(arguments[1]))
    else:
        run(Path(arguments[0]), Path(arguments[1]), arguments[2], arguments[3:])
