"""The operations of preloads: preload, and its list, show and cancel."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import trio

from p2pcache.agent.share import opened_network
from p2pcache.config.preload import From
from p2pcache.content import cid as cids
from p2pcache.content import refs
from p2pcache.content.address_secrets import secret_in
from p2pcache.content.cloud_refs import AzureRef, GcsRef
from p2pcache.content.peerid import format_peer_id
from p2pcache.content.preload import (
    ID_BYTES,
    MAX_COUNT,
    MAX_LIFE_S,
    parse_nodes,
    sign_cancel,
    sign_intent,
)
from p2pcache.content.s3_refs import S3Ref
from p2pcache.errors import Denied, Interrupted, NotFound, UsageError
from p2pcache.net.sync import preloads as wire
from p2pcache.net.sync.preloads import Stage

if TYPE_CHECKING:
    from p2pcache.agent.args import Args
    from p2pcache.agent.network import AgentNetwork
    from p2pcache.agent.parts import Emit, Parts
    from p2pcache.store.preloads import PreloadRow

KEEP_S = 7 * 86400  # after its start a preload is remembered, and its copies are kept
LABELS_S = 1.0  # for the others to say what they are; those that are here take milliseconds
LOOK_S = 0.05
EMIT_S = 0.5  # between two looks of a watcher
PAST_S = 60  # that a start may lie back: what was meant as now, by a clock that differs
ASK_S = 20.0  # between two questions of a watcher; it is told for a minute


async def preload(parts: Parts, args: Args, emit: Emit) -> dict[str, Any]:
    """Sign a preload of what a ref means now, and tell it to everybody."""
    opened = await opened_network(parts)
    check_settings(parts, opened)
    nodes = args.optional_text("nodes") or "all"
    wanted = parse_nodes(nodes)
    replicas = args.size("replicas") or 0
    if replicas > MAX_COUNT:
        raise UsageError(f"{replicas} copies (allowed: {MAX_COUNT})")
    issued = int(parts.now())
    start = int(args.positive("at") or issued)
    if start < issued - PAST_S:
        raise UsageError("the start is in the past", hint="leave --at out to begin now")
    start = max(issued, start)
    keep_s = int(args.positive("keep_s") or KEEP_S)
    deadline = int(args.positive("deadline") or start + keep_s)
    expires = max(start + keep_s, deadline)
    if deadline <= start:
        raise UsageError("the deadline is before the start", hint="give a later --deadline")
    if expires - issued > MAX_LIFE_S:
        raise UsageError(f"a preload lasts at most {MAX_LIFE_S // 86400} days")
    rate = args.positive("limit_rate")
    ref = refs.parse_ref(args.text("ref"), revision=args.optional_text("revision"))
    told = _is_told(ref, is_admin=opened.peer_id == opened.admin)
    resolution = await parts.resolver.resolve(ref, args.credentials())
    if resolution.manifest is None:
        raise UsageError(
            f"what `{resolution.canonical}` holds has no name before its bytes have arrived",
            hint="`p2pcache get` it (or `push` a folder) here first, then preload that",
        )
    manifest = resolution.manifest.cid()
    await trio.to_thread.run_sync(parts.store.put_manifest, resolution.manifest)
    intent = sign_intent(
        opened.identity,
        ref=resolution.canonical if told else cids.format_cid(manifest),
        revision=resolution.listing.immutable if isinstance(ref, refs.HfRef) else None,
        manifest=manifest,
        nodes=nodes,
        replicas=replicas,
        rate_bytes_per_s=None if rate is None else max(1, int(rate)),
        issued_at=issued,
        start_at=start,
        deadline_at=deadline,
        expires_at=expires,
        nonce=os.urandom(16),
    )
    await parts.preloads.issue(opened, intent)
    row = parts.preloads.book.find(intent.id)
    assert row is not None
    notes = _notes(opened, ref, parts)
    here = len(opened.network.members()) + 1
    if replicas > here:
        notes.append(f"{replicas} copies need as many agents; {here} of them are here now")
    ours = isinstance(wanted, tuple) and set(wanted) <= set(parts.config.preload.labels)
    if isinstance(wanted, tuple) and not ours and not await _anybody(parts, opened, row):
        notes.append(f"no agent that is here now is `{nodes}`; who comes with it takes part")
    return {**_shown(opened, row), "notes": notes}


async def _anybody(parts: Parts, opened: AgentNetwork, row: PreloadRow) -> bool:
    """Whether another agent that is here has the labels, as far as they say so soon."""
    opened.network.tell_preload(wire.Watch((row.id,)))
    with trio.move_on_after(LABELS_S):
        while True:
            view = parts.preloads.view(opened, row, 0.0)
            if any(line["chosen"] for line in view.lines()):
                return True
            if view.here <= view.told.keys():
                return False
            await trio.sleep(LOOK_S)
    return False


def check_settings(parts: Parts, opened: AgentNetwork) -> None:
    """Raises Denied where this agent's own settings keep it from asking others for anything."""
    who = parts.config.preload.who
    if who is From.ADMIN and opened.peer_id != opened.admin:
        raise Denied(
            "this agent's `preload.from` lets only the network's admin preload",
            hint="run it on the machine where `p2pcache init` was run",
        )


