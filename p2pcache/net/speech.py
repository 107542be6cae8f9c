"""What we say to all members of manifests: that we have them, begin to get them, have them no more.

Things said at once go together, the newest word on each manifest; a newcomer hears what stands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from p2pcache.net.interest import MAX_MANIFESTS as MAX_OF_PEER
from p2pcache.net.sync.wire import MAX_MANIFESTS, Said

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence


class Speech:
    """What stands, and what is not said yet."""

    def __init__(self) -> None:
        self._possessed: dict[bytes, None] = {}
        self._intents: dict[bytes, int] = {}  # and how many pulls of ours have it
        self._quiet: set[bytes] = set()  # intents that are not told
        self._unsaid: dict[bytes, Said] = {}
        self._unsaid_some = trio.Event()

    def possessed(self) -> list[bytes]:
        """What we said we possess."""
        return list(self._possessed)

    def possess(self, manifests: Iterable[bytes]) -> None:
        """We have all of these."""
        new = [one for one in dict.fromkeys(manifests) if one not in self._possessed]
        self._possessed.update(dict.fromkeys(new))
        self._say(Said.POSSESS, new)

    def withdraw(self, manifests: Iterable[bytes]) -> None:
        """We have these no more."""
        old = [one for one in dict.fromkeys(manifests) if one in self._possessed]
        for one in old:
            del self._possessed[one]
        self._say(Said.WITHDRAWN, [one for one in old if one not in self._intents])

    def begin(self, manifest: bytes, *, quiet: bool) -> None:
        """A pull begins; a quiet one is told to nobody."""
        self._intents[manifest] = self._intents.get(manifest, 0) + 1
        if quiet:
            self._quiet.add(manifest)
        elif self._intents[manifest] == 1:
            self._say(Said.INTENT, [manifest])

    def end(self, manifest: bytes) -> None:
        """It ends."""
        self._intents[manifest] -= 1
        if self._intents[manifest]:
            return
        del self._intents[manifest]
        if manifest not in self._possessed and manifest not in self._quiet:
            self._say(Said.WITHDRAWN, [manifest])
        self._quiet.discard(manifest)

    def standing(self) -> Iterator[tuple[Said, Sequence[bytes]]]:
        """What a newcomer is told, in parts that fit a message."""
        for part in _parts(list(self._possessed)[-MAX_OF_PEER:]):
            yield Said.POSSESS, part
        for part in _parts([one for one in self._intents if one not in self._quiet]):
            yield Said.INTENT, part

    async def run(self, say: Callable[[Said, Sequence[bytes]], None]) -> None:
        """Say what is not said yet, as soon as there is something; until cancelled."""
        while True:
            await self._unsaid_some.wait()
            self._unsaid_some = trio.Event()
            unsaid, self._unsaid = self._unsaid, {}
            for said in Said:
                for part in _parts([one for one, word in unsaid.items() if word is said]):
                    say(said, part)
                    await trio.sleep(0.001)  # links are given time to write

    def _say(self, said: Said, manifests: Sequence[bytes]) -> None:
        self._unsaid.update(dict.fromkeys(manifests, said))
        if manifests:
            self._unsaid_some.set()


def _parts(manifests: Sequence[bytes]) -> list[Sequence[bytes]]:
    return [manifests[at : at + MAX_MANIFESTS] for at in range(0, len(manifests), MAX_MANIFESTS)]
