"""The synchronous client of the agent: the standard library and msgpack, no trio.

    with Client() as agent:
        folder = agent.get("hf://org/model")["path"]

A Client belongs to one thread: `cancel` alone may be called by others. It connects when it is first
used, and again after an interruption.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, Unpack, cast

from p2pcache import config
from p2pcache.agent.localapi import calls
from p2pcache.agent.localapi.connection import Connection, TooLong
from p2pcache.agent.localapi.exchange import AgentGone
from p2pcache.agent.localapi.home_lock import elsewhere
from p2pcache.errors import AgentNotRunning, Interrupted, P2PCacheError, UsageError

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    from p2pcache.agent.localapi import answers
    from p2pcache.agent.localapi.adopted import AdoptAnswer, AdoptedAnswer, UnadoptAnswer
    from p2pcache.agent.localapi.bundled import ExportAnswer, ImportAnswer
    from p2pcache.agent.localapi.connection import OnItem, OnProgress
    from p2pcache.agent.localapi.embedded import EmbeddedAgent
    from p2pcache.agent.localapi.exchange import Answer
    from p2pcache.agent.localapi.options import (
        BptrOptions,
        BucketOptions,
        GetOptions,
        PreloadOptions,
        PushOptions,
    )
    from p2pcache.agent.localapi.origin_use import OriginStatus
    from p2pcache.agent.localapi.preloaded import PreloadAnswer, PreloadStateAnswer
    from p2pcache.agent.localapi.receipt import ReceiptAnswer
    from p2pcache.agent.localapi.wire import Hello


def _slow_start() -> None:
    if _tell_slow_start is not None:
        _tell_slow_start()


_tell_slow_start: Callable[[], None] | None = None


def tell_slow_start(tell: Callable[[], None]) -> None:
    """From now on `tell` is called when an agent that this process starts takes its time."""
    global _tell_slow_start
    _tell_slow_start = tell


def terminal_options() -> config.TerminalOptions:
    """How the user's environment wants output (NO_COLOR, P2PCACHE_NO_PROGRESS)."""
    return config.terminal_options()


def connect(
    home: str | os.PathLike[str] | None = None,
    *,
    embed: bool = False,
    agent_command: Sequence[str] | None = None,
) -> Client:
    """A connected Client. With no agent running: start one (`embed`), or raise AgentNotRunning."""
    client = Client(home, embed=embed, agent_command=agent_command)
    try:
        client.connect()
    except BaseException:
        client.close()
        raise
    return client


