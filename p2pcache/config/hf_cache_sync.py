"""Where hf-cache-sync's settings are on this machine: its file, and the environment."""

from __future__ import annotations

import os
from pathlib import Path

from p2pcache.errors import LocalFault, NotFound
from p2pcache.formats.hf_cache_sync.settings import (
    FILE_NAME,
    MAX_FILE_BYTES,
    BucketSettings,
    read_settings,
)


def bucket_settings(named: str | os.PathLike[str] | None = None) -> BucketSettings:
    """What `named` says, else `./.hf-cache-sync.yaml`, else the one in the home folder, and the
    environment. Raises UsageError, NotFound (where `named` is missing), LocalFault.
    """
    places = [Path(FILE_NAME), Path.home() / FILE_NAME] if named is None else [Path(named)]
    for place in places:
        try:
            with place.open("rb") as stream:
                data = stream.read(MAX_FILE_BYTES + 1)
        except FileNotFoundError:
            continue
        except OSError as exc:
            raise LocalFault(f"{place} cannot be read: {exc.strerror}") from exc
        return read_settings(data, str(place), os.environ)
    if named is not None:
        raise NotFound(
            f"no such file or folder: {named}", hint="`p2pcache bucket init` writes a file"
        )
    return read_settings(None, "", os.environ)
