"""A recorded pull again, without an agent: for the command line, which sees no machine itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from p2pcache.errors import NotFound, UsageError
from p2pcache.transfer.replay import replay

if TYPE_CHECKING:
    from pathlib import Path


def replay_file(path: Path) -> list[dict[str, Any]]:
    """Every pull of a recording. Raises NotFound; UsageError for what is no recording."""
    try:
        with path.open(encoding="utf-8") as lines:
            found = [replayed.to_wire() for replayed in replay(lines)]
    except FileNotFoundError as exc:
        raise NotFound(f"no such file or folder: {path}") from exc
    except OSError as exc:
        raise UsageError(f"cannot read `{path}`: {exc.strerror}") from exc
    if not found:
        raise UsageError(
            f"`{path}` has no pull from its start",
            hint="begin `p2pcache trace --json > FILE` before the pull",
        )
    return found