class Client:
    """A conversation with the agent of `home` (default: P2PCACHE_HOME, or the user's cache folder).

    Every method raises what the agent raised (see `p2pcache.errors`), AgentNotRunning when there is
    none, Unavailable when it fell silent. If a call is interrupted (KeyboardInterrupt, an
    exception in `on_progress`), the agent is told to stop it; what was verified is kept. So it is
    by `cancel` from another thread, and after `timeout_s`: then Interrupted is raised.
    """

    def __init__(
        self,
        home: str | os.PathLike[str] | None = None,
        *,
        embed: bool = False,
        agent_command: Sequence[str] | None = None,
    ) -> None:
        self.home = config.home() if home is None else Path(home).expanduser().absolute()
        self._embed = embed
        self._agent_command = agent_command
        self._agent: EmbeddedAgent | None = None
        self._connection: Connection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def connect(self) -> Hello:
        """Connect if not connected, and say who answers."""
        if self._connection is not None and not self._connection.alive():
            self._disconnect()  # the agent was restarted since
        if self._connection is None:
            path = config.socket_path(self.home)
            try:
                self._connection = Connection(path)
            except AgentNotRunning:
                other = elsewhere(self.home, path)  # started in another environment
                if other is None and not self._embed:
                    raise
                self._connection = self._start(path) if other is None else Connection(other)
        return self._connection.hello

    def _start(self, path: Path) -> Connection:
        from p2pcache.agent.localapi.embedded import start_agent  # imports subprocess

        self._release_agent()
        self._agent = start_agent(self.home, path, self._agent_command, on_slow=_slow_start)
        return Connection(elsewhere(self.home, path) or path)

    @property
    def embedded(self) -> bool:
        """Whether the agent that answers was started by this client: it ends with it then.

        Another may have begun to listen while ours started, which then leaves.
        """
        started, there = self._agent, self._connection
        return started is not None and there is not None and there.hello.pid == started.pid

    def close(self) -> None:
        """Leave; an agent that was started by this client goes when nobody else needs it."""
        self._disconnect()
        self._release_agent()

    def resolve(
        self,
        ref: str,
        *,
        revision: str | None = None,
        refresh: bool = False,
        offline: bool = False,
        credentials: dict[str, str] | None = None,
        kubo: str | None = None,
        platform: str | None = None,
        layout: str | None = None,
        secret: str | None = None,
        timeout_s: float | None = None,
    ) -> answers.ResolveAnswer:
        """What a ref means now: its manifest and files."""
        call = calls.resolve(
            ref, revision, refresh, offline, credentials, kubo, platform, layout, secret
        )
        value, files = self.call(call.op, call.args, timeout_s=timeout_s)
        return cast("answers.ResolveAnswer", {**value, "files": files})

    def get(
        self,
        ref: str,
        *,
        on_progress: OnProgress | None = None,
        timeout_s: float | None = None,
        **options: Unpack[GetOptions],
    ) -> answers.GetAnswer:
        """Bring a ref's files here, verified; `path` of the answer says where they are."""
        call = calls.get(ref, **options)
        return calls.get_answer(*self.call(call.op, call.args, on_progress, timeout_s=timeout_s))

    pull = get

    def bptr_pull(
        self,
        files: Sequence[str | os.PathLike[str]],
        *,
        on_progress: OnProgress | None = None,
        **options: Unpack[BptrOptions],
    ) -> answers.BptrAnswer:
        """Bring what Baseten's pointer files name, verified, under the names that they give."""
        call = calls.bptr_pull(files, **options)
        return cast("answers.BptrAnswer", self.call(call.op, call.args, on_progress)[0])

    def bucket(
        self,
        what: str,
        *,
        on_progress: OnProgress | None = None,
        on_item: OnItem | None = None,
        **options: Unpack[BucketOptions],
    ) -> Answer:
        """An operation on a bucket of hf-cache-sync (pull, push, list, remote, diff, prune, watch,
        doctor): what it answers, and its items.
        """
        call = calls.bucket(what, **options)
        return self.call(call.op, call.args, on_progress, on_item)

    def push(
        self,
        what: str | os.PathLike[str],
        dest: str | None = None,
        *,
        on_progress: OnProgress | None = None,
        timeout_s: float | None = None,
        **options: Unpack[PushOptions],
    ) -> answers.PushAnswer:
        """Put a file or folder into the store; with `dest` (or `to`), give it, or what a ref means,
        to another place: see PushOptions.
        """
        call = calls.push(what, dest, **options)
        found = self.call(call.op, call.args, on_progress, timeout_s=timeout_s)
        return cast("answers.PushAnswer", found[0])

    def export(
        self,
        refs: Sequence[str],
        path: str | os.PathLike[str],
        *,
        gated: bool = False,
        plain: bool = False,
        on_progress: OnProgress | None = None,
    ) -> ExportAnswer:
        """Write refs, all of them here, into one file; `gated`: restricted ones too. `plain`: one
        ref as its DAG and nothing else, as `ipfs dag export` does; a CID without a manifest always.
        """
        call = calls.export(refs, path, gated, plain)
        return cast("ExportAnswer", self.call(call.op, call.args, on_progress)[0])

    def import_bundle(
        self, path: str | os.PathLike[str], *, on_progress: OnProgress | None = None
    ) -> ImportAnswer:
        """Take in the content and the names of a file that `export` wrote, or the DAGs of any other
        CAR, whose roots are pinned.
        """
        call = calls.import_bundle(path)
        return cast("ImportAnswer", self.call(call.op, call.args, on_progress)[0])

    def adopt(
        self,
        path: str | os.PathLike[str],
        *,
        private: bool = False,
        public: bool = False,
        wait: bool = False,
        credentials: dict[str, str] | None = None,
        on_progress: OnProgress | None = None,
    ) -> AdoptAnswer:
        """Read a folder of somebody else's in place; `wait`: until all of it is hashed. `private`:
        no other agent gets what it alone shows. `public`: of a Hugging Face cache others get all,
        not only what its hub (the caller's, or `credentials`' `hf_endpoint`) gives to everybody.
        """
        call = calls.adopt(path, private, public, wait, credentials)
        return cast("AdoptAnswer", self.call(call.op, call.args, on_progress)[0])

    def adopted(self) -> list[AdoptedAnswer]:
        """The folders that are read in place."""
        return cast("list[AdoptedAnswer]", self.call("adopted", {})[1])

    def unadopt(self, path: str | os.PathLike[str]) -> UnadoptAnswer:
        """Read it in place no more; its files stay as they are."""
        call = calls.unadopt(path)
        return cast("UnadoptAnswer", self.call(call.op, call.args)[0])

    def publish(self, ref: str) -> answers.PublishAnswer:
        """Give what a ref means here to the public IPFS network, while `ipfs.public` is `share`."""
        return cast("answers.PublishAnswer", self._on_ref("publish", ref))

    def unpublish(self, ref: str) -> answers.UnpublishAnswer:
        """Give it to no stranger any more."""
        return cast("answers.UnpublishAnswer", self._on_ref("unpublish", ref))

    def published(self) -> list[answers.PublishedAnswer]:
        """What is public."""
        return cast("list[answers.PublishedAnswer]", self.call("published", {})[1])

    def ls(self) -> list[answers.LsAnswer]:
        """The manifests that the store knows."""
        return cast("list[answers.LsAnswer]", self.call("ls", {})[1])

    def pin(self, ref: str) -> answers.PinAnswer:
        """Keep a ref or manifest from being evicted."""
        return cast("answers.PinAnswer", self._on_ref("pin", ref))

    def unpin(self, ref: str) -> answers.PinAnswer:
        """Let it be evicted again."""
        return cast("answers.PinAnswer", self._on_ref("unpin", ref))

    def rm(self, ref: str, *, force: bool = False) -> answers.RmAnswer:
        """Forget a ref or manifest and what nothing else needs; `force`: even if pinned."""
        return cast("answers.RmAnswer", self._on_ref("rm", ref, force=force))

    def gc(self, *, target_bytes: int | None = None, dry_run: bool = False) -> answers.GcAnswer:
        """Evict by last use, down to `target_bytes` or the configured watermark."""
        args = {"target_bytes": target_bytes, "dry_run": dry_run}
        return cast("answers.GcAnswer", self.call("gc", args)[0])

    def verify(
        self,
        ref: str | None = None,
        *,
        repair: bool = False,
        on_progress: OnProgress | None = None,
    ) -> answers.VerifyAnswer:
        """Hash what is stored again (everything, or one ref); `repair`: fetch bad blocks again."""
        args = calls.verify(ref, repair).args
        return calls.verify_answer(*self.call("verify", args, on_progress))

    def status(self) -> answers.StatusAnswer:
        """The agent now."""
        return cast("answers.StatusAnswer", self.call("status", {})[0])

    def origins(self, month: str | None = None) -> list[OriginStatus]:
        """What the network fetched of each origin this month (or `2026-11`), by whom, what it may,
        and what it cost.
        """
        args = {} if month is None else {"month": month}
        return cast("list[OriginStatus]", self.call("origins", args)[1])

    def why(self, ref: str = "last") -> ReceiptAnswer:
        """The receipt of the last pull, or of a ref's."""
        return cast("ReceiptAnswer", self._on_ref("why", ref))

    def trace(self, on_line: Callable[[str], None], ref: str | None = None, *, once: bool) -> None:
        """Every event and action of running pulls as a line of JSON, to `on_line`, until the agent
        stops or the call is interrupted. `ref`: of its pulls; `once`: until the first has ended.
        """
        call = calls.trace(ref, once)
        self.call(call.op, call.args, on_item=lambda item: on_line(item["line"]))

    def doctor(self) -> list[answers.CheckAnswer]:
        """The agent's checks of itself and its surroundings."""
        return cast("list[answers.CheckAnswer]", self.call("doctor", {})[1])

    def config(self) -> dict[str, answers.SettingAnswer]:
        """Every setting with its value and where that came from."""
        return cast("dict[str, answers.SettingAnswer]", self.call("config", {})[0])

    def init(self) -> answers.NetworkAnswer:
        """Make a network of one's own: identity, network key, and its admin. Idempotent."""
        return cast("answers.NetworkAnswer", self.call("init", {})[0])

    def invite(self, *, expires_s: float) -> answers.InviteAnswer:
        """A token that lets another machine join."""
        return cast("answers.InviteAnswer", self.call("invite", {"expires_s": expires_s})[0])

    def join(self, token: str) -> answers.NetworkAnswer:
        """Join the network that a token is for."""
        return cast("answers.NetworkAnswer", self.call("join", {"token": token})[0])

    def peers(self) -> list[answers.PeerAnswer]:
        """The members that are connected now."""
        return cast("list[answers.PeerAnswer]", self.call("peers", {})[1])

    def bans(self) -> list[answers.BanAnswer]:
        """The agents that are not talked to, and why."""
        return cast("list[answers.BanAnswer]", self.call("bans", {})[1])

    def unban(self, peer: str) -> dict[str, Any]:
        """Talk to an agent again."""
        return self.call("unban", {"peer": peer})[0]

    def grant(self, repo: str, peer: str, *, expires_s: float) -> answers.GrantAnswer:
        """As the network's admin, let a peer read a gated repository."""
        args = {"repo": repo, "peer": peer, "expires_s": expires_s}
        return cast("answers.GrantAnswer", self.call("grant", args)[0])

    def revoke(self, repo: str, peer: str) -> answers.RevokeAnswer:
        """As the network's admin, take a grant back."""
        return cast("answers.RevokeAnswer", self.call("revoke", {"repo": repo, "peer": peer})[0])

    def grants(self) -> list[answers.GrantsAnswer]:
        """The admin's grants that have not ended."""
        return cast("list[answers.GrantsAnswer]", self.call("grants", {})[1])

    def preload(self, ref: str, **options: Unpack[PreloadOptions]) -> PreloadAnswer:
        """Have agents of the network bring a ref ahead of its use; answers before they begin."""
        call = calls.preload(ref, **options)
        return cast("PreloadAnswer", self.call(call.op, call.args)[0])

    def preloads(self) -> list[PreloadAnswer]:
        """The preloads that the agent knows."""
        return cast("list[PreloadAnswer]", self.call("preload_list", {})[1])

    def preload_state(
        self, preload: str, *, watch: bool = False, on_progress: OnProgress | None = None
    ) -> PreloadStateAnswer:
        """How far every agent is with a preload. `watch`: returns when it is over; until then
        `on_progress` gets the same maps as they change.
        """
        args = {"id": preload, "watch": watch}
        found = self.call("preload_show", args, on_progress)
        return cast("PreloadStateAnswer", found[0])

    def cancel_preload(self, preload: str) -> PreloadAnswer:
        """End a preload that this agent signed, everywhere."""
        return cast("PreloadAnswer", self.call("preload_cancel", {"id": preload})[0])

    def shutdown(self) -> dict[str, Any]:
        """Ask the agent to finish and exit."""
        try:
            return self.call("shutdown", {})[0]
        except AgentGone:
            return {}  # it was quicker than its answer

    def call(
        self,
        op: str,
        args: dict[str, Any],
        on_progress: OnProgress | None = None,
        on_item: OnItem | None = None,
        *,
        timeout_s: float | None = None,
    ) -> Answer:
        """Any operation by name: its result, and the items that came before it; `on_item` gets
        them as they come, instead. `timeout_s`: for all of it; an agent's start counts.
        """
        if timeout_s is not None and not timeout_s > 0:
            raise UsageError(f"`timeout_s` is {timeout_s!r}: it has to be more than 0, or None")
        until = None if timeout_s is None else time.monotonic() + timeout_s
        self.connect()
        connection = cast("Connection", self._connection)
        try:
            return connection.run(op, args, on_progress, on_item, until)
        except TooLong:
            with contextlib.suppress(OSError, P2PCacheError):
                connection.cancel()
            if connection.in_request:
                self._disconnect()
            raise Interrupted(
                f"`{op}` was not done after {timeout_s:g} s, and was stopped",
                hint="what was verified is kept: it goes on from there",
            ) from None
        except KeyboardInterrupt:
            with contextlib.suppress(OSError, KeyboardInterrupt, P2PCacheError):
                connection.cancel()
            self._disconnect()
            raise
        except BaseException:
            if connection.in_request:
                self._disconnect()  # the agent takes a closed connection as a cancel
            raise

    def cancel(self) -> bool:
        """Stop the call that runs in another thread, which then raises Interrupted; what was
        verified is kept. False: none has begun. The one method for any thread.
        """
        connection = self._connection
        return connection is not None and connection.stop()

    def _on_ref(self, op: str, ref: str, **args: object) -> dict[str, Any]:
        call = calls.on_ref(op, ref, **args)
        return self.call(call.op, call.args)[0]

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _release_agent(self) -> None:
        if self._agent is not None:
            self._agent.close()
            self._agent = None
