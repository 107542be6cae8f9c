"""A running Kubo that keeps to itself: loopback only, no bootstrap, its own ports."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.support.kubo import ipfs_binary
from tests.support.processes import stop

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

START_S = 60.0
CONFIG = {
    "Addresses": {
        "Swarm": ["/ip4/127.0.0.1/tcp/0"], "API": "/ip4/127.0.0.1/tcp/0", "Gateway": [],
        "AppendAnnounce": [], "NoAnnounce": [],
    },
    "Bootstrap": [],
    "Discovery": {"MDNS": {"Enabled": False}},
    "Routing": {"Type": "none", "DelegatedRouters": []},
    "Swarm": {
        "DisableNatPortMap": True, "RelayClient": {"Enabled": False}, "EnableHolePunching": False,
        "AddrFilters": [],
        "Transports": {"Network": {
            "QUIC": False, "WebTransport": False, "Websocket": False, "WebRTCDirect": False,
        }},
    },
    "AutoConf": {"Enabled": False},
    "AutoTLS": {"Enabled": False},
    "AutoNAT": {"ServiceMode": "disabled"},
    "DNS": {"Resolvers": {}},
    "Ipns": {"DelegatedPublishers": []},
}  # fmt: skip


class KuboError(Exception):
    """What Kubo said."""


@dataclass(frozen=True)
class KuboDaemon:
    """One daemon. `api`: host and port of its RPC; `gateway`: of its gateway, empty without one."""

    api: str
    peer: str
    addresses: list[str]
    gateway: str = ""
    repo: Path | None = None
    pid: int = 0

    def add(self, path: Path, *options: str) -> str:
        """The root of a file or a folder, stored and pinned; `options` of `ipfs add`."""
        host, _, port = self.api.partition(":")
        api = f"--api=/ip4/{host}/tcp/{port}"
        done = subprocess.run(
            [str(ipfs_binary()), api, "add", "-r", "-Q", "-H", *options, str(path)],
            env={"IPFS_PATH": str(self.repo), "HOME": str(self.repo), "IPFS_TELEMETRY": "off"},
            check=False, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def rpc(self, path: str, *args: str, timeout: float = 30) -> Any:
        """One call; JSON, or the lines of several. Raises KuboError."""
        query = urllib.parse.urlencode([("arg", argument) for argument in args])
        url = f"http://{self.api}/api/v0/{path}?{query}"
        request = urllib.request.Request(url, method="POST", data=b"")
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as exc:
            with exc:
                raise KuboError(exc.read().decode(errors="replace")) from exc


@contextlib.contextmanager
def kubo_daemon(
    repo: Path,
    swarm_key: bytes | None,
    *,
    gateway: bool = False,
    profile: str | None = None,
    changes: dict[str, Any] | None = None,
) -> Iterator[KuboDaemon]:
    """Ready; its peers need `swarm_key` (the file's content). `profile`: how it adds files;
    `changes`: sections of its configuration.
    """
    binary = ipfs_binary()
    env = {"IPFS_PATH": str(repo), "HOME": str(repo), "IPFS_TELEMETRY": "off"}
    init = [str(binary), "init", "-e", *([f"--profile={profile}"] if profile else [])]
    subprocess.run(init, env=env, check=True, capture_output=True, timeout=60)
    config = json.loads((repo / "config").read_text()) | CONFIG | (changes or {})
    if gateway:
        config["Addresses"] |= {"Gateway": "/ip4/127.0.0.1/tcp/0"}
    (repo / "config").write_text(json.dumps(config))
    if swarm_key is not None:
        (repo / "swarm.key").write_bytes(swarm_key)
        env["LIBP2P_FORCE_PNET"] = "1"
    log = repo / "daemon.log"
    with log.open("ab") as out:
        process = subprocess.Popen(
            [binary, "daemon"], env={**os.environ, **env}, stdout=out, stderr=out
        )
    try:
        yield _ready(repo, process, log, gateway=gateway)
    finally:
        stop(process)


def _ready(repo: Path, process: subprocess.Popen[bytes], log: Path, *, gateway: bool) -> KuboDaemon:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()[-3000:]
        with contextlib.suppress(OSError, KuboError):
            _, _, host, _, port = (repo / "api").read_text().strip().split("/")
            daemon = KuboDaemon(f"{host}:{port}", "", [])
            said = daemon.rpc("id", timeout=5)
            if said["Addresses"]:
                addresses = [address.split("/p2p/")[0] for address in said["Addresses"]]
                place = (repo / "gateway").read_text() if gateway else ""
                return KuboDaemon(
                    daemon.api, said["ID"], addresses, place.strip().removeprefix("http://"), repo,
                    process.pid,
                )  # fmt: skip
        time.sleep(0.05)
    raise AssertionError(log.read_text()[-3000:])