def _is_told(ref: refs.Ref, *, is_admin: bool) -> bool:
    """Whether others are told the ref itself; else they know its content by its CID alone: a path
    is this machine's own business, and they ask no web address and no bucket but the admin's.

    Raises UsageError for an address with a secret in it: every member would get to know it.
    """
    if isinstance(ref, refs.FileRef):
        return False
    if not isinstance(ref, refs.Address):
        return True
    secret = secret_in(ref.url) if isinstance(ref, refs.HttpRef) else None
    if is_admin and secret is not None:
        raise UsageError(
            f"this address carries a secret ({secret}), and a preload tells it to every member",
            hint="`p2pcache get` it here, then preload its CID, which `p2pcache resolve` prints",
        )
    return is_admin


def _notes(opened: AgentNetwork, ref: refs.Ref, parts: Parts) -> list[str]:
    notes = []
    if isinstance(ref, refs.Address):
        what = "bucket" if isinstance(ref, S3Ref | GcsRef | AzureRef) else "address"
        if opened.peer_id != opened.admin:
            notes.append(
                f"others are told the content's CID and not its {what}, which they would ask "
                "only for the network's admin: they get this from agents that have it"
            )
        elif isinstance(ref, refs.HttpRef) and urlsplit(ref.url).query:
            notes.append("every member is told the whole address, with its query")
    if isinstance(ref, refs.FileRef | refs.DigestRef | refs.CidRef):
        notes.append("this has no origin that others could ask: they get it from who has it")
    if not opened.network.members():
        notes.append("nobody else is here now; who comes is told")
    return notes


async def preload_list(parts: Parts, args: Args, emit: Emit) -> dict[str, Any]:
    """Every preload that this agent knows, the oldest first."""
    opened = await opened_network(parts)
    for row in parts.preloads.book.intents():
        view = parts.preloads.view(opened, row, 0.0)
        lines = view.lines()
        value = {
            **_shown(opened, row),
            "totals": view.totals(lines),
            "state": lines[0]["state"],
            "chosen": lines[0]["chosen"],
        }
        await emit({"type": "item", "value": value})
    return {}


async def preload_show(parts: Parts, args: Args, emit: Emit) -> dict[str, Any]:
    """How far every agent is with a preload; `watch`: told again and again until it is over."""
    await opened_network(parts)
    row = _named(parts, args.text("id"))
    with parts.preloads.watching():
        return await _show(parts, row, emit, watch=args.flag("watch"))
    raise Interrupted("the agent is stopping", hint="the preload goes on; watch it again")


async def _show(parts: Parts, row: PreloadRow, emit: Emit, *, watch: bool) -> dict[str, Any]:
    opened: AgentNetwork | None = None
    while True:
        if opened is None or parts.network.current is not opened:  # one that opened anew asks anew
            opened = await opened_network(parts)
            started = idle_since = trio.current_time()
            asked_at = float("-inf")
        now = trio.current_time()
        if now >= asked_at + ASK_S:
            asked_at = now
            opened.network.tell_preload(wire.Watch((row.id,)))
            if not watch:  # those that are here answer in milliseconds
                await trio.sleep(EMIT_S)
        row = parts.preloads.book.find(row.id) or row
        now = trio.current_time()
        view = parts.preloads.view(opened, row, now - started)
        lines = view.lines()
        if view.unfinished(lines) != {Stage.IDLE.value}:
            idle_since = now
        over = (
            view.is_over(lines, now - idle_since)
            or row.cancel is not None
            or row.expires_at <= parts.now()
        )
        value = {**_shown(opened, row), "totals": view.totals(lines), "agents": lines, "over": over}
        if over or not watch:
            return value
        await emit({"type": "progress", **value})
        with trio.move_on_after(EMIT_S):
            await parts.preloads.changed.wait()
            await trio.sleep(EMIT_S / 2)


async def preload_cancel(parts: Parts, args: Args, emit: Emit) -> dict[str, Any]:
    """Sign the end of a preload of our own, and tell it to everybody."""
    opened = await opened_network(parts)
    row = _named(parts, args.text("id"))
    if row.signer != opened.peer_id:
        raise Denied(
            f"only its signer can cancel a preload: {format_peer_id(row.signer)}",
            hint="to take no part in what others wish, set `preload.from`",
        )
    if row.cancel is None:
        assert row.intent is not None
        await parts.preloads.cancel(opened, sign_cancel(opened.identity, row.intent))
        row = parts.preloads.book.find(row.id) or row
    return _shown(opened, row)


def _named(parts: Parts, text: str) -> PreloadRow:
    """The preload of an id, or of its beginning. Raises NotFound, UsageError."""
    if not (4 <= len(text) <= 2 * ID_BYTES and set(text.lower()) <= set("0123456789abcdef")):
        raise UsageError(f"`{text[:80]}` is no id of a preload", hint="`p2pcache preload list`")
    found = [row for row in parts.preloads.book.intents() if row.id.hex().startswith(text.lower())]
    if not found:
        raise NotFound(f"no preload `{text}` is known here", hint="`p2pcache preload list`")
    if len(found) > 1:
        raise UsageError(f"`{text}` is the beginning of {len(found)} ids", hint="write more of it")
    return found[0]


def _shown(opened: AgentNetwork, row: PreloadRow) -> dict[str, Any]:
    intent = row.intent
    assert intent is not None
    return {
        "id": intent.id.hex(),
        "ref": intent.ref,
        "revision": intent.revision,
        "manifest": cids.format_cid(intent.manifest),
        "nodes": intent.nodes,
        "replicas": intent.replicas,
        "limit_rate": intent.rate_bytes_per_s,
        "signer": format_peer_id(intent.signer),
        "mine": intent.signer == opened.peer_id,
        "issued_at": float(intent.issued_at),
        "start_at": float(intent.start_at),
        "deadline_at": float(intent.deadline_at),
        "expires_at": float(intent.expires_at),
        "cancelled": row.cancel is not None,
    }
