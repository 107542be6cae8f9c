"""Exclusive use of a directory among threads, processes and hosts, without flock or a wall clock.

flock silently succeeds on several network file systems, so a lease is a file that link(2) makes:
it appears complete or not at all, and only one maker wins. Files are numbered, `lease.<n>`; the
highest number holds. Taking over is making number n + 1, never removing number n: a slow taker
that judged n dead can therefore not remove the lease of the one who was faster. Lower numbers are
swept by the winner. All steps go through one open directory, so that a directory replaced
meanwhile is noticed instead of leased twice.

A lease is dead when its process is known to be gone: same host and another boot, or same process
table and no such process (pid and start time). About other hosts nothing is known: their lease is
dead when its counter stood still for `stale_after_s` of *our* monotonic clock, so a jump of
anybody's wall clock changes nothing.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import secrets
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from p2pcache.errors import LocalFault

if TYPE_CHECKING:
    from collections.abc import Callable

_PREFIX = "lease."
_COUNTER_DIGITS = 16  # fixed width: the counter is rewritten in place
_TAKE_ROUNDS = 100  # each lost round means that somebody else made progress; a bound, not a tuning


class Busy(LocalFault):
    """Somebody alive holds it. `holder` says who, for the user; `ours`: a task of this process;
    `is_seen`: a process that runs, and not one of which only time can tell.
    """

    def __init__(
        self, what: str, holder: str, *, ours: bool = False, is_seen: bool = False
    ) -> None:
        super().__init__(f"{what} is in use by {holder}", hint="wait for it, or stop that process")
        self.holder = holder
        self.ours = ours
        self.is_seen = is_seen


class LeaseLost(LocalFault):
    """Another process took our lease over: this one was silent for too long."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who we are to other lease takers.

    `table` is the process table (pid namespace): two containers of one machine share host and
    boot, but a pid of one says nothing in the other.
    """

    host: str
    boot: str
    table: str
    pid: int
    started: str

    def describe(self) -> str:
        """For messages."""
        return f"process {self.pid} on {self.host.partition('/')[0]}"


def _read_text(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""  # not Linux, or not readable: the comparison falls back to what is known


def process_started(pid: int) -> str | None:
    """When the process started, in the kernel's ticks; "" where that is unknown, None if gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return None
    except ProcessLookupError:
        return None
    else:
        fields = stat.rpartition(")")[2].split()  # the name before it may hold anything
        return None if fields[0] in "ZX" else fields[19]
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return ""


def this_process() -> Identity:
    """The identity of the running process."""
    try:
        table = os.readlink("/proc/self/ns/pid")
    except OSError:
        table = ""
    return Identity(
        # a cloned machine keeps its machine-id and a renamed one its name: both together
        host=f"{platform.node()}/{_read_text('/etc/machine-id')}",
        boot=_read_text("/proc/sys/kernel/random/boot_id"),
        table=table,
        pid=os.getpid(),
        started=process_started(os.getpid()) or "",
    )


@dataclass(frozen=True, slots=True)
class Claim:
    """What a lease file says. `owner` is random and new for every lease that was ever taken."""

    who: Identity
    owner: str
    counter: int
    released: bool = False

    def encode(self) -> bytes:
        """The counter comes first and has a fixed width, so that it can be rewritten in place."""
        who = self.who
        rest = json.dumps([self.owner, who.host, who.boot, who.table, who.pid, who.started])
        state = "R" if self.released else "L"
        return f"{self.counter:0{_COUNTER_DIGITS}x}{state}{rest}\n".encode()


def decode_claim(data: bytes) -> Claim | None:
    """None when the file is not a claim: then it protects nobody (link never shows a part)."""
    try:
        counter = int(data[:_COUNTER_DIGITS], 16)
        state = data[_COUNTER_DIGITS : _COUNTER_DIGITS + 1]
        owner, host, boot, table, pid, started = json.loads(data[_COUNTER_DIGITS + 1 :])
        who = Identity(str(host), str(boot), str(table), int(pid), str(started))
    except (ValueError, TypeError):
        return None
    return Claim(who, str(owner), counter, released=state == b"R")


