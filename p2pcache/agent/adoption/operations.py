"""The operations on folders of others: adopt, adopted, unadopt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from p2pcache.agent.adoption.look import known_kind
from p2pcache.content.cid import format_cid
from p2pcache.errors import LocalFault, P2PCacheError, UsageError
from p2pcache.store.adoptions import HUB, AdoptedFolder
from p2pcache.transfer.progress import Progress

if TYPE_CHECKING:
    from p2pcache.agent.adoption.adopter import State
    from p2pcache.agent.args import Args
    from p2pcache.agent.parts import Emit, Parts

TELL_S = 1.0  # between two words on a wait in which nothing moves
UNSETTLED_LOOKS = 3  # then who waits is told what is still being written to
BY_WORD = (
    "others get what the hub, asked without a token, gives to everybody; `--public` gives them all "
    "of it, also what was downloaded with a token"
)
ALL_OF_A_HUB = "others get all of it, also what was downloaded with a token"


async def adopt(parts: Parts, args: Args, emit: Emit) -> dict[str, Any]:
    """Read a folder of somebody else's in place, from now on."""
    path = args.text("path")
    if not path.startswith("/"):
        raise UsageError(f"`path` must be absolute, not `{path}`")
    folder, kind = await trio.to_thread.run_sync(known_kind, path)
    private, public = args.flag("private"), args.flag("public")
    if private and public:
        raise UsageError("`--private` and `--public` say the opposite")
    adopter = parts.adopter
    before = adopter.states.get(folder)
    looks, whole = (0, 0) if before is None else (before.looks, before.whole)
    endpoint = args.credentials().hf_endpoint or ""
    state = await adopter.add(
        AdoptedFolder(folder, kind, private, parts.now(), public and kind == HUB, endpoint)
    )
    if args.flag("wait"):
        while state.whole <= whole and state.looks < looks + UNSETTLED_LOOKS:
            if state.problem is not None:
                raise LocalFault(state.problem)
            await emit({"type": "progress", **_progress(state).to_wire()})
            with trio.move_on_after(TELL_S):
                await state.changed.wait()
    notes = []
    if kind == HUB and not private:
        notes.append(ALL_OF_A_HUB if public else BY_WORD)
    return {**shown(parts, state), "notes": notes}


async def adopted(parts: Parts, args: Args, emit: Emit) -> dict[str, Any]:
    """Every folder, and how far it is."""
    for state in list(parts.adopter.states.values()):
        await emit({"type": "item", "value": shown(parts, state)})
    return {}


async def unadopt(parts: Parts, args: Args, emit: Emit) -> dict[str, Any]:
    """Read it in place no more; its files stay as they are."""
    path = args.text("path")
    if path not in parts.adopter.states:  # it may be gone, and then has no other name
        with_links = await trio.to_thread.run_sync(_real, path)
        path = with_links if with_links in parts.adopter.states else path
    return {"folder": path, "files": await parts.adopter.let_go(path)}


def _real(path: str) -> str:
    try:
        return known_kind(path)[0]
    except P2PCacheError:
        return path


def _progress(state: State) -> Progress:
    done = state.total_bytes + state.running_bytes
    total = state.total_bytes + state.waiting_bytes
    files = state.files + state.waiting_files
    return Progress("hashing", None, min(done, total), total, state.files, files)


def shown(parts: Parts, state: State) -> dict[str, Any]:
    """One folder, for `adopt --list`."""
    return {
        "folder": state.folder.path,
        "kind": state.folder.kind,
        "private": state.folder.private,
        "public": state.folder.public,
        "kept_files": state.kept_files,
        "files": state.files,
        "bytes": state.total_bytes,
        "waiting_files": state.waiting_files,
        "waiting_bytes": max(0, state.waiting_bytes - state.running_bytes),
        "settling": state.settling,
        "left_out": dict(state.left_out),
        "problem": state.problem,
        "manifest": None if state.manifest is None else format_cid(state.manifest),
        "paused": parts.adopter.paused and state.waiting_files > 0,
    }
