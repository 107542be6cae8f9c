"""Every number of a byte server, with its reason. The agent sends them first, over the control."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from p2pcache.errors import LocalFault


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """`certificate_pem` None: plain HTTP, and tickets are bound to the reader's address."""

    secret: bytes = field(repr=False)  # of the tickets (lanes/tickets)
    hosts: tuple[str, ...] = ("0.0.0.0",)
    port: int = 0  # of every host; 0 takes any, and the first host's is then everybody's
    certificate_pem: bytes | None = None
    key_pem: bytes | None = field(default=None, repr=False)
    limit_up_bytes_per_s: float | None = None  # all readers together

    max_connections: int = 512  # a thread each: 64 members with a few fetch workers
    max_unknown: int = 64  # not yet authenticated; the oldest of the busiest address makes room
    max_per_reader: int = 32  # twice the fetch processes of one agent
    max_sending: int = 64  # answers at once: 1 MiB of buffer each under TLS
    max_sending_per_reader: int = 16  # so that no reader can fill them all
    kept_sending: int = 16  # of them, for readers that have none: identities are free to make
    least_slots: int = 3  # answers of whole pieces at once on a slow uplink: facts of the simulator
    unmeasured_slots: int = 16  # before the uplink's rate is known: two readers' worth
    most_queue_s: float = 1.0  # of sending, more waits: a reader gives a silent source up in 1.5 s
    slot_wait_s: float = 0.5  # for a slot; then "ask somebody else"
    small_bytes: int = 256 << 10  # a small file or the end of one: never waits for a slot
    small_bundle_bytes: int = 2 << 20  # nor does what is asked of a source of unknown rate: 1 MiB
    others_s: float = 10.0  # other holders are named for so long after the agent told them
    least_bytes_per_s: int = 64 << 10  # of an answer's reader; a slower one may have to make room
    slow_s: float = 5.0  # over which that is measured, again and again

    unknown_s: float = 5.0  # for handshake and first request: ten far round trips and more
    head_s: float = 5.0  # from the first byte of a request to its end: a slowloris ends here
    idle_s: float = 60.0  # kept for a reader between two requests; pulls pause no longer
    stall_s: float = 20.0  # nothing acknowledged by a reader for this long: its machine is gone
    block_wait_s: float = 5.0  # for one block of a growing blob; readers give up after 10 s
    bundle_bytes: int = 64 << 20  # of one bundle's answer; the rest is to be asked for again

    def to_wire(self) -> dict[str, Any]:
        """A plain map for msgpack."""
        return asdict(self)

    @classmethod
    def from_wire(cls, wire: dict[str, Any]) -> ServeOptions:
        """The inverse. Raises LocalFault for a map of another version's agent."""
        known = {each.name for each in fields(cls)}
        if not wire.keys() <= known or not {"secret", "hosts"} <= wire.keys():
            raise LocalFault("the agent and its byte server are of different versions")
        return cls(**{**wire, "hosts": tuple(wire["hosts"])})
