"""Network namespaces joined by a bridge, without a default route: real machines on one LAN."""

from __future__ import annotations

import contextlib
import os
import subprocess
import uuid
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


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
    """`hosts[i]` is a namespace with the address 10.77.0.<i+1>/24 on `eth0`."""

    def __init__(self, count: int) -> None:
        tag = uuid.uuid4().hex[:6]
        self.switch = f"p2pc{tag}sw"
        self.hosts = [f"p2pc{tag}h{index}" for index in range(count)]

    def ip_of(self, index: int) -> str:
        return f"10.77.0.{index + 1}"

    def argv(self, index: int, argv: Sequence[str]) -> list[str]:
        return ["ip", "netns", "exec", self.hosts[index], *argv]

    def make(self) -> None:
        _ip("netns", "add", self.switch)
        _ip("-n", self.switch, "link", "add", "br0", "type", "bridge")
        _ip("-n", self.switch, "link", "set", "br0", "up")
        for index, host in enumerate(self.hosts):
            _ip("netns", "add", host)
            _ip("-n", host, "link", "set", "lo", "up")
            _ip("-n", host, "link", "add", "eth0", "type", "veth",
                "peer", "name", f"p{index}", "netns", self.switch)  # fmt: skip
            _ip("-n", self.switch, "link", "set", f"p{index}", "master", "br0", "up")
            _ip("-n", host, "addr", "add", f"{self.ip_of(index)}/24", "dev", "eth0")
            _ip("-n", host, "link", "set", "eth0", "up")

    def add_address(self, index: int, address: str) -> None:
        _ip("-n", self.hosts[index], "addr", "add", address, "dev", "eth0")

    def remove(self) -> None:
        for name in (*self.hosts, self.switch):
            with contextlib.suppress(subprocess.SubprocessError):
                _ip("netns", "del", name)


@contextlib.contextmanager
def lan(count: int) -> Iterator[Lan]:
    made = Lan(count)
    try:
        made.make()
        yield made
    finally:
        made.remove()
