"""Registries of containers and of Ollama's models as a source.

A tag is resolved to the digest of what it names at that moment; an index to the image for one
platform. Every manifest is checked against its digest; every blob that it lists has one, which is
what is verified when its bytes arrive.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING

from p2pcache.content.digests import sha256_digest
from p2pcache.content.registry_refs import OciRef, OllamaRef, is_digest
from p2pcache.errors import NotFound, Untrusted, UsageError
from p2pcache.lanes.orders import Location, Tls
from p2pcache.sources.oci.layout import named_files, ollama_files
from p2pcache.sources.oci.manifest import (
    ACCEPT,
    Descriptor,
    Image,
    Index,
    digest_of,
    parse_manifest,
)
from p2pcache.sources.oci.options import OciOptions, login_for, registry_url
from p2pcache.sources.oci.platforms import choose, host_platform
from p2pcache.sources.port import ListedFile, Listing, SourceKind

if TYPE_CHECKING:
    from p2pcache.content.refs import Ref
    from p2pcache.sources.oci.layout import Named
    from p2pcache.sources.oci.registry import Answer, Place, Registries
    from p2pcache.sources.port import Credentials, RegistryLogin

MAX_NESTING = 4  # indexes inside of indexes; buildkit makes one, some builders two
DEFAULTS = OciOptions()
INLINE = "data:application/json;base64,"


@dataclass(frozen=True, slots=True)
class _Found:
    """A manifest and its place. `top`: the digest that the ref itself means, of an index maybe."""

    top: str
    own: Descriptor
    image: Image
    by_login: bool
    notes: tuple[str, ...]


class OciSource:
    """The adapter of `oci://` and `ollama://`: keeps one connection pool, opened on first use."""

    name = "oci"
    kind = SourceKind.ORIGIN

    def __init__(self, options: OciOptions = DEFAULTS) -> None:
        self._options = options
        self._opened: Registries | None = None

    def accepts(self, ref: Ref) -> bool:
        """Whether the ref is of a registry."""
        return isinstance(ref, OciRef | OllamaRef)

    def endpoint(self, ref: Ref, credentials: Credentials) -> str:
        """Scheme, host and port of the registry."""
        return registry_url(_registry_ref(ref).registry, self._options)

    async def list(self, ref: Ref, credentials: Credentials) -> Listing:
        """Fetch the manifest, and the one for the platform where there is a choice. Cancel-safe.

        Raises NotFound (also: no image for the platform), Denied, Unavailable, Untrusted (see
        `manifest`), UsageError (layers that no digest of ours can verify).
        """
        of = _registry_ref(ref)
        place, login = self._place(of), login_for(of.registry, credentials)
        found = await self._find(place, of, login)
        if isinstance(of, OllamaRef):
            files = ollama_files(found.image)
        else:
            tag = of.tag if of.digest is None else ""
            files = named_files(found.image, found.own, of.layout, tag)
        return Listing(
            source=self.name,
            endpoint=place.registry,
            immutable=found.top,
            mutable=isinstance(of, OllamaRef) or of.digest is None,
            files=tuple(_listed(file, found.own, place.repository) for file in files),
            gated=found.by_login,
            credential_used=found.by_login,
            notes=found.notes,
        )

    async def gives(self, ref: Ref, immutable: str | None, credentials: Credentials) -> bool:
        """Whether it has that manifest still, whatever the tag means now; one request, which raises
        NotFound where it has not.
        """
        of = _registry_ref(ref)
        if immutable is not None and not is_digest(immutable):
            return False
        own = of.tag if isinstance(of, OllamaRef) else of.reference
        login = login_for(of.registry, credentials)
        await self._registries().has(self._place(of), immutable or own, login)
        return True

    async def locate(self, listing: Listing, key: str, credentials: Credentials) -> Location:
        """The blob's URL with a token that is good for a while; asks only when there is none."""
        if key.startswith(INLINE):
            return Location(key)
        from p2pcache.sources.oci.registry import Place

        repository, _, what = key.partition("#")
        place = Place(listing.endpoint, repository)
        login = login_for(listing.endpoint.partition("://")[2], credentials)
        authorization = await self._registries().authorization(place, what, login)
        fields = [("Accept", ACCEPT)] if what.startswith("manifests/") else []
        if authorization is not None:
            fields.append(("Authorization", authorization))
        return Location(place.url(what), tuple(fields), Tls(ca_file=self._options.ca_file))

    async def aclose(self) -> None:
        """Close the pool, if one was opened. Bounded."""
        opened, self._opened = self._opened, None
        if opened is not None:
            await opened.aclose()

    def _registries(self) -> Registries:
        if self._opened is None:
            from p2pcache.sources.oci.registry import Registries  # brings httpx

            self._opened = Registries(self._options)
        return self._opened

    def _place(self, ref: OciRef | OllamaRef) -> Place:
        from p2pcache.sources.oci.registry import Place

        return Place(registry_url(ref.registry, self._options), ref.repository)

    async def _find(
        self, place: Place, ref: OciRef | OllamaRef, login: RegistryLogin | None
    ) -> _Found:
        reference = ref.tag if isinstance(ref, OllamaRef) else ref.reference
        who = f"{ref.registry}/{ref.repository}{'@' if is_digest(reference) else ':'}{reference}"
        wanted = host_platform() if isinstance(ref, OllamaRef) else ref.platform
        top, by_login, notes = "", False, ()
        for _ in range(MAX_NESTING):
            answer = await self._registries().manifest(place, reference, login)
            digest = _checked(answer, reference, who)
            top, by_login = top or digest, by_login or answer.by_login
            said = parse_manifest(answer.body, answer.media_type, who)
            if isinstance(said, Image):
                own = Descriptor(said.media_type, digest, len(answer.body))
                return _Found(top, own, said, by_login, notes)
            chosen = _chosen(said, wanted or host_platform(), who)
            reference = chosen.digest
        raise Untrusted(f"{who} is an index of indexes, more than {MAX_NESTING} deep")


