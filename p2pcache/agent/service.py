"""The operations of the local API, by name. What the socket carries ends here."""

from __future__ import annotations

import importlib
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import trio

from p2pcache.agent.args import Args
from p2pcache.agent.parts import Emit, Parts
from p2pcache.agent.unlisted import list_first
from p2pcache.content import refs
from p2pcache.errors import LocalFault, P2PCacheError, UsageError

Operation = Callable[[Parts, Args, Emit], Awaitable[dict[str, Any]]]

# Each one's module and function. A module is imported when it is first called: an agent that serves
# one command needs few of them (95 of 854 modules stay out).
OPERATIONS = {
    "resolve": "get:resolve",
    "get": "get:get",
    "push": "push:push",
    "bptr_pull": "bptr:pull_pointers",
    "publish": "publish:publish",
    "unpublish": "publish:unpublish",
    "published": "publish:published",
    "adopt": "adoption.operations:adopt",
    "adopted": "adoption.operations:adopted",
    "unadopt": "adoption.operations:unadopt",
    "export": "airgap.operations:export",
    "import": "airgap.operations:import_",
    "init": "share:init",
    "invite": "share:invite",
    "join": "share:join",
    "peers": "share:peers",
    "bans": "share:bans",
    "unban": "share:unban",
    "grant": "grants:grant",
    "revoke": "grants:revoke",
    "grants": "grants:grants",
    "preload": "preload.operations:preload",
    "preload_list": "preload.operations:preload_list",
    "preload_show": "preload.operations:preload_show",
    "preload_cancel": "preload.operations:preload_cancel",
    "ls": "listed:ls",
    "pin": "keep:pin",
    "unpin": "keep:unpin",
    "rm": "keep:rm",
    "gc": "keep:gc",
    "verify": "repair:verify",
    "status": "health:status",
    "origins": "health:origins",
    "why": "health:why",
    "trace": "trace:trace",
    "doctor": "health:doctor",
    "config": "health:config",
    "bucket_diff": "bucket.local:bucket_diff",
    "bucket_doctor": "bucket.doctor:bucket_doctor",
    "bucket_list": "bucket.local:bucket_list",
    "bucket_prune": "bucket.local:bucket_prune",
    "bucket_pull": "bucket.pull:bucket_pull",
    "bucket_push": "bucket.push:bucket_push",
    "bucket_remote": "bucket.local:bucket_remote",
    "bucket_watch": "bucket.watch:bucket_watch",
}


def load_operation(name: str) -> Operation | None:
    """The function of an operation; None: there is no such name."""
    module, _, function = OPERATIONS.get(name, "").partition(":")
    if not module:
        return None
    found: Operation = getattr(importlib.import_module(f"p2pcache.agent.{module}"), function)
    return found


_USER = re.compile(r"://[^/@\s`]+@")  # of an address that was meant to have none


def _hide(exc: P2PCacheError, ref: object) -> None:
    """What quotes the words of a call quotes no password and no signature: callers log errors."""
    plain = refs.shown_ref(ref) if isinstance(ref, str) else None

    def hidden(text: str) -> str:
        if plain is not None and isinstance(ref, str) and plain != ref:
            text = text.replace(ref, plain)
        return _USER.sub("://...@", text)

    exc.message = hidden(exc.message)
    exc.args = (exc.message,)
    exc.hint = None if exc.hint is None else hidden(exc.hint)


class Service:
    """Answers calls. `stopping` is set by the `shutdown` operation."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.stopping = trio.Event()
        self.count_clients: Callable[[], int] = lambda: 0  # the daemon knows; without it: nobody

    async def call(self, op: str, args: Mapping[str, Any], emit: Emit) -> dict[str, Any]:
        """Run one operation. Raises one of our errors; an unknown name is UsageError."""
        if op == "shutdown":
            self.stopping.set()
            return {"stopping": True}
        try:
            operation = load_operation(op)
        except (ImportError, AttributeError) as exc:
            raise LocalFault(
                f"`{op}` cannot be loaded: {exc}",
                hint="was p2pcache installed anew? `p2pcache agent stop`, then it is started again",
            ) from exc
        if operation is None:
            known = ", ".join(sorted([*OPERATIONS, "shutdown"]))
            raise UsageError(f"unknown operation `{op[:64]}`", hint=f"known: {known}")
        for name in ("ref", "refs"):
            said = args.get(name)
            for text in said if isinstance(said, list) else [said]:
                if isinstance(text, str):
                    await list_first(self._parts, text)
        try:
            answer = await operation(self._parts, Args(args), emit)
        except P2PCacheError as exc:
            _hide(exc, args.get("ref"))
            raise
        return {**answer, "clients": self.count_clients()} if op == "status" else answer
