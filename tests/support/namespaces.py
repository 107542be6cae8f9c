"""Network namespaces joined by a bridge, without a default route: real machines on one LAN."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
import uuid
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=10)


def can_make_namespaces() -> bool:
    if os.geteuid() != 0:
        return False
    name = f"p2pc-{uuid.uuid4().hex[:6]}"
    try:
        _ip("netns", "add", name)
        _ip("netns", "del", name)
    except (OSError, subprocess.SubprocessError):
        return False
    return True


class Lan:
    """`hosts[i]` is a namespace with the address 10.77.0.<i+1>/24 on `eth0`.

    Its cable ends at port `p<i>` of a bridge in the namespace `switch`, which has no address.
    `far`: hosts at a second bridge, behind one cable (`border`).
    """

    def __init__(self, count: int, *, tag: str | None = None, far: Collection[int] = ()) -> None:
        self._far = frozenset(far)
        tag = tag or f"p2pc{uuid.uuid4().hex[:6]}"
        self.switch = f"{tag}sw"
        self.hosts = [f"{tag}h{index}" for index in range(count)]

    def ip_of(self, index: int) -> str:
        return f"10.77.0.{index + 1}"

    def prefix(self, index: int) -> tuple[str, ...]:
        """What runs a command on a host: put it before the command."""
        return ("ip", "netns", "exec", self.hosts[index])

    def argv(self, index: int, argv: Sequence[str]) -> list[str]:
        return [*self.prefix(index), *argv]

    def make(self) -> None:
        _ip("netns", "add", self.switch)
        for bridge in ("br0", "br1") if self._far else ("br0",):
            _ip("-n", self.switch, "link", "add", bridge, "type", "bridge")
            _ip("-n", self.switch, "link", "set", bridge, "up")
        if self._far:
            _ip("-n", self.switch, "link", "add", "near", "type", "veth", "peer", "name", "far")
            _ip("-n", self.switch, "link", "set", "near", "master", "br0", "up")
            _ip("-n", self.switch, "link", "set", "far", "master", "br1", "up")
        for index, host in enumerate(self.hosts):
            _ip("netns", "add", host)
            _ip("-n", host, "link", "set", "lo", "up")
            _ip("-n", host, "link", "add", "eth0", "address", mac_of(index), "type", "veth",
                "peer", "name", f"p{index}", "netns", self.switch)  # fmt: skip
            bridge = "br1" if index in self._far else "br0"
            _ip("-n", self.switch, "link", "set", f"p{index}", "master", bridge, "up")
            _ip("-n", host, "addr", "add", f"{self.ip_of(index)}/24", "dev", "eth0")
            _ip("-n", host, "link", "set", "eth0", "up")

    def cable(self, index: int, *, plugged: bool) -> None:
        """Pull a host's cable out of the switch or put it back: the host loses its carrier."""
        _ip("-n", self.switch, "link", "set", f"p{index}", "up" if plugged else "down")

    def border(self, *, plugged: bool) -> None:
        """Pull the cable between the two switches or put it back: no host loses its carrier."""
        _ip("-n", self.switch, "link", "set", "near", "up" if plugged else "down")

    def interface(self, index: int, *, up: bool) -> None:
        """Take the host's own interface down or up: with it go its routes."""
        _ip("-n", self.hosts[index], "link", "set", "eth0", "up" if up else "down")

    def limit(self, index: int, bytes_per_s: int) -> None:
        """What this host sends, and what it receives, together, on the wire."""
        self.limit_up(index, bytes_per_s)
        self._limit(self.switch, f"p{index}", bytes_per_s)

    def limit_up(self, index: int, bytes_per_s: int) -> None:
        """What this host sends together, on the wire."""
        self._limit(self.hosts[index], "eth0", bytes_per_s)

    def _limit(self, namespace: str, device: str, bytes_per_s: int) -> None:
        rate = f"{8 * bytes_per_s}bit"
        done = subprocess.run(
            ["tc", "-n", namespace, "qdisc", "replace", "dev", device, "root", "tbf",
             "rate", rate, "burst", "256kb", "latency", "100ms"],
            capture_output=True, text=True, check=False, timeout=10,
        )  # fmt: skip
        assert done.returncode == 0, f"tc cannot limit a link here: {done.stderr}"

    def routes(self, index: int) -> str:
        """The routing table of a host, as `ip route` prints it."""
        return subprocess.run(
            ["ip", "-n", self.hosts[index], "route"],
            check=True, capture_output=True, text=True, timeout=10,
        ).stdout  # fmt: skip

    def add_address(self, index: int, address: str) -> None:
        _ip("-n", self.hosts[index], "addr", "add", address, "dev", "eth0")

    def remove(self) -> None:
        """End whatever still runs on the hosts, then remove them; never raises."""
        for name in (*self.hosts, self.switch):
            remove_namespace(name)


def can_limit_links() -> bool:
    """Whether this kernel has what `Lan.limit` needs."""
    if not can_make_namespaces():
        return False
    with lan(1) as net:
        try:
            net.limit_up(0, 1_000_000)
        except (AssertionError, OSError):
            return False
    return True


def mac_of(index: int) -> str:
    """The hardware address of a host of a `Lan`."""
    return f"02:70:32:70:00:{index + 1:02x}"


def namespaces(prefix: str) -> list[str]:
    """The named network namespaces of this machine whose names begin so."""
    done = subprocess.run(
        ["ip", "netns", "list"], check=True, capture_output=True, text=True, timeout=10
    )
    names = [line.split()[0] for line in done.stdout.splitlines() if line.strip()]
    return [name for name in names if name.startswith(prefix)]


def remove_namespace(name: str) -> None:
    """End what runs in a namespace and remove it; never raises."""
    _end_all(name)
    with contextlib.suppress(subprocess.SubprocessError):
        _ip("netns", "del", name)


def _end_all(name: str, patience_s: float = 3.0) -> None:
    """Processes that outlive their parent would keep a deleted namespace alive."""
    give_up = time.monotonic() + patience_s
    while pids := _pids(name):
        if time.monotonic() > give_up:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return
        time.sleep(0.05)


def _pids(name: str) -> list[int]:
    done = subprocess.run(
        ["ip", "netns", "pids", name], capture_output=True, text=True, check=False, timeout=10
    )
    return [int(word) for word in done.stdout.split()]


@contextlib.contextmanager
def lan(count: int, *, tag: str | None = None, far: Collection[int] = ()) -> Iterator[Lan]:
    """The LAN, until the block ends. `tag`: what its namespaces' names begin with."""
    made = Lan(count, tag=tag, far=far)
    try:
        made.make()
        yield made
    finally:
        made.remove()
