"""The requests that fill a repository (distribution specification 1.1, "Push"): what is there, the
sessions in which blobs are uploaded, manifests. The bulk of a blob is sent by workers.

| the registry says                         | ours        | who acts
|-------------------------------------------|-------------|-------------------------------------
| 401                                       | Denied      | the user logs in, or checks the login
| 403, 405, 407, 413, 451, other 4xx        | Denied      | the user asks the owner
| 404 where an upload is to begin           | NotFound    | the user makes the repository
| 404, 416 within one                       | (see there) | it goes on at another byte, or anew
| 408, 425, 429 (with Retry-After), 5xx     | Unavailable | nobody: try again
| DIGEST_INVALID, another digest than ours, | Untrusted   | drop this registry, if our file is
| a session at an http:// address           |             | good
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, urlencode, urljoin, urlsplit

from p2pcache.errors import Denied, NotFound, P2PCacheError, Unavailable, Untrusted
from p2pcache.lanes.faults import plain_text
from p2pcache.sources.oci.access import Stage, login_hint
from p2pcache.sources.oci.registry import (
    NOTHING_SENT,
    Place,
    Registries,
    Reply,
    Sent,
    later,
    said_of,
)
from p2pcache.sources.urls import origin_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from p2pcache.sources.port import RegistryLogin

MAX_LOCATION_CHARS = 8192  # of a session's address; ECR's and Quay's have some hundred
MAX_CHUNK_BYTES = 1 << 30  # a registry that wants longer ones is asked for none
_RECEIVED = re.compile(r"(?:bytes=)?0-([0-9]{1,18})")


@dataclass(frozen=True, slots=True)
class Session:
    """An upload that has begun. `location`: where its next bytes go; `received`: how many are there
    already; `least_chunk_bytes`: of all but the last request with bytes.
    """

    location: str
    received: int = 0
    least_chunk_bytes: int = 0


class Pushing:
    """One repository that is pushed to with one login. `also`: those of the same registry that
    blobs may be mounted from.
    """

    def __init__(
        self,
        registries: Registries,
        place: Place,
        login: RegistryLogin | None,
        also: Sequence[str] = (),
    ) -> None:
        self.place = place
        self.where = f"{place.registry}/{place.repository}"
        self._registries = registries
        self._access = registries.pushing(place, login, also)

    async def has_blob(self, digest: str, size: int) -> bool:
        """Whether it is there. Raises by the table of the module."""
        reply = await self._ask("HEAD", f"blobs/{digest}")
        if 300 <= reply.status < 400:  # it lies elsewhere, and is there
            return True
        if reply.status == 404:
            return False
        if reply.status != 200:
            raise self.refused(reply, digest)
        said = reply.fields.get("content-length", "")
        if said.isdigit() and int(said) != size:
            raise Untrusted(f"{self.where} has {said} bytes under {digest}, which has {size}")
        return True

    async def has_elsewhere(self, repository: str, digest: str) -> bool:
        """Whether another repository of this registry has a blob, as far as this login sees."""
        place = Place(self.place.registry, repository)
        reply = await self._registries.ask(self._access, "HEAD", place, f"blobs/{digest}")
        return 200 <= reply.status < 400

    async def manifest_digest(self, reference: str) -> str | None:
        """What a tag, or a digest, names there now; None: nothing. Raises by the table."""
        reply = await self._ask("HEAD", f"manifests/{reference}")
        if reply.status == 404:
            return None
        if reply.status != 200:
            raise self.refused(reply, reference)
        said: str = reply.fields.get("docker-content-digest", "")
        return said

    async def begin(self, digest: str, mounts: Iterable[str]) -> Session | None:
        """Begin an upload, or have the blob taken from one of the repositories `mounts`: None, it
        is there then. Raises by the table.
        """
        for repository in mounts:
            query = f"mount={digest}&from={quote(repository, safe='')}"
            reply = await self._ask("POST", f"blobs/uploads/?{query}", Sent(b""))
            if reply.status == 201:
                self._check(reply, digest)
                return None
            if reply.status == 202:
                return self._session(reply.status, reply.fields, None)
            # a registry that refuses mounts may take the bytes
        reply = await self._ask("POST", "blobs/uploads/", Sent(b""))
        if reply.status != 202:
            raise self.refused(reply, digest, begins=True)
        return self._session(reply.status, reply.fields, None)

    async def resume(self, location: str) -> Session | None:
        """How far a session came; None: the registry cannot say, or has forgotten it. Raises
        Unavailable, Denied.
        """
        reply = await self._ask("GET", location)
        if reply.status in (200, 204) and "range" in reply.fields:
            return self._session(reply.status, reply.fields, location)
        if reply.status == 401 or reply.status == 429 or reply.status >= 500:
            raise self.refused(reply, "an upload")
        return None

    def continued(self, status: int, fields: Mapping[str, str], location: str) -> Session:
        """The session after bytes of it were taken (202)."""
        return self._session(status, fields, location)

    async def end(self, session: Session, digest: str) -> None:
        """Close a session whose bytes are all there. Raises by the table."""
        reply = await self._ask("PUT", with_digest(session.location, digest), Sent(b""))
        if reply.status not in (201, 204):
            raise self.refused(reply, digest)
        self._check(reply, digest)

    async def put_manifest(self, reference: str, body: bytes, media_type: str, digest: str) -> None:
        """Under a tag or its digest. Raises by the table."""
        sent = Sent(body, {"Content-Type": media_type})
        reply = await self._ask("PUT", f"manifests/{reference}", sent)
        if reply.status not in (200, 201, 202):
            raise self.refused(reply, reference)
        self._check(reply, digest)

    async def fields_for(self, url: str) -> tuple[tuple[str, str], ...]:
        """The login's header for a request of a worker; none for another host."""
        if origin_of(url) != origin_of(self.place.registry):
            return ()
        authorization = await self._access.fresh()
        return () if authorization is None else (("Authorization", authorization),)

    async def renew(self, url: str) -> None:
        """After a worker's request was refused: ask ourselves, which renews what can be renewed."""
        await self._ask("GET", url)

    def check_answer(self, fields: Mapping[str, str], digest: str) -> None:
        """Raises Untrusted where the registry says that it has something else."""
        said = fields.get("docker-content-digest")
        if said is not None and said.startswith("sha256:") and said != digest:
            raise Untrusted(f"{self.where} was given {digest}, and says that it has {said[:80]}")

    def refused(self, reply: Reply, what: str, *, begins: bool = False) -> P2PCacheError:
        """The error for an answer that is no success."""
        login = self._access.login
        said = said_of(reply.body, login, reply.held)
        name = plain_text(what)[:100]
        sent = reply.held.stage is Stage.LOGIN
        match reply.status:
            case 401 if sent:
                why = f"{self.where} does not let this login push {name}{said}"
                return Denied(why, hint=login_hint(self.place.registry, login))
            case 401:
                why = f"{self.where} lets nobody push without a login{said}"
                return Denied(why, hint=login_hint(self.place.registry, login))
            case 404 if begins:
                return NotFound(
                    f"{self.where} is not there{said}",
                    hint="some registries want a repository to be made before it is pushed to",
                )
            case 408 | 425 | 429:
                return later(reply.status, reply.fields, f"{name} to {self.where}", said)
            case status if status >= 500:
                return later(status, reply.fields, f"{name} to {self.where}", said)
            case 405:
                why = f"{self.where} takes no pushes (HTTP 405){said}"
                return Denied(why, hint="is it a mirror, or read-only?")
        if b"DIGEST_INVALID" in reply.body:
            return Untrusted(f"{self.where} says that the bytes of {name} are others{said}")
        if b"BLOB_UNKNOWN" in reply.body:
            return Unavailable(f"{self.where} lost blobs of {name}{said}", hint="push it again")
        if reply.status >= 400:
            return Denied(
                f"{self.where} does not take {name} (HTTP {reply.status}){said}",
                hint="the account may lack the right to push, or the space",
            )
        return Untrusted(f"{self.where} answers HTTP {reply.status} to a push of {name}")

    def _check(self, reply: Reply, digest: str) -> None:
        self.check_answer(reply.fields, digest)

    async def _ask(self, method: str, what: str, sent: Sent = NOTHING_SENT) -> Reply:
        return await self._registries.ask(self._access, method, self.place, what, sent)

    def _session(self, status: int, fields: Mapping[str, str], before: str | None) -> Session:
        said = fields.get("docker-upload-location") or fields.get("location") or before
        if not said or len(said) > MAX_LOCATION_CHARS:
            raise Untrusted(f"{self.where} does not say where an upload goes (HTTP {status})")
        url = urljoin(before or f"{self.place.registry}/", said)
        ours = urlsplit(self.place.registry).scheme
        if urlsplit(url).scheme not in ("https", ours):
            raise Untrusted(
                f"{self.where} leads an upload from {ours} to {origin_of(url)}",
                hint="a proxy in front of it may have to say X-Forwarded-Proto",
            )
        found = _RECEIVED.fullmatch(fields.get("range", ""))
        last = 0 if found is None else int(found[1])
        least = fields.get("oci-chunk-min-length", "")
        return Session(
            url,
            last + 1 if last else 0,  # "0-0" is how distribution says nothing
            min(int(least), MAX_CHUNK_BYTES) if least.isdigit() and len(least) < 12 else 0,
        )


def with_digest(location: str, digest: str) -> str:
    """A session's address with what its bytes are."""
    parts = urlsplit(location)
    query = [*parse_qsl(parts.query, keep_blank_values=True), ("digest", digest)]
    return parts._replace(query=urlencode(query)).geturl()
