"""What truss-transfer reads of the environment: its folder, its workers, and logins by name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from p2pcache.content.names import safe_path
from p2pcache.errors import Untrusted

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

DOWNLOAD_DIR = "/tmp/truss_transfer"
SECRETS = Path("/secrets")
SECRET_FOLDERS = ("/secrets", "/aws-secrets", "/app", "/tmp")  # where a secret's file may lie
MAX_SECRET_BYTES = 1 << 16  # service accounts of Google have 3 KB
_MAX_WORKERS = 64
_WORKERS = 6  # files at once, as truss-transfer


def download_dir(given: str | os.PathLike[str] | None) -> str:
    """The caller's, else that of the environment, else truss-transfer's own."""
    named = os.environ.get("TRUSS_TRANSFER_DOWNLOAD_DIR") or DOWNLOAD_DIR
    return os.path.abspath(named if given is None else os.fspath(given))


def workers() -> int:
    """How many files are brought at once: TRUSS_TRANSFER_NUM_WORKERS, where it is a number."""
    text = os.environ.get("TRUSS_TRANSFER_NUM_WORKERS", "")
    number = int(text[:9]) if text.isascii() and text.isdigit() else _WORKERS
    return max(1, min(number, _MAX_WORKERS))


def secrets(
    names: Iterable[str], *, base: Path = SECRETS, folders: Sequence[str] = SECRET_FOLDERS
) -> dict[str, str]:
    """The logins of these names that there are: TRUSS_SECRET_<name>, else the file `base`/<name>.

    A file counts only where it lies, its links followed, below one of `folders`.
    """
    found = {}
    for name in names:
        value = os.environ.get(f"TRUSS_SECRET_{name}", "").strip() or _in_file(base, name, folders)
        if value:
            found[name] = value
    return found


def _in_file(base: Path, name: str, folders: Sequence[str]) -> str | None:
    try:
        path = (base / safe_path(name)).resolve(strict=True)
        if not any(path.is_relative_to(folder) for folder in folders):
            return None
        with path.open("rb") as stream:
            return stream.read(MAX_SECRET_BYTES).decode().strip() or None
    except (OSError, UnicodeDecodeError, Untrusted):
        return None  # none is the common case: what is public needs no login
