"""Messages between an agent and its byte server: msgpack arrays in 4-byte big-endian frames.

agent -> server: (kind, number, *fields), each answered by `done` or `failed` with its number
    options(map)                         first, once; answered by `ready`
    add(scope, [[name, entry]*])         at most MAX_ENTRIES at a time
    update(name, entry)
    drop([name*]) / drop-scope(scope)
    trust([DER*]) / distrust([fingerprint*])
    banned([peer id*])                   the whole list; their connections are cut
    limit-up(bytes per second | nil)     of all readers together, from now on
    others(scope, [peer id as text*])    who else may have it: for whoever is refused for a while
    statistics()                         answered by `statistics`
server -> agent:
    ready(number, port, fingerprint | nil) / done(number) / failed(number, text)
    statistics(number, map)
    stale(name)                          a file is gone or is another one; sent once in a while
    load(queue_s, bytes_per_s)           how busy it is (lanes/serve/load); at most 4 a second
    crowded([scope*])                    readers of these were refused: answered by `others`

Either end closes the socket to end the other: the agent needs no other way to stop its server,
and a killed agent leaves none behind. Both ends are ours, so a malformed message is a LocalFault.
"""

from __future__ import annotations

from typing import Any

import msgpack

from p2pcache.errors import LocalFault

MAX_FRAME_BYTES = 4 << 20
MAX_ENTRIES = 2000  # about 400 KB with long paths

Message = list[Any]


def pack(*message: object) -> bytes:
    """One frame."""
    body: bytes = msgpack.packb(message, use_bin_type=True)
    if len(body) > MAX_FRAME_BYTES:
        raise LocalFault(f"a control message of {len(body)} bytes")
    return len(body).to_bytes(4, "big") + body


class Unpacker:
    """Bytes in, messages out. Raises LocalFault."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """The messages that are complete now."""
        self._buffer += data
        found: list[Message] = []
        while len(self._buffer) >= 4:
            length = int.from_bytes(self._buffer[:4], "big")
            if length > MAX_FRAME_BYTES:
                raise LocalFault("a control message that is too long")
            if len(self._buffer) < 4 + length:
                break
            body = bytes(self._buffer[4 : 4 + length])
            del self._buffer[: 4 + length]
            found.append(_parse(body))
        return found


def _parse(body: bytes) -> Message:
    try:
        message: Any = msgpack.unpackb(body, raw=False, strict_map_key=False)
    except ValueError as exc:
        raise LocalFault("a malformed control message") from exc
    if not isinstance(message, list) or not message or not isinstance(message[0], str):
        raise LocalFault("a malformed control message")
    return message
