"""Looks at adopted folders again and again: hashes what is new or changed, forgets what is gone.

It hashes one batch at a time, when no pull runs, in a worker at the lowest priority. What was
hashed is noted after each batch, so that an agent that comes after goes on there. No file of the
folders is ever written to, linked or removed.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from p2pcache.agent.adoption.gate import open_gate
from p2pcache.agent.adoption.hub_word import repos_of
from p2pcache.agent.adoption.look import FOLDER, look
from p2pcache.agent.adoption.plan import batches, plan
from p2pcache.content.digests import WholeDigests, sha256_digest
from p2pcache.content.refs import FileRef, canonical
from p2pcache.content.unixfs import file_root
from p2pcache.content.verify import verify_whole
from p2pcache.errors import LocalFault, NotFound, P2PCacheError, UsageError, plain_errors
from p2pcache.lanes.faults import CHANGED
from p2pcache.lanes.in_place import Hashed, HashOrder, InPlace
from p2pcache.sources.port import ListedFile, Listing
from p2pcache.store.adoptions import AdoptedFile, AdoptedFolder, FileState
from p2pcache.store.blobs import Adoption
from p2pcache.transfer.resolve import manifest_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping

    from p2pcache.agent.adoption.gate import Gate
    from p2pcache.agent.adoption.hub_word import HubWord
    from p2pcache.agent.adoption.plan import Plan
    from p2pcache.agent.pulls import Pulls
    from p2pcache.config.adopt import AdoptOptions
    from p2pcache.store.store import Store
    from p2pcache.transfer.resolve import Resolution, Resolver
    from p2pcache.transfer.workers import Workers

_log = logging.getLogger(__name__)

GIT_MOST_BYTES = 32 << 20  # hubs name files up to 10 MB by git's sha1, larger ones by sha2-256
BEAT_S = 0.2  # between two looks at whether a pull runs, while something is hashed
SETTLE_S = 2.1  # until a file that was just written to may be hashed
MAX_FOLDERS = 256  # all are told in one frame of `status`
LOOK_SHARE = 20  # a look that took a second is followed by so many seconds without one


@dataclass(slots=True)
class State:
    """One folder, for `status` and `adopt --list`. `files`, `total_bytes`: hashed, and as they
    were. `waiting_*`: to be hashed. `kept_files`: of a Hugging Face cache, that no other agent gets
    without its hub's word. `looks`: how often all that could be hashed was; `whole`: of these how
    often nothing was being written to.
    """

    folder: AdoptedFolder
    files: int = 0
    total_bytes: int = 0
    waiting_files: int = 0
    waiting_bytes: int = 0
    running_bytes: int = 0  # of those that wait: hashed by the order that runs
    settling: int = 0  # written to just now: they are looked at again
    kept_files: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    problem: str | None = None
    looks: int = 0
    whole: int = 0
    manifest: bytes | None = None
    changed: trio.Event = field(default_factory=trio.Event)

    def tell(self) -> None:
        """Wake whoever waits for something to change."""
        self.changed.set()
        self.changed = trio.Event()


class Adopter:
    """Of one agent. For the trio thread."""

    def __init__(
        self,
        store: Store,
        workers: Workers,
        pulls: Pulls,
        resolver: Resolver,
        options: AdoptOptions,
        home: Path,
        word: HubWord,
    ) -> None:
        self._store = store
        self._workers = workers
        self._pulls = pulls
        self._resolver = resolver
        self._options = options
        self._home = home
        self._word = word
        self._gate_path = home / "run" / "adopting"
        self._wake = trio.Event()
        self._one = trio.Lock()  # a folder is looked at, or let go
        self._looking: tuple[str, trio.CancelScope] | None = None
        self.tell: Callable[[Resolution], Awaitable[None]] | None = None  # that all of it is here
        self.paused = False
        self.states: dict[str, State] = {}

    async def run(self) -> None:
        """Until cancelled. What was not noted yet is hashed again by the next agent."""
        if self._store.readonly:
            return
        adoptions = self._store.adoptions
        for folder in await trio.to_thread.run_sync(adoptions.folders):
            state = self.states.setdefault(folder.path, State(folder))
            if not state.looks:  # before the first look: as it was last time
                _count(state, await trio.to_thread.run_sync(adoptions.files, folder.path), {})
        while True:
            while not self.states:
                await self._wait_woken()
            try:
                with open_gate(self._gate_path) as gate:
                    while self.states:
                        pause_s = await self._look_at_all(gate)
                        with trio.move_on_after(pause_s):
                            await self._wait_woken()
            except LocalFault as exc:  # a full disk: the gate has no room
                _log.warning("adopted folders are not looked at: %s", exc.message)
                await trio.sleep(self._options.every_s)

    async def _wait_woken(self) -> None:
        await self._wake.wait()
        self._wake = trio.Event()

    async def add(self, folder: AdoptedFolder) -> State:
        """Take a folder in; it is looked at now. Raises LocalFault, UsageError."""
        if folder.path not in self.states and len(self.states) >= MAX_FOLDERS:
            raise UsageError(
                f"{MAX_FOLDERS} folders are adopted already", hint="adopt one that holds several"
            )
        await trio.to_thread.run_sync(self._store.adoptions.add, folder)
        state = self.states.setdefault(folder.path, State(folder))
        state.folder = folder
        if folder.private:  # a look that runs forgets the name that it gives after this: `_list`
            await trio.to_thread.run_sync(self._forget_name, folder.path)
        self._wake.set()
        return state

    def _forget_name(self, path: str) -> None:
        """What it was called where all of it is read in place; of a `push` of it, it stays."""
        row = self._store.resolution(_canonical(path))
        if row is not None:
            self._store.forget_ref(row.canonical)
            if not self._store.resolutions_of(row.manifest):
                self._store.forget_manifest(row.manifest)

    async def let_go(self, path: str) -> int:
        """Forget a folder; gives how many files. Its files stay as they are. Raises LocalFault,
        NotFound.
        """
        if path not in self.states:
            raise NotFound(f"{path} is not adopted", hint="`p2pcache adopt --list` shows what is")
        if self._looking is not None and self._looking[0] == path:
            self._looking[1].cancel()
        async with self._one:
            state = self.states.pop(path)
            return await trio.to_thread.run_sync(self._forget_folder, state.folder)

    def _forget_folder(self, folder: AdoptedFolder) -> int:
        adoptions = self._store.adoptions
        known = adoptions.files(folder.path)
        adoptions.let_go(_named(folder.path, known))
        adoptions.remove(folder.path)
        self._forget_name(folder.path)
        return len(known)

    # -- looking ---------------------------------------------------------------------------------

    async def _look_at_all(self, gate: Gate) -> float:
        """Every folder once; how long to wait then."""
        began, settling = time.monotonic(), False
        for state in list(self.states.values()):
            async with self._one:
                if self.states.get(state.folder.path) is not state:
                    continue
                with trio.CancelScope() as scope:
                    self._looking = state.folder.path, scope
                    try:
                        await self._look_at(state, gate)
                    finally:
                        self._looking = None
            settling = settling or state.settling > 0
        took_s = time.monotonic() - began
        return max(SETTLE_S if settling else self._options.every_s, LOOK_SHARE * took_s)

    async def _look_at(self, state: State, gate: Gate) -> None:
        try:
            found, todo = await trio.to_thread.run_sync(self._plan, state.folder)
            state.left_out, state.problem = found, None
            kept, left = todo.kept, dict(todo.hash)
            state.settling = len(todo.settling)
            _count(state, kept, left)
            await self._ask_hub(state, [*kept, *left, *todo.settling])
            for batch in batches(todo.hash):
                await self._wait_turn(gate)
                kept |= await self._hash(state, batch, gate)
                left = {path: one for path, one in left.items() if path not in batch}
                _count(state, kept, left)
            state.looks += 1
            if not state.settling:
                await self._list(state, kept)
                state.whole += 1
        except NotFound as exc:
            state.problem, state.settling = exc.message, 0
            _count(state, {}, {})
        except P2PCacheError as exc:  # said again with the next look
            state.problem = exc.message
            _log.warning("%s is not looked at: %s", state.folder.path, exc.message)
        state.tell()

    async def _ask_hub(self, state: State, paths: Collection[str]) -> None:
        """Before they can be found: what of a Hugging Face cache everybody may read."""
        folder, adoptions = state.folder, self._store.adoptions
        state.kept_files = 0
        if not folder.by_word:
            return
        before = await trio.to_thread.run_sync(adoptions.open_paths, folder.path)
        repos = await trio.to_thread.run_sync(repos_of, folder.path, paths)
        found = await self._word.open_paths(repos, folder.endpoint, before)
        if found != before:
            await trio.to_thread.run_sync(adoptions.set_open, folder.path, found)
        state.kept_files = len(paths) - len(found)

    def _plan(self, folder: AdoptedFolder) -> tuple[Counter[str], Plan]:
        """Look, and forget what is not as it was. In a thread."""
        adoptions = self._store.adoptions
        known = adoptions.files(folder.path)
        left_out = [self._home, self._store.layout.root]
        if not folder.private:  # one in an open one stays private
            others = [state.folder for state in list(self.states.values())]
            left_out += [Path(other.path) for other in others if other.private]
        try:
            found = look(folder.path, folder.kind, _places(left_out))
        except NotFound:
            adoptions.let_go(_named(folder.path, known))
            adoptions.drop(folder.path, list(known))
            raise
        missing = adoptions.missing(file.sha256 for file in known.values())
        made = plan(found.files, known, missing, time.time_ns())
        if made.forget:
            adoptions.let_go(_named(folder.path, made.forget))
            adoptions.drop(folder.path, list(made.forget))
        return found.left_out, made

    async def _wait_turn(self, gate: Gate) -> None:
        self.paused = bool(self._pulls.running())
        await self._pulls.priority.wait_free()
        while self._pulls.running():  # noqa: ASYNC110 - preloads too, which are nobody's foreground
            await trio.sleep(BEAT_S)
        self.paused = False
        gate.shut(False)

    async def _hash(
        self, state: State, batch: Mapping[str, FileState], gate: Gate
    ) -> dict[str, AdoptedFile]:
        """Those of a batch that could be hashed, and are read in place now."""
        top = state.folder.path
        files = [
            InPlace(os.path.join(top, path), s.device, s.inode, s.size, s.mtime_ns)
            for path, s in batch.items()
        ]
        order = HashOrder(
            tuple(files), str(gate.path), self._options.rate_bytes_per_s, GIT_MOST_BYTES
        )
        gate.begin()
        with plain_errors():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._keep_gate, state, gate)
                report = await self._workers.hash_in_place(order)
                nursery.cancel_scope.cancel()
        state.running_bytes = 0
        taken = await trio.to_thread.run_sync(self._take, top, batch, report)
        for path, said in zip(batch, report, strict=True):
            if path not in taken and (isinstance(said, Hashed) or said == CHANGED):
                state.settling += 1
            elif isinstance(said, str):
                state.left_out[said] += 1
        return taken

    async def _keep_gate(self, state: State, gate: Gate) -> None:
        while True:
            self.paused = bool(self._pulls.running())
            gate.shut(self.paused)
            state.running_bytes = gate.hashed_bytes()
            state.tell()
            await trio.sleep(BEAT_S)

    def _take(
        self, top: str, batch: Mapping[str, FileState], report: Collection[Hashed | str]
    ) -> dict[str, AdoptedFile]:
        """Note them, then let them be found: a file of a private folder is known as one before
        anybody can ask for it. In a thread.
        """
        items = {
            path: _adoption(os.path.join(top, path), state, said)
            for (path, state), said in zip(batch.items(), report, strict=True)
            if isinstance(said, Hashed)
        }
        noted = {path: AdoptedFile(one.state, one.blob.sha256) for path, one in items.items()}
        adoptions = self._store.adoptions
        adoptions.put(top, noted)
        infos = adoptions.adopt(list(items.values()))
        gone = [path for path, info in zip(items, infos, strict=True) if info is None]
        if gone:
            adoptions.drop(top, gone)
        return {path: file for path, file in noted.items() if path not in gone}

    # -- listing ---------------------------------------------------------------------------------

    async def _list(self, state: State, kept: Mapping[str, AdoptedFile]) -> None:
        """A folder that is no cache of another program has a name: its files, as they are."""
        folder = state.folder
        if folder.kind != FOLDER or folder.private or not kept:
            state.manifest = None
            return
        listed = await trio.to_thread.run_sync(self._record, state, dict(kept))
        if state.folder.private:  # said meanwhile
            await trio.to_thread.run_sync(self._forget_name, folder.path)
            state.manifest = listed = None
        if listed is not None and self.tell is not None:
            await self.tell(listed)

    def _record(self, state: State, kept: dict[str, AdoptedFile]) -> Resolution | None:
        """None: it means what it meant before. In a thread."""
        top, name = state.folder.path, _canonical(state.folder.path)
        files = tuple(
            ListedFile(path, file.state.size, sha256_digest(file.sha256), os.path.join(top, path))
            for path, file in sorted(kept.items())
        )
        listing = Listing("file", "file://", None, mutable=True, files=files)
        made, before = manifest_of(listing), self._store.resolution(name)
        assert made is not None, "every file was hashed"
        state.manifest = made.cid()
        if before is not None and before.manifest == state.manifest:
            return None
        listed = self._resolver.record(FileRef(top), listing)
        if before is not None and not self._store.resolutions_of(before.manifest):
            self._store.forget_manifest(before.manifest)
        return listed


def _adoption(path: str, state: FileState, said: Hashed) -> Adoption:
    blob = verify_whole(None, state.size, WholeDigests(state.size, said.sha256, said.git_sha1))
    hashes = said.block_digests
    root = file_root((hashes[at : at + 32] for at in range(0, len(hashes), 32)), state.size)
    return Adoption(Path(path), blob, state, root.cid, hashes)


def _named(top: str, files: Mapping[str, AdoptedFile]) -> set[tuple[bytes, str]]:
    return {(file.sha256, os.path.join(top, path)) for path, file in files.items()}


def _places(folders: Collection[Path]) -> set[tuple[int, int]]:
    """Where they are, whatever they are called: what is ours is not adopted."""
    found = set()
    for folder in folders:
        try:
            status = os.stat(folder)
        except OSError:
            continue
        found.add((status.st_dev, status.st_ino))
    return found


def _canonical(folder: str) -> str:
    return canonical(FileRef(folder))


def _count(state: State, kept: Mapping[str, AdoptedFile], left: Mapping[str, FileState]) -> None:
    state.files = len(kept)
    state.total_bytes = sum(file.state.size for file in kept.values())
    state.waiting_files = len(left)
    state.waiting_bytes = sum(one.size for one in left.values())
    state.tell()