def _chosen(index: Index, platform: str, who: str) -> Descriptor:
    if not index.manifests:
        raise NotFound(f"{who} is an index of nothing")
    return choose(index.manifests, platform, who)


def _registry_ref(ref: Ref) -> OciRef | OllamaRef:
    if not isinstance(ref, OciRef | OllamaRef):
        raise UsageError(f"not a registry's ref: {ref}")
    return ref


def _checked(answer: Answer, reference: str, who: str) -> str:
    """The digest of what arrived, once it is the one that was asked for, and the one that the
    registry said.
    """
    for said in (reference if is_digest(reference) else None, answer.digest):
        if said is not None and is_digest(said):
            arrived = digest_of(answer.body, said)
            if arrived != said:
                raise Untrusted(f"the manifest of {who} has the digest {arrived}, not {said}")
    return reference if is_digest(reference) else digest_of(answer.body)


def _listed(file: Named, manifest: Descriptor, repository: str) -> ListedFile:
    if file.inline is not None:
        key = INLINE + base64.b64encode(file.inline).decode()
        digest = digest_of(file.inline)
        return ListedFile(file.path, len(file.inline), _multihash(digest), key)
    blob = manifest if file.blob is None else file.blob
    kind = "manifests" if file.is_manifest else "blobs"
    return ListedFile(
        file.path, blob.size, _multihash(blob.digest), f"{repository}#{kind}/{blob.digest}"
    )


def _multihash(digest: str) -> bytes:
    algorithm, _, hexadecimal = digest.partition(":")
    if algorithm != "sha256":
        raise UsageError(
            f"a blob goes by {digest[:20]}..., and only sha256 is verified here",
            hint="whoever publishes it can push it with sha256 digests, as all tools do by default",
        )
    return sha256_digest(bytes.fromhex(hexadecimal))
