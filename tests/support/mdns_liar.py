"""Somebody on the LAN who announces nonsense under a network's service type, and one honest agent.

`python -m tests.support.mdns_liar FINGERPRINT IP` prints the honest peer id and stays.
"""

from __future__ import annotations

import os
import socket
import sys

import zeroconf

from p2pcache.content.peerid import format_peer_id
from p2pcache.net.discovery.mdns import format_announcement, service_type
from p2pcache.net.identity import Identity


def main(fingerprint: str, ip: str) -> None:
    kind = service_type(fingerprint)
    one, two, honest = (Identity.generate().peer_id for _ in range(3))
    texts = [
        os.urandom(200),
        b"",
        b"\xff" + b"x" * 10,
        format_announcement(one, ["/ip4/10.0.0.1/tcp/1"])
        + format_announcement(two, ["/ip4/10.0.0.2/tcp/1"]),
        format_announcement(one, ["/ip4/127.0.0.1/tcp/22", "/ip4/0.0.0.0/tcp/1"]),
        format_announcement(one, ["/dns4/metadata.internal/tcp/80"]),
        b"".join(bytes([11]) + b"dnsaddr=abc" for _ in range(60)),
        format_announcement(honest, [f"/ip4/{ip}/tcp/4001"]),
    ]
    zc = zeroconf.Zeroconf(
        interfaces=zeroconf.InterfaceChoice.All, ip_version=zeroconf.IPVersion.V4Only
    )
    for number, text in enumerate(texts):
        name = f"liar{number}"
        info = zeroconf.ServiceInfo(
            kind, f"{name}.{kind}", port=4001, properties=text, server=f"{name}.local.",
            addresses=[socket.inet_aton(ip)],
        )  # fmt: skip
        zc.register_service(info, cooperating_responders=True)
    print(format_peer_id(honest), flush=True)
    sys.stdin.read()
    zc.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
