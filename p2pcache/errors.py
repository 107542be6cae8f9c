"""Errors that say who must act. Adapters translate foreign errors once, at the edge, with `from`.

Every error carries a `message` (what happened), an optional `hint` (what to do next) and an exit
code for the CLI. `to_wire` and `from_wire` carry an error over the local socket without losing
its type.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterator, Mapping

MAX_MESSAGE_CHARS = 4000  # an origin chooses part of the text: bounded before it is stored or shown


class P2PCacheError(Exception):
    """Base of every error that p2pcache raises on purpose."""

    code = "failed"
    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message[:MAX_MESSAGE_CHARS])
        self.message = message[:MAX_MESSAGE_CHARS]
        self.hint = hint

    def to_wire(self) -> dict[str, Any]:
        """A plain map that `from_wire` turns into an equal error."""
        return {"code": self.code, "message": self.message, "hint": self.hint}


class UsageError(P2PCacheError):
    """The caller asked for something that has no meaning (a bad ref, a bad option)."""

    code = "usage"
    exit_code = 2


class AgentNotRunning(P2PCacheError):
    """No agent answers on the local socket."""

    code = "agent-not-running"
    exit_code = 10


class NotFound(P2PCacheError):
    """Nobody that was asked has it. Asking again will not help until somebody does.

    `hidden`: it may be there, and not be for us: hubs do not tell private from missing.
    """

    code = "not-found"
    exit_code = 11

    def __init__(self, message: str, *, hint: str | None = None, hidden: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.hidden = hidden


class Unavailable(P2PCacheError):
    """A source did not deliver now. Another source, or a later try, may.

    `retry_after_s` is what the source itself asked for (Retry-After), if it did.
    """

    code = "unavailable"
    exit_code = 11

    def __init__(
        self, message: str, *, hint: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


class Denied(P2PCacheError):
    """The user must log in, accept a licence, or ask for access.

    `challenge`: what a peer wants proven before it gives a ticket, if that is what it takes.
    """

    code = "denied"
    exit_code = 14

    def __init__(
        self, message: str, *, hint: str | None = None, challenge: bytes | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.challenge = challenge


class Untrusted(P2PCacheError):
    """A remote sent something that does not verify or does not parse. Drop that remote."""

    code = "untrusted"
    exit_code = 12


class Conflict(P2PCacheError):
    """Another writer was there first: what was to be written would undo its work."""

    code = "conflict"
    exit_code = 1


class LocalFault(P2PCacheError):
    """Our own machine: disk, memory, permissions, configuration. Never lowers a source's score."""

    code = "local-fault"
    exit_code = 1


class DiskFull(LocalFault):
    """No space left, or the configured byte budget cannot be met."""

    code = "disk-full"
    exit_code = 13


class Interrupted(P2PCacheError):
    """The user, or a shutting down agent, stopped the operation. What was verified is kept."""

    code = "interrupted"
    exit_code = 130


ALL_ERRORS: tuple[type[P2PCacheError], ...] = (
    P2PCacheError, UsageError, AgentNotRunning, NotFound, Unavailable, Denied, Untrusted,
    Conflict, LocalFault, DiskFull, Interrupted,
)  # fmt: skip
_BY_CODE = {kind.code: kind for kind in ALL_ERRORS}


def from_wire(wire: Mapping[str, Any]) -> P2PCacheError:
    """The error that `to_wire` described; an unknown code becomes the base class."""
    kind = _BY_CODE.get(str(wire.get("code")), P2PCacheError)
    hint = wire.get("hint")
    return kind(str(wire.get("message", "")), hint=None if hint is None else str(hint))


def leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    """Every plain exception inside a group, depth first."""
    for exc in group.exceptions:
        if isinstance(exc, BaseExceptionGroup):
            yield from leaves(exc)
        else:
            yield exc


def one_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The single error that a caller should see when the nursery is our secret.

    A group whose leaves are all one of ours collapses to the first (the rest are consequences of
    the same cancellation in practice); anything that we did not raise on purpose stays a group.
    """
    found = list(leaves(group))
    if found and all(isinstance(exc, P2PCacheError) for exc in found):
        return found[0]
    return found[0] if len(found) == 1 else group


def bug(exc: BaseException, log: logging.Logger) -> P2PCacheError:
    """Log what nobody raised on purpose, with its traceback, and say so to whoever waits for it.

    For the borders where one caller's work ends (a request, a shared pull), and nowhere else.
    """
    log.error("a bug: please report this", exc_info=exc)
    return P2PCacheError(
        f"a bug in the agent: {type(exc).__name__}: {exc}", hint="see the agent's log"
    )


@contextmanager
def plain_errors() -> Iterator[None]:
    """Around a nursery that is our secret: callers see `one_error` of whatever group comes out."""
    try:
        yield
    except BaseExceptionGroup as group:
        single = one_error(group)
        if single is group:
            raise
        raise single from single.__cause__
