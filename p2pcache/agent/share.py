"""The operations of the network: init, invite, join, peers, bans, unban."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from p2pcache.agent.network_slot import READY_S
from p2pcache.content.peerid import format_peer_id, parse_peer_id
from p2pcache.errors import NotFound, Unavailable, UsageError
from p2pcache.units import MAX_EXPIRES_S

if TYPE_CHECKING:
    from collections.abc import Sequence

    from p2pcache.agent.args import Args
    from p2pcache.agent.network import AgentNetwork
    from p2pcache.agent.network_files import Files
    from p2pcache.agent.parts import Emit, Parts

JOIN_S = 20.0  # for one of the invitation's addresses to answer


def _network(parts: Parts) -> AgentNetwork:
    """The open network. Raises Unavailable with what is in its way."""
    if parts.network.current is not None:
        return parts.network.current
    if not parts.network.files.network.exists():
        raise Unavailable(
            "this agent is in no network",
            hint="`p2pcache init` makes one, `p2pcache join TOKEN` joins one",
        )
    if not parts.config.network.enabled:
        raise Unavailable("the network is switched off", hint="set `network.enabled` to on")
    why = parts.network.trouble or "it is being opened"
    raise Unavailable(f"the network is off: {why}", hint=parts.network.hint)


async def opened_network(parts: Parts) -> AgentNetwork:
    """The network once it is open. Raises Unavailable with what is in its way."""
    await parts.network.wait_open(READY_S)
    return _network(parts)


def _answer(network: AgentNetwork, *, made: bool) -> dict[str, Any]:
    return {
        "network": network.key.fingerprint,
        "peer": format_peer_id(network.peer_id),
        "admin": None if network.admin is None else format_peer_id(network.admin),
        "addresses": network.addresses(),
        "made": made,
    }


def expires_s_of(args: Args) -> float:
    """For how long something is given out. Raises UsageError."""
    expires_s = args.positive("expires_s")
    if expires_s is None or not 1 <= expires_s <= MAX_EXPIRES_S:
        raise UsageError(f"`expires_s` must be a number from 1 to {MAX_EXPIRES_S:.0f}")
    return expires_s


async def init(parts: Parts, args: Args, emit: Emit) -> dict[str, Any]:
    """Make an identity and a network key, if there are none; open the network."""
    from p2pcache.net.identity import load_or_create_identity
    from p2pcache.net.network_key import NetworkKey, save_network_key

    files = parts.network.files
    made = not files.network.exists()
    if made:
        identity = await trio.to_thread.run_sync(load_or_create_identity, files.identity)
        files.write_admin(identity.peer_id)
        await trio.to_thread.run_sync(save_network_key, files.network, NetworkKey.generate())
        return _answer(await parts.network.restart(), made=True)
    return _answer(await opened_network(parts), made=False)


async def invite(parts: Parts, args: Args, emit: Emit) -> dict[str, Any]:
    """A token that carries the network key, our addresses and an expiry."""
    from p2pcache.net.address import parse_address
    from p2pcache.net.invite import MAX_ADDRESSES, Invite, format_invite

    expires_s = expires_s_of(args)
    network = await opened_network(parts)
    addresses = network.addresses()[:MAX_ADDRESSES]
    expires_at = int(parts.now() + expires_s)
    token = format_invite(
        Invite(network.key, tuple(map(parse_address, addresses)), expires_at, network.admin)
    )
    return {"token": token, "expires_at": float(expires_at), "addresses": addresses}


async def join(parts: Parts, args: Args, emit: Emit) -> dict[str, Any]:
    """Take a network's key from a token and connect to whoever gave it out.

    Raises UsageError for a token of another network, or of this one with another admin: anybody
    who has the key can write such a token.
    """
    from p2pcache.net.invite import parse_invite
    from p2pcache.net.network_key import save_network_key

    invite = parse_invite(args.text("token"), now=parts.now())
    files: Files = parts.network.files
    made = not files.network.exists()
    await trio.to_thread.run_sync(save_network_key, files.network, invite.key)
    if invite.admin is not None:
        known = None if made else files.read_admin()
        if known not in (None, invite.admin):
            raise UsageError(
                f"this invitation names another admin ({format_peer_id(invite.admin)}) of this "
                "agent's network",
                hint=f"if that is right, remove `{files.admin}` and join again",
            )
        files.write_admin(invite.admin)
    network = await (parts.network.restart() if made else opened_network(parts))
    by_peer: dict[bytes, list[str]] = {}
    for address in invite.addresses:
        if address.peer is not None and address.peer != network.peer_id:
            plain, _, _ = str(address).partition("/p2p/")
            by_peer.setdefault(address.peer, []).append(plain)
    for peer, addresses in by_peer.items():
        network.book.saw(peer, addresses)
        network.network.meet(peer, addresses)
    reached = not by_peer
    with trio.move_on_after(JOIN_S):
        async with network.network.watch() as changes:
            while not reached:
                await changes.receive()
                reached = any(network.network.member(peer) is not None for peer in by_peer)
    if not reached:
        raise Unavailable(
            "the key is kept, but nobody answers at the invitation's addresses",
            hint="check that the inviting agent runs and that its port is open; a running agent "
            "(`p2pcache agent run`) goes on trying, and `p2pcache peers` shows who is there",
        )
    return _answer(network, made=made)


def listening_address(told: Sequence[str], seen: str | None) -> str | None:
    """Where a peer can be dialled: what it says itself, first of all on the host that it is `seen`
    at. The port of a connection that it opened is good for nothing.
    """
    host = (seen or "").split("/")[:3]
    return next((one for one in told if one.split("/")[:3] == host), next(iter(told), seen))


async def peers(parts: Parts, args: Args, emit: Emit) -> dict[str, Any]:
    """Who is connected."""
    network = await opened_network(parts)
    readers = (await network.server.statistics())["readers"]
    now = trio.current_time()
    for member in network.network.members():
        sent = readers.get(member.peer, [0])[0]
        lane, seen = member.lane, network.host.address_of(member.peer)
        await emit(
            {
                "type": "item",
                "value": {
                    "peer": format_peer_id(member.peer),
                    "address": listening_address(member.addresses, seen),
                    "addresses": list(member.addresses),
                    "connection": seen,
                    "agent": member.agent,
                    "zone": member.zone,
                    "rack": member.rack,
                    "connected_s": now - member.since,
                    "lane": f"{'plain' if lane.fingerprint is None else 'tls'}:{lane.port}",
                    "round_trip_s": member.rtt_s,
                    "queue_s": member.load.queue_s,
                    "up_bytes_per_s": member.load.up_bytes_per_s,
                    "intake_bytes_per_s": member.load.intake_bytes_per_s,
                    "sent_bytes": sent,
                    "received_bytes": network.received[member.peer],
                    "holds": network.network.possessed_by(member.peer),
                },
            }
        )
    return {}


async def bans(parts: Parts, args: Args, emit: Emit) -> dict[str, Any]:
    """Who is not talked to."""
    for ban in await trio.to_thread.run_sync(parts.store.others.bans):
        value = {
            "peer": format_peer_id(ban.peer),
            "reason": ban.reason,
            "banned_at": ban.banned_at,
        }
        await emit({"type": "item", "value": value})
    return {}


async def unban(parts: Parts, args: Args, emit: Emit) -> dict[str, Any]:
    """Lift a ban."""
    peer = parse_peer_id(args.text("peer"))
    network = parts.network.current
    if network is not None:
        lifted = await network.unban(peer)
    else:
        lifted = await trio.to_thread.run_sync(parts.store.others.unban, peer)
    if not lifted:
        raise NotFound("this peer is not banned", hint="`p2pcache peers --banned` lists them")
    return {"peer": format_peer_id(peer)}
