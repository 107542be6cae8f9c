"""What one look at a folder leads to: what is hashed, what is forgotten, what waits. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from p2pcache.store.adoptions import AdoptedFile, FileState

QUIET_NS = 2_000_000_000  # the coarsest file times: two writes within them may look like one
BATCH_BYTES = 64 << 20  # hashed before it is noted: what a crash costs is read again
BATCH_FILES = 256  # in one transaction, and in one order to a worker


@dataclass(frozen=True, slots=True)
class Plan:
    """`hash`: new, changed, or without a blob. `forget`: changed or gone. `settling`: written to a
    moment ago, to be looked at again. `kept`: known, and as they were.
    """

    hash: dict[str, FileState]
    forget: dict[str, AdoptedFile]
    settling: frozenset[str]
    kept: dict[str, AdoptedFile]


def plan(
    found: Mapping[str, FileState],
    known: Mapping[str, AdoptedFile],
    missing: Collection[bytes],
    now_ns: int,
) -> Plan:
    """`missing`: raw sha2-256 of known files of which there is no blob. `now_ns`: unix time."""
    kept = {
        path: file
        for path, file in known.items()
        if found.get(path) == file.state and file.sha256 not in missing
    }
    forget = {path: file for path, file in known.items() if found.get(path) != file.state}
    left = {path: state for path, state in found.items() if path not in kept}
    settling = frozenset(
        path for path, state in left.items() if abs(now_ns - state.mtime_ns) < QUIET_NS
    )
    todo = {path: state for path, state in left.items() if path not in settling}
    return Plan(todo, forget, settling, kept)


def batches(todo: Mapping[str, FileState]) -> Iterator[dict[str, FileState]]:
    """Small ones together, smallest first: much is of use soon."""
    batch: dict[str, FileState] = {}
    total = 0
    for path, state in sorted(todo.items(), key=lambda item: (item[1].size, item[0])):
        if batch and (total + state.size > BATCH_BYTES or len(batch) >= BATCH_FILES):
            yield batch
            batch, total = {}, 0
        batch[path] = state
        total += state.size
    if batch:
        yield batch
