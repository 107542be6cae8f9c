"""Counts what crosses a switch, frame by frame: who sent how many TCP bytes to whom.

    ip netns exec SWITCH python -m tests.support.wire_count p0 p1 ...

Counted where frames come in from the hosts. A line on stdin is answered by one line of JSON.
Needs root; only the standard library. A frame that the kernel could not hand over counts as lost,
so that zero means zero.
"""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import struct
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from tests.support.namespaces import mac_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.namespaces import Lan

REPO = Path(__file__).resolve().parents[2]
HEADERS_BYTES = 160  # ethernet, IPv4 or IPv6, TCP with all options
_ALL, _OUTGOING = 0x0003, 4  # ETH_P_ALL, PACKET_OUTGOING
_SOL_PACKET, _STATISTICS = 263, 6
_RCVBUFFORCE = 33


@dataclass(frozen=True)
class Flow:
    """Frames from one host to another (`None`: to all) on one service's port."""

    source: int
    target: int | None
    kind: str  # tcp, udp, icmp or other
    port: int  # the lower of the two: the service's
    frames: int
    payload_bytes: int


def parse(frame: bytes | bytearray, length: int) -> tuple[str, int, int]:
    """Kind, the lower port and the payload's bytes of a frame of `length` bytes."""
    kind = struct.unpack_from("!H", frame, 12)[0]
    if kind == 0x0800:
        header = 4 * (frame[14] & 15)
        protocol, at = frame[23], 14 + header
        end = 14 + (struct.unpack_from("!H", frame, 16)[0] or length - 14)
    elif kind == 0x86DD:
        protocol, at = frame[20], 54
        end = 54 + (struct.unpack_from("!H", frame, 18)[0] or length - 54)
    else:
        return "other", 0, 0
    if protocol == 6:
        ports = struct.unpack_from("!HH", frame, at)
        return "tcp", min(ports), max(0, end - at - 4 * (frame[at + 12] >> 4))
    if protocol == 17:
        ports = struct.unpack_from("!HH", frame, at)
        return "udp", min(ports), max(0, end - at - 8)
    return ("icmp" if protocol in (1, 58) else "other"), 0, 0


def main(ports: list[str]) -> None:
    hosts = {bytes.fromhex(mac_of(i).replace(":", "")): i for i in range(len(ports))}
    frames: Counter[tuple[int, int | None, str, int]] = Counter()
    payload: Counter[tuple[int, int | None, str, int]] = Counter()
    lost = 0
    watched = selectors.DefaultSelector()
    listeners = []
    for index, port in enumerate(ports):
        listener = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        listener.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, 32 << 20)
        listener.bind((port, _ALL))
        listener.setblocking(False)
        listeners.append(listener)
        watched.register(listener, selectors.EVENT_READ, index)
    watched.register(sys.stdin, selectors.EVENT_READ, None)
    print("ready", flush=True)
    buffer = bytearray(HEADERS_BYTES)

    def drain(listener: socket.socket, index: int) -> None:
        while True:
            try:
                length, _, flags, address = listener.recvmsg_into([buffer], 0, socket.MSG_TRUNC)
            except (BlockingIOError, OSError):  # ENETDOWN: its cable was pulled
                return
            if address[2] == _OUTGOING:
                continue
            assert flags or length
            try:
                kind, port, size = parse(buffer, length)
            except (struct.error, IndexError):
                kind, port, size = "other", 0, 0
            key = (index, hosts.get(bytes(buffer[:6])), kind, port)
            frames[key] += 1
            payload[key] += size

    while True:
        for key, _ in watched.select():
            if key.data is not None:
                drain(cast("socket.socket", key.fileobj), key.data)
                continue
            if not sys.stdin.readline():
                return
            for index, listener in enumerate(listeners):
                drain(listener, index)
                lost += struct.unpack("II", listener.getsockopt(_SOL_PACKET, _STATISTICS, 8))[1]
            flows = [[*key, frames[key], payload[key]] for key in frames]
            print(json.dumps({"lost": lost, "flows": flows}), flush=True)


class Wire:
    """The counter beside a `Lan`, from its start on."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def flows(self) -> list[Flow]:
        """Everything that crossed the switch so far. Fails when the kernel lost frames."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        said = json.loads(self._process.stdout.readline())
        assert said["lost"] == 0, f"{said['lost']} frames were not counted"
        return [Flow(*flow) for flow in said["flows"]]

    def between(self, some: set[int], others: set[int]) -> list[Flow]:
        """What hosts of one group sent to hosts of the other, either way, to them alone."""
        return [
            flow
            for flow in self.flows()
            if (flow.source in some and flow.target in others)
            or (flow.source in others and flow.target in some)
        ]


@contextlib.contextmanager
def wire(lan: Lan) -> Iterator[Wire]:
    """Count what crosses the switch of a LAN until the block ends."""
    ports = [f"p{index}" for index in range(len(lan.hosts))]
    process = subprocess.Popen(
        ["setsid", "ip", "netns", "exec", lan.switch,
         sys.executable, "-m", "tests.support.wire_count", *ports],
        cwd=REPO, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline().strip() == "ready"
        yield Wire(process)
    finally:
        process.stdin.close()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


if __name__ == "__main__":
    main(sys.argv[1:])
