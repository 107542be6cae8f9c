"""Errors of a backend: each is one of ours and a RuntimeError, which callers of the router whose
calls these are catch.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from p2pcache.errors import (
    Denied,
    LocalFault,
    NotFound,
    P2PCacheError,
    Unavailable,
    Untrusted,
    UsageError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


class BackendFailed(P2PCacheError, RuntimeError):
    """Anything else."""


class BackendUsage(UsageError, RuntimeError, ValueError):
    """A CID, path or option that has no meaning."""


class BackendNotFound(NotFound, RuntimeError):
    """Nobody that was asked has it."""


class BackendUnavailable(Unavailable, RuntimeError):
    """No backend answers."""


class BackendDenied(Denied, RuntimeError):
    """Not for us."""


class BackendUntrusted(Untrusted, RuntimeError):
    """What came does not verify."""


class BackendFault(LocalFault, RuntimeError):
    """This machine: a disk, a file."""


_KINDS: tuple[tuple[type[P2PCacheError], type[P2PCacheError]], ...] = (
    (UsageError, BackendUsage),
    (NotFound, BackendNotFound),
    (Unavailable, BackendUnavailable),
    (Denied, BackendDenied),
    (Untrusted, BackendUntrusted),
    (LocalFault, BackendFault),
)


@contextmanager
def as_runtime_errors() -> Iterator[None]:
    """Around every call of the public functions."""
    try:
        yield
    except P2PCacheError as exc:
        if isinstance(exc, RuntimeError):
            raise
        kind = next((ours for theirs, ours in _KINDS if isinstance(exc, theirs)), BackendFailed)
        raise kind(exc.message, hint=exc.hint) from exc
    except OSError as exc:
        raise BackendFault(f"{exc.filename or 'a file'}: {exc.strerror or exc}") from exc
