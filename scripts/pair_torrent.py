"""libtorrent as a peer of `scripts/bench pair`: one seed to one leech, TCP on loopback.

Run by the Python of libtorrent's own virtual environment, which has nothing else in it:

    PYTHON scripts/pair_torrent.py FILE OUT_FOLDER      prints the seconds of the transfer
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import libtorrent as lt

SETTINGS = {
    "listen_interfaces": "127.0.0.1:0",
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


def add(session: lt.session, info: lt.torrent_info, folder: str, seeds: bool) -> lt.torrent_handle:
    """One torrent in one session."""
    params = lt.add_torrent_params()
    params.ti, params.save_path = info, folder
    if seeds:
        params.flags |= lt.torrent_flags.seed_mode
    params.flags &= ~lt.torrent_flags.auto_managed
    params.flags &= ~lt.torrent_flags.paused
    return session.add_torrent(params)


def main() -> None:
    path, out = Path(sys.argv[1]), sys.argv[2]
    storage = lt.file_storage()
    storage.add_file(path.name, path.stat().st_size)
    made = lt.create_torrent(storage, PIECE_BYTES, lt.create_torrent.v1_only)
    lt.set_piece_hashes(made, str(path.parent))
    info = lt.torrent_info(lt.bencode(made.generate()))
    ready, leech_end = os.pipe()
    child = os.fork()
    if not child:  # the seed, a process of its own
        session = lt.session(SETTINGS)
        add(session, info, str(path.parent), True)
        while not session.listen_port():
            time.sleep(0.01)
        os.write(leech_end, b"%d\n" % session.listen_port())
        time.sleep(PATIENCE_S)
        os._exit(0)
    try:
        port = int(os.read(ready, 16))
        session = lt.session(SETTINGS)
        began = time.perf_counter()
        torrent = add(session, info, out, False)
        torrent.connect_peer(("127.0.0.1", port))
        while not torrent.status().is_seeding:
            if time.perf_counter() - began > PATIENCE_S:
                raise SystemExit(f"stuck: {torrent.status().progress:.0%}")
            time.sleep(0.005)
        print(time.perf_counter() - began)
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