class LeaseBook:
    """Judges and takes leases; remembers what it saw of other hosts. Safe to share by threads.

    `monotonic` is a clock in seconds that never goes back; `who` is this process.
    """

    def __init__(
        self, *, stale_after_s: float, monotonic: Callable[[], float], who: Identity | None = None
    ) -> None:
        self.who = who or this_process()
        self._stale_after_s = stale_after_s
        self.monotonic = monotonic
        self._seen: dict[str, tuple[int, float]] = {}
        self._lock = threading.Lock()

    def is_dead(self, claim: Claim) -> bool:
        """Whether nobody can be working under this claim any more."""
        if claim.released:
            return True
        mine = self.who
        if claim.who.host == mine.host and claim.who.boot and mine.boot:
            if claim.who.boot != mine.boot:
                return True
            if self._sees(claim.who):
                return process_started(claim.who.pid) != claim.who.started
        return self._stood_still(claim)

    def _sees(self, who: Identity) -> bool:
        mine = self.who
        return bool(mine.boot) and (who.host, who.boot, who.table) == (
            mine.host, mine.boot, mine.table,
        )  # fmt: skip

    def _stood_still(self, claim: Claim) -> bool:
        now = self.monotonic()
        with self._lock:
            counter, since = self._seen.get(claim.owner, (-1, now))
            if counter != claim.counter:
                self._seen[claim.owner] = (claim.counter, now)
                return False
            return now - since >= self._stale_after_s

    def holder(self, directory: Path) -> Claim | None:
        """The live claim on a directory, None when there is none (or no such directory)."""
        try:
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return None
        try:
            claim = _read_claim(descriptor, _highest(descriptor))
        finally:
            os.close(descriptor)
        return None if claim is None or self.is_dead(claim) else claim

    def take(self, directory: Path) -> Lease:
        """Take the directory, making it if need be. Raises Busy when a live lease is there."""
        for _ in range(_TAKE_ROUNDS):
            directory.mkdir(mode=0o700, exist_ok=True)
            try:
                descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            except FileNotFoundError:
                continue  # its last holder finished just now
            try:
                lease = self._take_in(directory, descriptor)
            finally:
                os.close(descriptor)
            if lease is not None:
                return lease
        raise Busy(str(directory), "many others at once")

    def _take_in(self, directory: Path, descriptor: int) -> Lease | None:
        """One round; None when somebody else moved first."""
        highest = _highest(descriptor)
        found = _read_claim(descriptor, highest)
        if found is not None and not self.is_dead(found):
            raise Busy(
                str(directory),
                found.who.describe(),
                ours=found.who == self.who,
                is_seen=self._sees(found.who),
            )
        claim = Claim(self.who, secrets.token_hex(8), 0)
        try:
            file = _link_new(descriptor, highest + 1, claim)
        except (FileExistsError, FileNotFoundError):
            return None
        lease = Lease(directory, os.dup(descriptor), file, highest + 1, claim)
        if not lease.is_held() or not _same_directory(directory, descriptor):
            lease.withdraw()
            return None
        for number in _numbers(descriptor):
            if number <= highest:
                _unlink_quietly(f"{_PREFIX}{number}", descriptor)
        return lease


class Lease:
    """A directory that is ours until `release`. Any thread may call: one beats, one releases."""

    def __init__(
        self, directory: Path, descriptor: int, file: int, number: int, claim: Claim
    ) -> None:
        self.directory = directory
        self._descriptor = descriptor
        self._file = file
        self._number = number
        self._claim = claim
        self._open = True
        # without it a heartbeat could write into a descriptor that was closed and given out again
        self._lock = threading.Lock()

    def is_held(self) -> bool:
        """Whether nobody took it over."""
        with self._lock:
            return self._is_held()

    def _is_held(self) -> bool:
        return (
            self._open
            and os.fstat(self._file).st_nlink > 0
            and _highest(self._descriptor) == self._number
        )

    def heartbeat(self) -> None:
        """Show other hosts that we live. Raises LeaseLost when one of them thought otherwise."""
        with self._lock:
            if not self._is_held():
                raise LeaseLost(f"{self.directory} was taken over by another process")
            self._claim = Claim(self._claim.who, self._claim.owner, self._claim.counter + 1)
            os.pwrite(self._file, self._claim.encode()[:_COUNTER_DIGITS], 0)

    def release(self) -> None:
        """Let go. The file stays and says so: its number must not be given out again."""
        with self._lock:
            if self._open:
                os.pwrite(self._file, b"R", _COUNTER_DIGITS)
                self._close()

    def withdraw(self) -> None:
        """Let go and remove the file; for a directory that is being deleted or was lost."""
        with self._lock:
            if self._open:
                _unlink_quietly(f"{_PREFIX}{self._number}", self._descriptor)
                self._close()

    def _close(self) -> None:
        self._open = False
        os.close(self._file)
        os.close(self._descriptor)


def _numbers(descriptor: int) -> list[int]:
    found = []
    for name in os.listdir(descriptor):
        number = name.removeprefix(_PREFIX)
        if number != name and number.isdecimal():
            found.append(int(number))
    return found


def _highest(descriptor: int) -> int:
    return max(_numbers(descriptor), default=0)


def _read_claim(descriptor: int, number: int) -> Claim | None:
    if number == 0:
        return None
    try:
        file = os.open(f"{_PREFIX}{number}", os.O_RDONLY, dir_fd=descriptor)
    except FileNotFoundError:
        return None
    try:
        return decode_claim(os.read(file, 4096))
    finally:
        os.close(file)


def _link_new(descriptor: int, number: int, claim: Claim) -> int:
    """Make `lease.<number>` with its content in one step; gives its open file."""
    draft = f"draft.{claim.owner}"
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
    file = os.open(draft, flags, 0o600, dir_fd=descriptor)
    try:
        os.write(file, claim.encode())
        os.link(draft, f"{_PREFIX}{number}", src_dir_fd=descriptor, dst_dir_fd=descriptor)
    except OSError:
        os.close(file)
        raise
    finally:
        _unlink_quietly(draft, descriptor)
    return file


def _same_directory(directory: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(directory), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _unlink_quietly(name: str, descriptor: int) -> None:
    try:
        os.unlink(name, dir_fd=descriptor)
    except OSError as exc:
        if exc.errno != errno.ENOENT:
            raise
