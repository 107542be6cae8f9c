"""What of an adopted Hugging Face cache everybody may read, by the word of its hub.

A cache keeps no mark of what was downloaded with a token. So its files are for this agent alone
until the hub, asked without a token, says that their repository is neither gated nor private. One
request a repository; what the hub said before counts while it cannot be asked. A payload that
several repositories share needs the word on each: that a repository links to it says nothing of
where its bytes came from.
"""

from __future__ import annotations

import logging
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from p2pcache.content.refs import HfRef
from p2pcache.errors import LocalFault, P2PCacheError, Unavailable
from p2pcache.store.hfcache.read import repo_of_folder

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping

    from p2pcache.content.refs import RepoType

_log = logging.getLogger(__name__)

OPEN_S = 24 * 3600.0  # a repository that became gated is noticed within a day
CLOSED_S = 3600.0
AGAIN_S = 600.0  # until a hub that could not be asked is asked again
MAX_REFS_BYTES = 1 << 20  # of the list of who links to a shared payload: some 10,000 links


@dataclass(frozen=True, slots=True)
class _Word:
    """`until`: when it is asked again."""

    is_open: bool
    until: float


class HubWord:
    """Of one agent. `is_open` asks a hub (its endpoint; "": the configured one) without a token,
    and raises what hubs answer. `now`: seconds that never jump.
    """

    def __init__(
        self, is_open: Callable[[HfRef, str], Awaitable[bool]], now: Callable[[], float]
    ) -> None:
        self._is_open = is_open
        self._now = now
        self._words: dict[tuple[str, str], _Word] = {}
        self._silent: dict[str, float] = {}  # hubs that did not answer, and until when

    async def open_paths(
        self, repos: Mapping[str, frozenset[str]], endpoint: str, before: Collection[str]
    ) -> set[str]:
        """Of files, each with the folders of its repositories, those that everybody may read.
        `before`: what was so by the hub's last word. If cancelled, what was asked is remembered.
        """
        words = {
            folder: await self._word(folder, endpoint)
            for folder in sorted({folder for found in repos.values() for folder in found})
        }
        return {
            path
            for path, found in repos.items()
            if found and all(_counts(words[folder], path in before) for folder in found)
        }

    async def _word(self, folder: str, endpoint: str) -> bool | None:
        now = self._now()
        known = self._words.get((endpoint, folder))
        if known is not None and now < known.until:
            return known.is_open
        if now < self._silent.get(endpoint, now):
            return None
        said = await self._asked(folder, endpoint)
        if said is None:
            self._silent[endpoint] = now + AGAIN_S
            return None
        self._words[endpoint, folder] = _Word(said, now + (OPEN_S if said else CLOSED_S))
        return said

    async def _asked(self, folder: str, endpoint: str) -> bool | None:
        try:
            repo = repo_of_folder(folder)
            kind = cast("RepoType", repo.repo_type)  # it is one of them: `RepoFolder` said so
            return await self._is_open(HfRef(kind, repo.repo_id, None, None), endpoint)
        except (Unavailable, LocalFault) as exc:
            _log.info("whether %s is open is not known: %s", folder, exc.message)
            return None
        except P2PCacheError as exc:  # a hub says of what is private it is not there
            _log.info("%s is not open: %s", folder, exc.message)
            return False


def _counts(word: bool | None, before: bool) -> bool:
    return before if word is None else word


def repos_of(top: str, paths: Collection[str]) -> dict[str, frozenset[str]]:
    """For each file of a cache the folders of the repositories that have it; none where that is not
    told. Blocking.
    """
    return {path: _repos_of(top, path) for path in paths}


def _repos_of(top: str, path: str) -> frozenset[str]:
    first, _, _ = path.partition("/")
    if first != "blobs":
        return frozenset([first])
    try:
        lines = _read(os.path.join(top, f"{path}.refs")).splitlines()
    except (OSError, UnicodeDecodeError):
        return frozenset()
    return frozenset(line.partition("/")[0] for line in lines if line.strip())


def _read(path: str) -> str:
    """A list of links, whole. Raises OSError."""
    opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(opened, "rb") as stream:
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            raise OSError(f"{path} is no file")
        data = stream.read(MAX_REFS_BYTES + 1)
    if len(data) > MAX_REFS_BYTES:
        raise OSError(f"{path} is too long")
    return data.decode()
