"""The Kubos of an agent: the configured one, and those that callers name."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

import trio

from p2pcache.content.refs import CidRef
from p2pcache.errors import P2PCacheError, Unavailable, UsageError
from p2pcache.sources.kubo_place import AUTO, find_kubo, parse_kubo
from p2pcache.sources.port import KUBO, Source, SourceKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from p2pcache.config.ipfs import IpfsSettings
    from p2pcache.content.refs import Ref
    from p2pcache.lanes.orders import Location
    from p2pcache.sources.kubo_place import KuboPlace
    from p2pcache.sources.port import Credentials, Listing

MAX_OPEN = 8  # that are kept for the next caller
PRESENT_S = 0.25  # for "do you have it?", which takes 1 ms; then others are asked
MUTED_S = 60.0  # for so long one that sent other bytes is asked for no more blocks
PATIENT_S = 5.0  # ... and where nobody else has it either, the same of one that is slow


class OpenKubo(Source, Protocol):
    """A Kubo: a source that also tells of and gives single blocks."""

    async def block(self, cid: bytes) -> bytes:
        """A block that it has, verified; it searches for none. Raises as `list`."""
        ...

    async def has_block(self, cid: bytes) -> bool:
        """Whether it has one block; it searches for none. Raises as `list`, but not NotFound."""
        ...

    async def about(self) -> str:
        """Its version and where it is, for people. Raises as `list`."""
        ...


class Kubos:
    """`make` is the adapter: where it is, and how long it may take to say that it has a root."""

    def __init__(
        self, settings: IpfsSettings, make: Callable[[KuboPlace, float], OpenKubo]
    ) -> None:
        self._settings = settings
        self._make = make
        self._open: dict[tuple[KuboPlace, float], OpenKubo] = {}

    async def find(self, said: str | None, *, patient: bool = False) -> OpenKubo | None:
        """The Kubo that a caller names (see `parse_kubo`; a folder is absolute), else the
        configured one; None where there is none, or its daemon does not run. Raises UsageError.
        """
        place = await self.place(said)
        if place is None:
            return None
        key = place, PATIENT_S if patient else PRESENT_S
        known = self._open.pop(key, None) or self._make(*key)
        self._open[key] = known  # the newest last
        if len(self._open) > MAX_OPEN:
            oldest = next(iter(self._open))
            await self._open.pop(oldest).aclose()
        return known

    async def place(self, said: str | None) -> KuboPlace | None:
        """Where it is: see `find`."""
        gateway = None
        if said is None:
            said, gateway = self._settings.kubo, self._settings.kubo_gateway
        if said is None:
            return None
        try:
            said = parse_kubo(said)
        except ValueError as exc:
            raise UsageError(f"`kubo`: {exc}") from exc
        if said == AUTO:  # it is the caller's own folder
            raise UsageError(
                "`kubo`: a folder or an address", hint="`auto` is for the command line"
            )
        return await trio.to_thread.run_sync(find_kubo, said, gateway)

    async def needed_place(self, said: str | None) -> KuboPlace:
        """The same for who cannot do without one. Raises UsageError, Unavailable."""
        place = await self.place(said)
        if place is not None:
            return place
        if said is None and not self.is_configured:
            raise UsageError(
                "no Kubo is configured",
                hint="set `ipfs.kubo`, or name one: `--kubo http://127.0.0.1:5001`, `--kubo auto`",
            )
        raise Unavailable(
            f"no Kubo runs on the repository {said or self._settings.kubo}",
            hint="start `ipfs daemon`",
        )

    async def check(self) -> tuple[str, bool, str, str] | None:
        """A row for `doctor`; None where no Kubo is configured."""
        if not self.is_configured:
            return None
        try:
            await self.needed_place(None)
            found = await self.find(None, patient=True)
            assert found is not None, "it has a place"
            with trio.fail_after(PATIENT_S):
                return "kubo", True, await found.about(), ""
        except trio.TooSlowError:
            said = f"it does not answer in {PATIENT_S:.0f} s"
        except P2PCacheError as exc:
            said = exc.message
        return "kubo", False, said, "start `ipfs daemon`, or set `ipfs.kubo` right, or to none"

    @property
    def is_configured(self) -> bool:
        """Whether there is one for callers that name none."""
        return self._settings.kubo is not None

    async def aclose(self) -> None:
        """Close all. Bounded."""
        while self._open:
            await self._open.popitem()[1].aclose()


class ConfiguredKubo:
    """See `Source`: the configured Kubo, wherever it listens now; for what was got of it before."""

    name = KUBO
    kind = SourceKind.KUBO

    def __init__(self, kubos: Kubos) -> None:
        self._kubos = kubos

    def accepts(self, ref: Ref) -> bool:
        """CIDs, where there is one."""
        return isinstance(ref, CidRef) and self._kubos.is_configured

    def endpoint(self, ref: Ref, credentials: Credentials) -> str:
        """One word for whatever is configured."""
        return KUBO

    async def list(self, ref: Ref, credentials: Credentials) -> Listing:
        """See the port."""
        return await (await self._now()).list(ref, credentials)

    async def gives(self, ref: Ref, immutable: str | None, credentials: Credentials) -> bool:
        """See the port."""
        return await (await self._now()).gives(ref, immutable, credentials)

    async def locate(self, listing: Listing, key: str, credentials: Credentials) -> Location:
        """See the port."""
        return await (await self._now()).locate(listing, key, credentials)

    async def aclose(self) -> None:
        """`Kubos` closes what is open."""

    async def _now(self) -> Source:
        found = await self._kubos.find(None, patient=True)
        if found is None:
            raise Unavailable("the configured Kubo does not run", hint="start `ipfs daemon`")
        return found


class KuboBlocks:
    """`content.blocks.Fetcher`: single blocks of the configured Kubo."""

    def __init__(self, kubos: Kubos) -> None:
        self._kubos = kubos
        self._muted_until = -math.inf

    async def fetch(self, cid: bytes) -> bytes | None:
        """See the port. Untrusted: other bytes than the CID names."""
        if trio.current_time() < self._muted_until:
            return None
        found = await self._kubos.find(None)
        return None if found is None else await found.block(cid)

    def lied(self, cid: bytes) -> None:
        """See the port."""
        self._muted_until = trio.current_time() + MUTED_S
