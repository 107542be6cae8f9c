"""The agent around the content: `id`, `version`, `swarm/`, `routing/`, `repo/`, `stats/`."""

from __future__ import annotations

import base64
import platform
import sys
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, cast

from p2pcache.content import cid as cids
from p2pcache.errors import UsageError
from p2pcache.gateway.kubo_rpc import answers
from p2pcache.version import __version__

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from p2pcache.gateway.kubo_rpc.answers import Rows
    from p2pcache.gateway.kubo_rpc.call import Call, Identity, Peer
    from p2pcache.gateway.messages import Response

API_VERSION = "0.43.0"  # whose calls and answers these are; clients compare it
AGENT = f"p2pcache/{__version__}"
REPO_VERSION = "18"  # of Kubo 0.43: clients that look at it must not offer a migration
NO_LIMIT = (1 << 63) - 1
MAX_PROVIDERS = 1000


async def version(call: Call) -> Response:
    """`version`: `Version` is the API's, `Commit` says who answers."""
    machine = platform.machine()
    arch = {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)
    return answers.answer(
        {
            "Version": API_VERSION,
            "Commit": AGENT,
            "Repo": REPO_VERSION,
            "System": f"{arch}/{sys.platform}",
            "Golang": f"none (Python {platform.python_version()})",
        }
    )


async def id_(call: Call) -> Response:
    """`id`: ours; of others it is not known."""
    us = call.context.node.identity()
    asked = next(iter(call.query.args("peerid", 0)), us.peer_id)
    if asked != us.peer_id:
        raise UsageError("p2pcache tells its own id alone")
    return answers.answer(
        {
            "ID": us.peer_id,
            "PublicKey": base64.b64encode(us.public_key).decode(),
            "Addresses": _full(us),
            "AgentVersion": AGENT,
            "Protocols": sorted(us.protocols),
        }
    )


def _full(us: Identity) -> list[str]:
    return [f"{address}/p2p/{us.peer_id}" for address in us.addresses]


async def peers(call: Call) -> Response:
    """`swarm/peers`."""
    rows = [_peer_row(peer) for peer in call.context.node.peers()]
    return answers.answer({"Peers": rows or None})


def _peer_row(peer: Peer) -> dict[str, Any]:
    nobody = {"ID": "", "PublicKey": "", "Addresses": None, "AgentVersion": "", "Protocols": None}
    address = peer.addresses[0] if peer.addresses else ""
    return {"Addr": address, "Peer": peer.peer_id, "Identify": nobody}


async def addrs(call: Call) -> Response:
    """`swarm/addrs`: of those whom we are connected with, and ours."""
    node = call.context.node
    us = node.identity()
    found = {peer.peer_id: list(peer.addresses) for peer in node.peers()}
    if us.peer_id:
        found[us.peer_id] = list(us.addresses)
    return answers.answer({"Addrs": found})


async def addrs_local(call: Call) -> Response:
    """`swarm/addrs/local`, `swarm/addrs/listen`."""
    us = call.context.node.identity()
    shown = _full(us) if call.query.flag("id") else list(us.addresses)
    return answers.answer({"Strings": shown})


async def connect(call: Call) -> Response:
    """`swarm/connect`."""
    said = []
    for address in call.query.args("address"):
        if not address.startswith("/"):
            raise UsageError(f'failed to parse multiaddr "{address[:200]}": must begin with /')
        head, found, peer = address.rpartition("/p2p/")
        if not found or not head or "/" in peer:
            raise UsageError(f"invalid p2p multiaddr: {address[:200]}")
        await call.context.node.connect(address)
        said.append(f"connect {peer} success")
    return answers.answer({"Strings": said})


async def find_providers(call: Call) -> Response:
    """`routing/findprovs`: a line a provider (type 4), as they are found."""
    most = call.query.integer("num-providers", "n", kind="int")
    most = 20 if most is None else most
    if not 1 <= most <= MAX_PROVIDERS:
        raise UsageError("number of providers must be greater than 0")
    cid = await call.cid_of(call.query.arg("key"))
    return await answers.lines(_providers(call, cid, most))


async def _providers(call: Call, cid: bytes, most: int) -> Rows:
    found = cast("AsyncGenerator[Peer, None]", call.context.node.providers(cid))
    async with aclosing(found):
        async for peer in found:
            who = {"ID": peer.peer_id, "Addrs": list(peer.addresses) or None}
            yield {"Extra": "", "ID": "", "Responses": [who], "Type": 4}
            most -= 1
            if not most:
                return


async def provide(call: Call) -> Response:
    """`routing/provide`: nothing is said when it is done."""
    wanted = [await call.cid_of(path) for path in call.query.args("key")]
    for cid in wanted:
        if not await call.context.blocks.has(cid):
            shown = cids.format_cid(cid)
            raise UsageError(f"block {shown} not found locally, cannot provide")
    return await answers.lines(_provide(call, wanted))


async def _provide(call: Call, wanted: list[bytes]) -> Rows:
    for cid in wanted:
        await call.context.node.provide(cid)
    for nothing in tuple[str, ...]():
        yield nothing


async def repo_stat(call: Call) -> Response:
    """`repo/stat`, `stats/repo`: the whole store, blobs too."""
    space = await call.context.node.space()
    most = NO_LIMIT if space.most_bytes is None else space.most_bytes
    row: dict[str, Any] = {"RepoSize": space.used_bytes, "StorageMax": most}
    if call.query.flag("size-only"):
        row |= {"NumObjects": 0, "RepoPath": "", "Version": ""}
    else:
        version = f"fs-repo@{REPO_VERSION}"
        row |= {"NumObjects": space.objects, "RepoPath": space.path, "Version": version}
    return answers.answer(row)


async def repo_version(call: Call) -> Response:
    """`repo/version`."""
    return answers.answer({"Version": REPO_VERSION})


async def repo_gc(call: Call) -> Response:
    """`repo/gc`: loose blocks that no pin keeps; blobs go by `p2pcache gc`."""
    return await answers.lines(_gc(call))


async def _gc(call: Call) -> Rows:
    for cid in await call.context.node.collect():
        yield {"Key": answers.link(cid)}


async def bandwidth(call: Call) -> Response:
    """`stats/bw`: bytes between agents since the start; rates are not kept."""
    call.query.unsupported("poll", "peer", "proto")
    return await answers.lines(_bandwidth(call))


async def _bandwidth(call: Call) -> Rows:
    received, sent = call.context.node.traffic_bytes()
    yield {"TotalIn": received, "TotalOut": sent, "RateIn": 0, "RateOut": 0}
