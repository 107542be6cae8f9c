"""The trio client of the agent: the operations of `client.Client`, many at once.

    async with AsyncClient() as agent:
        folder = (await agent.get("hf://org/model"))["path"]

There is no background task: each call has a connection to itself while it runs, and idle
connections are kept for the next. Cancelling a call closes its connection, which the agent takes
as a cancel of that call.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, Unpack, cast

import trio

from p2pcache import config
from p2pcache.agent.localapi import calls
from p2pcache.agent.localapi.connection import (
    CONNECT_S,
    PROGRAM,
    READ_BYTES,
    SILENCE_S,
    check_owner,
    closed_by_peer,
    not_connected,
    silent,
)
from p2pcache.agent.localapi.exchange import AgentGone, Answer, Exchange
from p2pcache.agent.localapi.home_lock import elsewhere
from p2pcache.errors import AgentNotRunning, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from p2pcache.agent.localapi import answers
    from p2pcache.agent.localapi.adopted import AdoptAnswer, AdoptedAnswer, UnadoptAnswer
    from p2pcache.agent.localapi.bundled import ExportAnswer, ImportAnswer
    from p2pcache.agent.localapi.connection import OnItem
    from p2pcache.agent.localapi.embedded import EmbeddedAgent
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

    AnyProgress = Callable[[answers.Progress], Awaitable[None] | None]

MAX_CONNECTIONS = 16  # calls at once; the rest wait here. An agent serves 128 connections


class AsyncClient:
    """Conversations with the agent of `home`; see `client.Client` for operations and errors.

    If a call is cancelled, the agent stops it unless others wait for the same; what was verified is
    kept. `on_progress` is a function or an async one, called in the caller's task: while it awaits,
    nothing of that call is read.
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
        self._starting = trio.Lock()
        self._limit = trio.CapacityLimiter(MAX_CONNECTIONS)
        self._idle: list[_Connection] = []

    async def __aenter__(self) -> Self:
        """Connect, so that a missing agent is known at once."""
        try:
            async with self._connection():
                return self
        except BaseException:
            await self.aclose()
            raise

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close idle connections; an agent that this client started goes when nobody needs it."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()
        agent, self._agent = self._agent, None
        if agent is not None:
            with trio.CancelScope(shield=True):  # bounded by embedded.LEAVE_S
                await trio.to_thread.run_sync(agent.close)

    async def resolve(
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
    ) -> answers.ResolveAnswer:
        """What a ref means now: its manifest and files."""
        call = calls.resolve(
            ref, revision, refresh, offline, credentials, kubo, platform, layout, secret
        )
        value, files = await self.call(call.op, call.args)
        return cast("answers.ResolveAnswer", {**value, "files": files})

    async def get(
        self,
        ref: str,
        *,
        on_progress: AnyProgress | None = None,
        **options: Unpack[GetOptions],
    ) -> answers.GetAnswer:
        """Bring a ref's files here, verified; `path` of the answer says where they are."""
        call = calls.get(ref, **options)
        return calls.get_answer(*await self.call(call.op, call.args, on_progress))

    pull = get

    async def bptr_pull(
        self,
        files: Sequence[str | os.PathLike[str]],
        *,
        on_progress: AnyProgress | None = None,
        **options: Unpack[BptrOptions],
    ) -> answers.BptrAnswer:
        """Bring what Baseten's pointer files name, verified, under the names that they give."""
        call = calls.bptr_pull(files, **options)
        return cast("answers.BptrAnswer", (await self.call(call.op, call.args, on_progress))[0])

    async def bucket(
        self,
        what: str,
        *,
        on_progress: AnyProgress | None = None,
        on_item: OnItem | None = None,
        **options: Unpack[BucketOptions],
    ) -> Answer:
        """An operation on a bucket of hf-cache-sync (pull, push, list, remote, diff, prune, watch,
        doctor): what it answers, and its items.
        """
        call = calls.bucket(what, **options)
        return await self.call(call.op, call.args, on_progress, on_item)

    async def push(
        self,
        what: str | os.PathLike[str],
        dest: str | None = None,
        *,
        on_progress: AnyProgress | None = None,
        **options: Unpack[PushOptions],
    ) -> answers.PushAnswer:
        """Put a file or folder into the store; with `dest` (or `to`), give it, or what a ref means,
        to another place: see PushOptions.
        """
        call = calls.push(what, dest, **options)
        return cast("answers.PushAnswer", (await self.call(call.op, call.args, on_progress))[0])

    async def export(
        self,
        refs: Sequence[str],
        path: str | os.PathLike[str],
        *,
        gated: bool = False,
        plain: bool = False,
        on_progress: AnyProgress | None = None,
    ) -> ExportAnswer:
        """Write refs, all of them here, into one file; `gated`: restricted ones too. `plain`: one
        ref as its DAG and nothing else, as `ipfs dag export` does; a CID without a manifest always.
        """
        call = calls.export(refs, path, gated, plain)
        return cast("ExportAnswer", (await self.call(call.op, call.args, on_progress))[0])

    async def import_bundle(
        self, path: str | os.PathLike[str], *, on_progress: AnyProgress | None = None
    ) -> ImportAnswer:
        """Take in the content and the names of a file that `export` wrote, or the DAGs of any other
        CAR, whose roots are pinned.
        """
        call = calls.import_bundle(path)
        return cast("ImportAnswer", (await self.call(call.op, call.args, on_progress))[0])

    async def adopt(
        self,
        path: str | os.PathLike[str],
        *,
        private: bool = False,
        public: bool = False,
        wait: bool = False,
        credentials: dict[str, str] | None = None,
        on_progress: AnyProgress | None = None,
    ) -> AdoptAnswer:
        """Read a folder of somebody else's in place; `wait`: until all of it is hashed. `private`:
        no other agent gets what it alone shows. `public`: of a Hugging Face cache others get all,
        not only what its hub (the caller's, or `credentials`' `hf_endpoint`) gives to everybody.
        """
        call = calls.adopt(path, private, public, wait, credentials)
        return cast("AdoptAnswer", (await self.call(call.op, call.args, on_progress))[0])

    async def adopted(self) -> list[AdoptedAnswer]:
        """The folders that are read in place."""
        return cast("list[AdoptedAnswer]", (await self.call("adopted", {}))[1])

    async def unadopt(self, path: str | os.PathLike[str]) -> UnadoptAnswer:
        """Read it in place no more; its files stay as they are."""
        call = calls.unadopt(path)
        return cast("UnadoptAnswer", (await self.call(call.op, call.args))[0])

    async def publish(self, ref: str) -> answers.PublishAnswer:
        """Give what a ref means here to the public IPFS network, while `ipfs.public` is `share`."""
        return cast("answers.PublishAnswer", await self._on_ref("publish", ref))

    async def unpublish(self, ref: str) -> answers.UnpublishAnswer:
        """Give it to no stranger any more."""
        return cast("answers.UnpublishAnswer", await self._on_ref("unpublish", ref))

    async def published(self) -> list[answers.PublishedAnswer]:
        """What is public."""
        return cast("list[answers.PublishedAnswer]", (await self.call("published", {}))[1])

    async def ls(self) -> list[answers.LsAnswer]:
        """The manifests that the store knows."""
        return cast("list[answers.LsAnswer]", (await self.call("ls", {}))[1])

    async def pin(self, ref: str) -> answers.PinAnswer:
        """Keep a ref or manifest from being evicted."""
        return cast("answers.PinAnswer", await self._on_ref("pin", ref))

    async def unpin(self, ref: str) -> answers.PinAnswer:
        """Let it be evicted again."""
        return cast("answers.PinAnswer", await self._on_ref("unpin", ref))

    async def rm(self, ref: str, *, force: bool = False) -> answers.RmAnswer:
        """Forget a ref or manifest and what nothing else needs; `force`: even if pinned."""
        return cast("answers.RmAnswer", await self._on_ref("rm", ref, force=force))

    async def gc(
        self, *, target_bytes: int | None = None, dry_run: bool = False
    ) -> answers.GcAnswer:
        """Evict by last use, down to `target_bytes` or the configured watermark."""
        args = {"target_bytes": target_bytes, "dry_run": dry_run}
        return cast("answers.GcAnswer", (await self.call("gc", args))[0])

    async def verify(
        self,
        ref: str | None = None,
        *,
        repair: bool = False,
        on_progress: AnyProgress | None = None,
    ) -> answers.VerifyAnswer:
        """Hash what is stored again (everything, or one ref); `repair`: fetch bad blocks again."""
        args = calls.verify(ref, repair).args
        return calls.verify_answer(*await self.call("verify", args, on_progress))

    async def status(self) -> answers.StatusAnswer:
        """The agent now."""
        return cast("answers.StatusAnswer", (await self.call("status", {}))[0])

    async def origins(self, month: str | None = None) -> list[OriginStatus]:
        """What the network fetched of each origin this month (or `2026-11`), by whom, what it may,
        and what it cost.
        """
        args = {} if month is None else {"month": month}
        return cast("list[OriginStatus]", (await self.call("origins", args))[1])

    async def why(self, ref: str = "last") -> ReceiptAnswer:
        """The receipt of the last pull, or of a ref's."""
        return cast("ReceiptAnswer", await self._on_ref("why", ref))

    async def trace(
        self, on_line: Callable[[str], None], ref: str | None = None, *, once: bool
    ) -> None:
        """Every event and action of running pulls as a line of JSON, to `on_line`, until the agent
        stops or the call is cancelled. `ref`: of its pulls; `once`: until the first has ended.
        """
        call = calls.trace(ref, once)
        await self.call(call.op, call.args, on_item=lambda item: on_line(item["line"]))

    async def doctor(self) -> list[answers.CheckAnswer]:
        """The agent's checks of itself and its surroundings."""
        return cast("list[answers.CheckAnswer]", (await self.call("doctor", {}))[1])

    async def config(self) -> dict[str, answers.SettingAnswer]:
        """Every setting with its value and where that came from."""
        found = (await self.call("config", {}))[0]
        return cast("dict[str, answers.SettingAnswer]", found)

    async def init(self) -> answers.NetworkAnswer:
        """Make a network of one's own: identity, network key, and its admin. Idempotent."""
        return cast("answers.NetworkAnswer", (await self.call("init", {}))[0])

    async def invite(self, *, expires_s: float) -> answers.InviteAnswer:
        """A token that lets another machine join."""
        return cast(
            "answers.InviteAnswer", (await self.call("invite", {"expires_s": expires_s}))[0]
        )

    async def join(self, token: str) -> answers.NetworkAnswer:
        """Join the network that a token is for."""
        return cast("answers.NetworkAnswer", (await self.call("join", {"token": token}))[0])

    async def peers(self) -> list[answers.PeerAnswer]:
        """The members that are connected now."""
        return cast("list[answers.PeerAnswer]", (await self.call("peers", {}))[1])

    async def bans(self) -> list[answers.BanAnswer]:
        """The agents that are not talked to, and why."""
        return cast("list[answers.BanAnswer]", (await self.call("bans", {}))[1])

    async def unban(self, peer: str) -> dict[str, Any]:
        """Talk to an agent again."""
        return (await self.call("unban", {"peer": peer}))[0]

    async def grant(self, repo: str, peer: str, *, expires_s: float) -> answers.GrantAnswer:
        """As the network's admin, let a peer read a gated repository."""
        args = {"repo": repo, "peer": peer, "expires_s": expires_s}
        return cast("answers.GrantAnswer", (await self.call("grant", args))[0])

    async def revoke(self, repo: str, peer: str) -> answers.RevokeAnswer:
        """As the network's admin, take a grant back."""
        args = {"repo": repo, "peer": peer}
        return cast("answers.RevokeAnswer", (await self.call("revoke", args))[0])

    async def grants(self) -> list[answers.GrantsAnswer]:
        """The admin's grants that have not ended."""
        return cast("list[answers.GrantsAnswer]", (await self.call("grants", {}))[1])

    async def preload(self, ref: str, **options: Unpack[PreloadOptions]) -> PreloadAnswer:
        """Have agents of the network bring a ref ahead of its use; answers before they begin."""
        call = calls.preload(ref, **options)
        return cast("PreloadAnswer", (await self.call(call.op, call.args))[0])

    async def preloads(self) -> list[PreloadAnswer]:
        """The preloads that the agent knows."""
        return cast("list[PreloadAnswer]", (await self.call("preload_list", {}))[1])

    async def preload_state(
        self, preload: str, *, watch: bool = False, on_progress: AnyProgress | None = None
    ) -> PreloadStateAnswer:
        """How far every agent is with a preload. `watch`: returns when it is over; until then
        `on_progress` gets the same maps as they change.
        """
        args = {"id": preload, "watch": watch}
        found = await self.call("preload_show", args, on_progress)
        return cast("PreloadStateAnswer", found[0])

    async def cancel_preload(self, preload: str) -> PreloadAnswer:
        """End a preload that this agent signed, everywhere."""
        return cast("PreloadAnswer", (await self.call("preload_cancel", {"id": preload}))[0])

    async def shutdown(self) -> dict[str, Any]:
        """Ask the agent to finish and exit."""
        try:
            return (await self.call("shutdown", {}))[0]
        except AgentGone:
            return {}  # it was quicker than its answer

    async def call(
        self,
        op: str,
        args: dict[str, Any],
        on_progress: AnyProgress | None = None,
        on_item: OnItem | None = None,
    ) -> Answer:
        """Any operation by name: its result, and the items that came before it; `on_item` gets
        them as they come, instead.
        """
        async with self._connection() as connection:
            return await connection.run(op, args, on_progress, on_item)

    async def _on_ref(self, op: str, ref: str, **args: object) -> dict[str, Any]:
        call = calls.on_ref(op, ref, **args)
        return (await self.call(call.op, call.args))[0]

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[_Connection]:
        """A connection for one call; kept for the next if the call left it in step."""
        async with self._limit:
            connection = self._take_idle() or await self._open()
            try:
                yield connection
            finally:
                if connection.reusable:
                    self._idle.append(connection)
                else:
                    connection.close()

    def _take_idle(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable:
                return connection
            connection.close()  # the agent was restarted since
        return None

    async def _open(self) -> _Connection:
        path = config.socket_path(self.home)
        try:
            return await _Connection.open(path)
        except AgentNotRunning:
            other = elsewhere(self.home, path)  # started in another environment
            if other is None and not self._embed:
                raise
        if other is not None:
            return await _Connection.open(other)
        async with self._starting:
            if self._agent is None or self._agent.ended:
                from p2pcache.agent.localapi.embedded import start_agent  # imports subprocess

                # Not abandoned when cancelled: a process that was started must get its owner.
                if self._agent is not None:
                    await trio.to_thread.run_sync(self._agent.close)
                self._agent = await trio.to_thread.run_sync(
                    start_agent, self.home, path, self._agent_command
                )
        return await _Connection.open(elsewhere(self.home, path) or path)


class _Connection:
    """One socket to the agent, past its hello. One request at a time."""

    def __init__(self, connected: trio.socket.SocketType) -> None:
        self._socket = connected
        self._exchange = Exchange()
        self._broken = False

    @classmethod
    async def open(cls, path: Path) -> _Connection:
        """Connect and greet."""
        connecting = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
        connection = cls(connecting)
        try:
            with trio.fail_after(CONNECT_S):
                await connecting.connect(os.fspath(path))
                check_owner(connecting, path)
                await connection._greet()
        except OSError as exc:
            connecting.close()
            raise not_connected(path, exc) from exc
        except trio.TooSlowError as exc:
            connecting.close()
            raise silent(CONNECT_S) from exc
        except BaseException:
            connecting.close()
            raise
        return connection

    @property
    def reusable(self) -> bool:
        """Whether the next request would find the stream in step."""
        return not (
            self._broken or self._exchange.in_request or closed_by_peer(self._socket.fileno())
        )

    def close(self) -> None:
        """Close the socket: what still runs on it is cancelled by the agent."""
        self._socket.close()

    async def run(
        self,
        op: str,
        args: dict[str, Any],
        on_progress: AnyProgress | None,
        on_item: OnItem | None = None,
    ) -> Answer:
        """One request from its first byte to its answer. If cancelled, close the connection."""
        await self._send(self._exchange.ask(op, args))
        while self._exchange.answer is None:
            for progress in self._exchange.feed(await self._receive()):
                if on_progress is not None and (told := on_progress(progress)) is not None:
                    await told
            if on_item is not None:
                for item in self._exchange.take_items():
                    on_item(item)
        return self._exchange.answer

    async def _greet(self) -> None:
        await self._send(self._exchange.greet(PROGRAM, os.getpid()))
        while self._exchange.hello is None:
            self._exchange.feed(await self._receive())

    async def _send(self, frame: bytes) -> None:
        left = memoryview(frame)
        try:
            with trio.fail_after(SILENCE_S):
                while left:
                    left = left[await self._socket.send(left) :]
        except trio.TooSlowError as exc:
            raise Unavailable(f"the agent took nothing for {SILENCE_S:g} s") from exc
        except (BrokenPipeError, ConnectionResetError):
            self._broken = True  # the agent closed; why it did is still to be read

    async def _receive(self) -> bytes:
        try:
            with trio.fail_after(SILENCE_S):
                return await self._socket.recv(READ_BYTES)
        except trio.TooSlowError as exc:
            raise silent(SILENCE_S) from exc
        except ConnectionResetError:
            return b""
