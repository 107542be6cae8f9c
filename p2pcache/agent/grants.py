"""The operations on grants: who may read a gated repository from other agents, and until when."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import trio

from p2pcache.agent.share import expires_s_of, opened_network
from p2pcache.content import refs
from p2pcache.content.grants import of_admin, revoked, revoked_until, standing
from p2pcache.content.peerid import format_peer_id, parse_peer_id
from p2pcache.content.signed import sign_grant
from p2pcache.errors import Denied, NotFound, UsageError

if TYPE_CHECKING:
    from p2pcache.agent.args import Args
    from p2pcache.agent.network import AgentNetwork
    from p2pcache.agent.parts import Emit, Parts
    from p2pcache.content.peerid import PeerId
    from p2pcache.content.signed import Grant


async def grant(parts: Parts, args: Args, emit: Emit) -> dict[str, Any]:
    """Sign a permission for a peer, as the network's admin."""
    repo, peer, expires_s = repo_of(args.text("repo")), _peer(args), expires_s_of(args)
    network = await _as_admin(parts)
    expires_at = float(parts.now() + expires_s)
    told = await _grants(parts)
    _check_longer(network, told, repo, peer, expires_at)
    await _say(parts, network, repo, peer, expires_at)
    return {
        "repo": repo,
        "peer": format_peer_id(peer),
        "expires_at": expires_at,
        "connected": peer == network.peer_id or network.network.member(peer) is not None,
    }


def _check_longer(
    network: AgentNetwork, told: list[Grant], repo: str, peer: PeerId, expires_at: float
) -> None:
    """Of two grants the longer one counts, everywhere: a shorter one would change nothing."""
    assert network.admin is not None
    void = revoked_until(told, network.admin, repo, peer)
    if expires_at <= void:
        raise UsageError(
            f"what was taken back would have ended on {_date(void)}; a new grant has to end later",
            hint="give it a longer --expires",
        )
    there = _standing(network, told, repo, peer)
    if there is not None and there.expires_at > expires_at:
        raise UsageError(
            f"{format_peer_id(peer)} may read {repo} until {_date(there.expires_at)} already",
            hint="to shorten that, take it back: `p2pcache grant --revoke REPO PEER`",
        )


def _standing(network: AgentNetwork, told: list[Grant], repo: str, peer: PeerId) -> Grant | None:
    found = [one for one in standing(told, network.admin) if (one.repo, one.peer) == (repo, peer)]
    return found[0] if found else None


async def revoke(parts: Parts, args: Args, emit: Emit) -> dict[str, Any]:
    """Take a grant back, as the network's admin. Raises NotFound when there is none."""
    repo, peer = repo_of(args.text("repo")), _peer(args)
    network = await _as_admin(parts)
    found = _standing(network, await _grants(parts), repo, peer)
    if found is None:
        raise NotFound(
            f"{format_peer_id(peer)} has no grant for {repo}",
            hint="`p2pcache grant --list` shows those that there are",
        )
    await _say(parts, network, revoked(repo), peer, found.expires_at)
    return {"repo": repo, "peer": format_peer_id(peer), "expires_at": found.expires_at}


async def grants(parts: Parts, args: Args, emit: Emit) -> dict[str, Any]:
    """The admin's grants that have not ended, also those that were taken back."""
    network = await opened_network(parts)
    for one, stands in of_admin(await _grants(parts), network.admin):
        value = {
            "repo": one.repo,
            "peer": format_peer_id(one.peer),
            "expires_at": one.expires_at,
            "revoked": not stands,
        }
        await emit({"type": "item", "value": value})
    return {}


async def _grants(parts: Parts) -> list[Grant]:
    now = parts.now()
    return await trio.to_thread.run_sync(lambda: parts.store.others.grants(now=now))


async def _say(
    parts: Parts, network: AgentNetwork, about: str, peer: PeerId, expires_at: float
) -> None:
    """Sign it, keep it and tell it to everybody; who is away hears it when it comes back."""
    signed = sign_grant(network.identity, about, peer, expires_at)
    await trio.to_thread.run_sync(parts.store.others.put_grant, signed)
    network.network.permit([signed])


async def _as_admin(parts: Parts) -> AgentNetwork:
    network = await opened_network(parts)
    if network.admin != network.peer_id:
        raise _not_admin(network)
    return network


def _peer(args: Args) -> PeerId:
    return parse_peer_id(args.text("peer").strip())


def _date(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment).astimezone():%Y-%m-%d %H:%M %Z}"


def _not_admin(network: AgentNetwork) -> Denied:
    if network.admin is None:
        return Denied(
            "this agent knows no admin of its network: there is no `network.admin` in its home",
            hint="write the peer id of the agent where `p2pcache init` was run into it (any other "
            "member's home has it), and start the agent anew",
        )
    return Denied(
        f"only the network's admin can grant access: {format_peer_id(network.admin)}",
        hint="run it on the machine where `p2pcache init` was run; if that was here, this agent's "
        "`identity.key` was replaced: put the old one back",
    )


def repo_of(text: str) -> str:
    """The canonical ref of a repository without its revision. Raises UsageError."""
    ref = refs.parse_ref(text)
    if not isinstance(ref, refs.HfRef):
        raise UsageError("a grant is for a Hugging Face repository", hint="hf://org/name")
    repo = refs.canonical(ref).partition("@")[0]
    if ref.revision is not None or ref.path is not None:
        raise UsageError(
            f"a grant is for a whole repository, not for `{text}`", hint=f"give {repo}"
        )
    return repo
