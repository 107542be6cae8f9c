"""The messages of the DHT: libp2p's Kademlia protobufs (specs, kad-dht), parsed strictly.

Frames are a varint length and a protobuf. A name is the key as it is (the table hashes it). Our
own addition: a provider record whose only address is `NOWHERE` takes that provider's record back;
a server that does not know it stores an address that nobody can dial and finders drop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError
from libp2p.kad_dht.pb.kademlia_pb2 import Message

from p2pcache.content.peerid import PeerId, check_peer_id
from p2pcache.errors import Untrusted
from p2pcache.net.remote_address import MAX_ADDRESSES, decode_address, encode_address

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

PROTOCOL = "/p2pcache/kad/1.0.0"
MAX_NAME_BYTES = 64
MAX_FRAME_BYTES = 64 * 1024  # 20 closer peers and 20 providers with addresses take 20 KiB
MAX_LISTED = 32  # peers of one list in an answer; stock servers send 20
NOWHERE = bytes.fromhex("0400000000060000")  # /ip4/0.0.0.0/tcp/0

Somebody = tuple[PeerId, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said: who provides, and who may know better."""

    providers: tuple[Somebody, ...] = ()
    closer: tuple[Somebody, ...] = ()


def ask_providers(name: bytes) -> bytes:
    """GET_PROVIDERS."""
    return _frame(Message(type=Message.MessageType.GET_PROVIDERS, key=name))


def ask_closer(target: bytes) -> bytes:
    """FIND_NODE for a peer id or any other 2 to 50 bytes."""
    return _frame(Message(type=Message.MessageType.FIND_NODE, key=target))


def announce(name: bytes, me: PeerId, addresses: Sequence[bytes]) -> bytes:
    """ADD_PROVIDER of ourselves; the server echoes it."""
    provider = Message.Peer(id=me, addrs=addresses)
    return _frame(
        Message(type=Message.MessageType.ADD_PROVIDER, key=name, providerPeers=[provider])
    )


def take_back(name: bytes, me: PeerId) -> bytes:
    """ADD_PROVIDER that removes our record."""
    return announce(name, me, [NOWHERE])


def own_addresses(addresses: Iterable[str]) -> list[bytes]:
    """The binary forms of our addresses that have one, the first few."""
    found = []
    for address in addresses:
        try:
            found.append(encode_address(address))
        except Untrusted:
            continue  # a name: only of use in configuration
    return found[:MAX_ADDRESSES]


def parse_answer(data: bytes, *, loopback: bool) -> Answer:
    """An answer of a server. Raises Untrusted; entries that make no sense are left out."""
    message = Message()
    try:
        message.ParseFromString(data)
    except DecodeError as exc:
        raise Untrusted("a DHT answer does not parse") from exc
    return Answer(
        _somebodies(message.providerPeers, loopback), _somebodies(message.closerPeers, loopback)
    )


def _somebodies(listed: Sequence[Message.Peer], loopback: bool) -> tuple[Somebody, ...]:
    found: dict[PeerId, tuple[str, ...]] = {}
    for entry in listed[:MAX_LISTED]:
        if bytes(entry.addrs[0]) == NOWHERE if entry.addrs else False:
            continue
        try:
            peer = check_peer_id(entry.id)
        except Untrusted:
            continue
        found.setdefault(peer, parse_addresses(entry.addrs, peer, loopback=loopback))
    return tuple(found.items())


def parse_addresses(listed: Sequence[bytes], peer: PeerId, *, loopback: bool) -> tuple[str, ...]:
    """The addresses in a list that somebody could dial, each once."""
    found: dict[str, None] = {}
    for data in listed[: 2 * MAX_ADDRESSES]:
        try:
            said, text = decode_address(data, loopback=loopback)
        except Untrusted:
            continue
        if said in (None, peer):
            found[text] = None
    return tuple(found)[:MAX_ADDRESSES]


def _frame(message: Message) -> bytes:
    body: bytes = message.SerializeToString()
    return varint(len(body)) + body


def varint(value: int) -> bytes:
    """Unsigned LEB128."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
