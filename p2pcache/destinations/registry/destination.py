"""A repository of a registry as a destination: blobs, then their manifest by its digest, then its
tag. Until the tag is written nothing there changed for anybody who reads it.

A registry has no conditional writes: of two pushers of one tag the later wins. So the tag is read
back, and a push whose tag means something else says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from p2pcache.content import refs
from p2pcache.content.registry_refs import OciRef, OllamaRef
from p2pcache.destinations.port import Amount, Pushed
from p2pcache.destinations.registry.image import Pushable, pushable
from p2pcache.destinations.registry.upload import Uploader
from p2pcache.destinations.uploads import Sent
from p2pcache.errors import Conflict, P2PCacheError, UsageError, plain_errors

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence

    from p2pcache.destinations.port import Content
    from p2pcache.destinations.registry.image import Blob
    from p2pcache.destinations.registry.upload import UploadOptions
    from p2pcache.destinations.sessions import Sessions
    from p2pcache.destinations.uploads import Uploads
    from p2pcache.sources.oci.pushing import Pushing

AT_ONCE = 4  # blobs under way: a session is one stream, and registries hash what they get
ASKED_AT_ONCE = 8  # blobs that are asked for: 1 ms each nearby
MAX_MOUNTS = 4  # repositories that a blob is looked for in


@dataclass(frozen=True, slots=True)
class RegistryPlan:
    """`lacks`: blobs that are not there, each with the repositories that it may be mounted from.
    `has_manifest`, `has_tag`: whether these are there, as they will be.
    """

    what: Pushable
    lacks: tuple[tuple[Blob, tuple[str, ...]], ...]
    has_manifest: bool
    has_tag: bool


class RegistryDestination:
    """`ref`: where it goes. `pushing`: opens the repository, given the others that blobs may be
    mounted from; `names_of`: refs that are known here to have some blobs, by sha2-256 (blocking).
    """

    def __init__(
        self,
        ref: OciRef | OllamaRef,
        endpoint: str,
        pushing: Callable[[Sequence[str]], Pushing],
        uploads: Uploads,
        kept: Sessions,
        names_of: Callable[[Collection[bytes]], list[str]],
        options: UploadOptions,
        close: Callable[[], Awaitable[None]],
    ) -> None:
        if isinstance(ref, OciRef) and (ref.platform or ref.layout):
            raise UsageError("platform and layout are choices for a pull: leave them out of DEST")
        self.name = "ollama" if isinstance(ref, OllamaRef) else "oci"
        self.where = refs.canonical(ref)
        self.endpoint: str | None = endpoint
        self._ref = ref
        self._open = pushing
        self._uploads = uploads
        self._kept = kept
        self._names_of = names_of
        self._options = options
        self._close = close
        self._pushing: Pushing | None = None

    async def plan(self, content: Content) -> RegistryPlan:
        """See the port. Raises UsageError for what no registry, or no Ollama, can hold."""
        for_ollama = isinstance(self._ref, OllamaRef)
        what = await trio.to_thread.run_sync(lambda: pushable(content, for_ollama=for_ollama))
        if isinstance(self._ref, OciRef) and self._ref.digest not in (None, what.digest):
            raise UsageError(
                f"`{content.ref}` has the digest {what.digest}, not {self._ref.digest}",
                hint="push it to a tag: oci://host/name:tag",
            )
        others = await trio.to_thread.run_sync(self._others, content)
        self._pushing = self._open(others)
        lacks = await self._lacks(self._pushing, what.blobs, others)
        has_manifest = await self._pushing.manifest_digest(what.digest) is not None
        tag = self._ref.tag
        has_tag = not tag or await self._pushing.manifest_digest(tag) == what.digest
        return RegistryPlan(what, lacks, has_manifest, has_tag)

    def missing(self, plan: RegistryPlan) -> Amount:
        """See the port. What can be mounted is no object that is sent; a tag is no bytes."""
        sizes = [blob.size for blob, mounts in plan.lacks if not mounts]
        if not plan.has_manifest:
            sizes.append(len(plan.what.manifest))
        return Amount(objects=len(sizes), bytes=sum(sizes))

    async def send(
        self, content: Content, plan: RegistryPlan, watch: Callable[[int], None]
    ) -> Pushed:
        """See the port. Raises Conflict where another push wrote the tag meanwhile."""
        pushing, what = self._pushing, plan.what
        assert pushing is not None, "there is a plan"
        sent = Sent(watch)
        uploader = Uploader(pushing, self._kept, self._uploads, self._options, sent)
        sent_bytes, objects = await self._blobs(uploader, plan)
        if not plan.has_manifest:
            await self._manifest(uploader, what.digest, what)
            sent_bytes, objects = sent_bytes + len(what.manifest), objects + 1
        notes = [*what.notes, *uploader.notes]
        if tag := self._ref.tag:
            if not plan.has_tag:
                await self._manifest(uploader, tag, what)
            found = await uploader.patience.ask(lambda: pushing.manifest_digest(tag))
            if found and found != what.digest:
                raise Conflict(
                    f"{self.where} means {found[:80]} now: somebody else wrote that tag meanwhile",
                    hint="a registry takes the last that is written; what was pushed is there as "
                    f"{what.digest}",
                )
        return Pushed(
            Amount(objects=objects, bytes=sent_bytes),
            content.root,
            ref=self.where,
            notes=tuple(notes),
            resumed_bytes=sent.resumed_bytes,
        )

    async def aclose(self) -> None:
        """See the port."""
        await self._close()

    def _others(self, content: Content) -> list[str]:
        """Repositories of the same registry that are known to have some of it. Blocking."""
        names = [content.ref, *self._names_of({file.sha256 for file in content.files})]
        found: dict[str, None] = {}
        for name in names:
            try:
                ref = refs.parse_ref(name)
            except P2PCacheError:
                continue
            if isinstance(ref, OciRef | OllamaRef) and ref.registry == self._ref.registry:
                found[ref.repository] = None
        found.pop(self._ref.repository, None)
        return list(found)[:MAX_MOUNTS]

    async def _lacks(
        self, pushing: Pushing, blobs: Sequence[Blob], others: Sequence[str]
    ) -> tuple[tuple[Blob, tuple[str, ...]], ...]:
        found: dict[str, tuple[str, ...]] = {}
        todo = iter(blobs)

        async def ask() -> None:
            for blob in todo:
                if not await pushing.has_blob(blob.digest, blob.size):
                    found[blob.digest] = tuple(
                        [one for one in others if await pushing.has_elsewhere(one, blob.digest)]
                    )

        with plain_errors():
            async with trio.open_nursery() as nursery:
                for _ in range(min(ASKED_AT_ONCE, len(blobs))):
                    nursery.start_soon(ask)
        return tuple((blob, found[blob.digest]) for blob in blobs if blob.digest in found)

    async def _blobs(self, uploader: Uploader, plan: RegistryPlan) -> tuple[int, int]:
        """Bytes that went out, and in how many blobs: the config after the layers."""
        if not plan.lacks:
            return 0, 0
        config = plan.what.blobs[-1].digest
        first = [one for one in plan.lacks if one[0].digest != config]
        last = [one for one in plan.lacks if one[0].digest == config]
        sent: list[int] = []
        with plain_errors():
            for some in (first, last):
                await self._side_by_side(uploader, iter(some), sent)
        return sum(sent), len(sent)

    async def _side_by_side(
        self,
        uploader: Uploader,
        todo: Iterator[tuple[Blob, tuple[str, ...]]],
        sent: list[int],
    ) -> None:
        async def run() -> None:
            for blob, mounts in todo:
                if (count := await uploader.bring(blob, mounts)) is not None:
                    sent.append(count)

        async with trio.open_nursery() as nursery:
            for _ in range(min(AT_ONCE, self._uploads.at_once)):
                nursery.start_soon(run)

    async def _manifest(self, uploader: Uploader, reference: str, what: Pushable) -> None:
        async def put() -> None:
            await uploader.pushing.put_manifest(
                reference, what.manifest, what.media_type, what.digest
            )

        await uploader.patience.ask(put)
