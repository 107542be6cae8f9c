"""The requests of one agent to registries: manifests, and who may read what. Never bulk bytes.

Apart from `source.py` because httpx costs an agent 7 MB and 0.1 s: it is imported when the first
registry is asked.

| the registry says                          | ours        | who acts
|--------------------------------------------|-------------|-----------------------------------
| 401                                        | Denied      | the user logs in, or checks the login
| 403, 407, 451, other 4xx                   | Denied      | the user asks the owner
| 404, 410                                   | NotFound    | the user checks name and tag
| 408, 425, 429 (with its Retry-After), 5xx  | Unavailable | nobody: try again
| no connection, silence, a cut              | Unavailable | nobody: try again
| a bad certificate, a downgrade, a wrong    | Untrusted   | drop this registry
| digest, what is no manifest, no token      |             |
"""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import httpx
import trio

from p2pcache.errors import Denied, NotFound, P2PCacheError, Unavailable, Untrusted
from p2pcache.lanes.faults import plain_text
from p2pcache.sources import headers
from p2pcache.sources.certificates import distrust, reason, trusting
from p2pcache.sources.oci.access import MAX_TOKEN_BYTES, Access, Held, Stage, TokenReply, login_hint
from p2pcache.sources.oci.challenge import parse_challenge
from p2pcache.sources.oci.manifest import ACCEPT, MAX_MANIFEST_BYTES
from p2pcache.sources.urls import origin_of
from p2pcache.version import __version__

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from p2pcache.sources.oci.options import OciOptions
    from p2pcache.sources.port import RegistryLogin

CLOSE_S = 2.0
MAX_STEPS = 5  # of one question: nothing, anonymous, login, login renewed, and the answer
MAX_ERROR_BYTES = 16 << 10  # of what a registry says about a refusal
MAX_ACCESSES = 1024  # repositories that are remembered; the oldest are asked anew
_NO_NETWORK = "check the name, the network and the proxy settings; --offline uses what is here"
_BETTER_WITH_LOGIN = frozenset({401, 403, 404, 429})  # also how registries hide what is private


@dataclass(frozen=True, slots=True)
class Place:
    """A repository. `registry`: scheme, host and port."""

    registry: str
    repository: str

    def url(self, what: str) -> str:
        """Of `manifests/<reference>` or `blobs/<digest>`; a whole URL as it is."""
        return what if "://" in what else f"{self.registry}/v2/{self.repository}/{what}"

    def scopes(self, actions: str, also: Sequence[str]) -> tuple[str, ...]:
        """What a token is asked for: `actions` here, and to pull from the repositories `also`."""
        mounted = (f"repository:{name}:pull" for name in also)
        return (f"repository:{self.repository}:{actions}", *mounted)


@dataclass(frozen=True, slots=True)
class Answer:
    """A manifest as it was sent. `by_login`: it was given to a login, and not to everybody."""

    body: bytes
    media_type: str
    digest: str | None
    by_login: bool


@dataclass(frozen=True, slots=True)
class Reply:
    """What a registry answered, and what it was asked with."""

    status: int
    fields: httpx.Headers
    body: bytes
    held: Held


@dataclass(frozen=True, slots=True)
class Sent:
    """A small body that goes along with a question, and fields that say what it is."""

    body: bytes | None = field(default=None, repr=False)
    fields: Mapping[str, str] = field(default_factory=dict)


NOTHING_SENT = Sent()


class Registries:
    """A pool of connections, and what is known of each repository's access."""

    def __init__(self, options: OciOptions) -> None:
        self._options = options
        self._client = httpx.AsyncClient(
            verify=trusting(options.ca_file) if options.ca_file else True,
            max_redirects=options.max_redirects,
            timeout=options.timeout_s,
            headers={"User-Agent": f"p2pcache/{__version__}", "Accept-Encoding": "identity"},
        )
        self._accesses: dict[tuple[str, tuple[str, ...], RegistryLogin | None], Access] = {}

    async def aclose(self) -> None:
        """Close the pool. Bounded: idle connections are dropped, none is waited for."""
        with trio.move_on_after(CLOSE_S) as scope:
            scope.shield = True
            await self._client.aclose()

    async def manifest(self, place: Place, reference: str, login: RegistryLogin | None) -> Answer:
        """What a tag or digest names. Raises by the table of the module."""
        access = self._access(place, login)
        reply = await self.ask(access, "GET", place, f"manifests/{reference}")
        if reply.status != 200:
            raise _refused(reply, place, reference, access)
        return Answer(
            reply.body,
            reply.fields.get("content-type", ""),
            reply.fields.get("docker-content-digest"),
            reply.held.stage is Stage.LOGIN,
        )

    async def has(self, place: Place, reference: str, login: RegistryLogin | None) -> None:
        """Return when the registry has that manifest. Raises as `manifest`."""
        access = self._access(place, login)
        reply = await self.ask(access, "HEAD", place, f"manifests/{reference}")
        if reply.status != 200:
            raise _refused(reply, place, reference, access)

    async def authorization(
        self, place: Place, what: str, login: RegistryLogin | None
    ) -> str | None:
        """The header to read a blob with; renewed when it was handed out for that blob before and
        some time ago. A registry that was not asked yet is asked whether it wants one.
        """
        access = self._access(place, login)
        if not access.is_known:
            await self.ask(access, "HEAD", place, what)
        return await access.fresh(what)

    def pushing(
        self, place: Place, login: RegistryLogin | None, also: Sequence[str] = ()
    ) -> Access:
        """Who may push to a repository, and pull from those in `also`: for `ask`."""
        return self._access(place, login, "pull,push", tuple(also))

    def _access(
        self,
        place: Place,
        login: RegistryLogin | None,
        actions: str = "pull",
        also: tuple[str, ...] = (),
    ) -> Access:
        scopes = place.scopes(actions, also)
        key = (place.registry, scopes, login)
        found = self._accesses.pop(key, None)
        if found is None:
            realms = self._options.realms
            found = Access(place.registry, scopes, login, realms, self._ask_token)
        self._accesses[key] = found
        if len(self._accesses) > MAX_ACCESSES:
            del self._accesses[next(iter(self._accesses))]
        return found

    async def ask(
        self, access: Access, method: str, place: Place, what: str, sent: Sent = NOTHING_SENT
    ) -> Reply:
        """With as little access as it takes; none where a whole URL leads to another host."""
        url, reply = place.url(what), None
        if origin_of(url) != origin_of(place.registry):
            return await self._once(method, url, Held(), sent)
        for _ in range(MAX_STEPS):
            await access.fresh()
            held = access.held
            reply = await self._once(method, url, held, sent)
            access.is_known = access.is_known or reply.status < 500
            more = access.login is not None and held.stage is not Stage.LOGIN
            if reply.status != 401 and not (more and reply.status in _BETTER_WITH_LOGIN):
                break
            challenge = parse_challenge(reply.fields.get_list("www-authenticate"))
            if challenge is None and held.stage is Stage.NOTHING:
                ping = await self._once("GET", f"{place.registry}/v2/", Held(), NOTHING_SENT)
                challenge = parse_challenge(ping.fields.get_list("www-authenticate"))
            if not await access.climb(held, challenge):
                break
        assert reply is not None
        return reply

    async def _once(self, method: str, url: str, held: Held, sent: Sent) -> Reply:
        fields = {"Accept": ACCEPT, **sent.fields}
        if held.authorization is not None:
            fields["Authorization"] = held.authorization
        follow = method == "GET"  # a blob's HEAD may lead to a CDN, which is not asked yet
        async with self._reply(method, url, fields, follow, content=sent.body) as reply:
            most = MAX_MANIFEST_BYTES if reply.status_code == 200 else MAX_ERROR_BYTES
            body = await _body(reply, most, cut=reply.status_code != 200)
            return Reply(reply.status_code, reply.headers, body, held)

    async def _ask_token(
        self, url: str, authorization: str | None, form: Mapping[str, str] | None
    ) -> TokenReply:
        """A redirect is not followed: the realm was looked at, and nothing else."""
        fields = {} if authorization is None else {"Authorization": authorization}
        method = "GET" if form is None else "POST"
        async with self._reply(method, url, fields, False, form) as reply:
            body = await _body(reply, MAX_TOKEN_BYTES)
            if reply.status_code in (408, 425, 429) or reply.status_code >= 500:
                raise later(reply.status_code, reply.headers, f"the token server {origin_of(url)}")
            return TokenReply(reply.status_code, body)

    @contextlib.asynccontextmanager
    async def _reply(
        self,
        method: str,
        url: str,
        fields: Mapping[str, str],
        follow: bool,
        form: Mapping[str, str] | None = None,
        content: bytes | None = None,
    ) -> AsyncIterator[httpx.Response]:
        """One streamed reply within the deadline; errors are ours. httpx takes the Authorization
        off where a redirect leaves the registry's scheme, host and port.
        """
        who = origin_of(url)
        try:
            with trio.fail_after(self._options.deadline_s):
                request = self._client.build_request(
                    method, url, headers=fields, data=form, content=content
                )
                reply = await self._client.send(request, stream=True, follow_redirects=follow)
                try:
                    if reply.url.scheme == "http" and url.startswith("https:"):
                        raise Untrusted(f"{who} redirects from https to http")
                    yield reply
                finally:
                    with trio.move_on_after(CLOSE_S) as scope:
                        scope.shield = True
                        await reply.aclose()
        except trio.TooSlowError as exc:
            raise Unavailable(f"{who} took longer than {self._options.deadline_s:g} s") from exc
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            raise _of_transport(exc, who) from exc


async def _body(reply: httpx.Response, max_bytes: int, *, cut: bool = False) -> bytes:
    """All of it, at most so much. `cut`: what is more is left; else it is Untrusted."""
    if headers.is_encoded(reply.headers.get("content-encoding")):
        raise Untrusted(f"{origin_of(str(reply.url))} encodes a reply that was asked for plainly")
    data = bytearray()
    with trio.CancelScope() as reading:  # leaving the loop would abandon the generators below it
        async for chunk in reply.aiter_raw():
            data += chunk
            if len(data) > max_bytes:
                reading.cancel()
    if len(data) > max_bytes and not cut:
        raise Untrusted(
            f"{origin_of(str(reply.url))} answers with more than {max_bytes} bytes, where a "
            "manifest or a token was asked for"
        )
    return bytes(data[:max_bytes])


def _refused(reply: Reply, place: Place, reference: str, access: Access) -> P2PCacheError:
    status, login = reply.status, access.login
    joint = "@" if reference.startswith("sha") else ":"
    name = f"{place.repository}{joint}{reference}"
    said = said_of(reply.body, login, reply.held)
    sent = reply.held.stage is Stage.LOGIN
    if status == 401 and sent:
        return Denied(
            f"{place.registry} does not accept the login for {name}{said}",
            hint=login_hint(place.registry, login),
        )
    if status == 401:
        why = "it is private, or is not there"
        return Denied(
            f"{place.registry} gives {name} to nobody without a login: {why}{said}",
            hint=login_hint(place.registry, login),
        )
    if status in (404, 410):
        return NotFound(
            f"{place.registry} has no {name}{said}",
            hint="check the name and the tag; what is private may need a login to be found",
            hidden=not sent,
        )
    if status in (408, 425, 429) or status >= 500:
        return later(status, reply.fields, f"{name} at {place.registry}", said)
    if 400 <= status < 500:
        hint = "the account may lack the right to pull it" if sent else None
        return Denied(
            f"{place.registry} does not give out {name} (HTTP {status}){said}",
            hint=hint or login_hint(place.registry, login),
        )
    return Untrusted(f"{place.registry} answers HTTP {status} where a manifest was asked for")


def later(status: int, fields: httpx.Headers, what: str, said: str = "") -> Unavailable:
    """The error for what may be otherwise in a while. `what`: was asked for, or sent."""
    wait_s = headers.retry_after_s(
        fields.get("retry-after"), fields.get("ratelimit"), now_unix_s=time.time()
    )
    why = "limits our requests" if status == 429 else "cannot answer now"
    return Unavailable(f"{what}: the server {why} (HTTP {status}){said}", retry_after_s=wait_s)


def said_of(body: bytes, login: RegistryLogin | None, held: Held) -> str:
    """The registry's own words (distribution's spec, "Errors"), without secrets, on one line."""
    try:
        first = json.loads(body)["errors"][0]
        text = f"{first.get('code') or ''} {first.get('message') or ''}".strip()
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return ""
    secrets = (held.authorization or "", *(() if login is None else login.secrets))
    return f": {shown}" if (shown := plain_text(text, secrets)) else ""


def _of_transport(exc: Exception, who: str) -> P2PCacheError:
    if (untrusted := distrust(exc, who)) is not None:
        return untrusted
    match exc:
        case httpx.TooManyRedirects():
            return Untrusted(f"{who} redirects in a loop")
        case httpx.InvalidURL() | httpx.UnsupportedProtocol():
            return Untrusted(f"{who} leads to something that is no URL")
        case httpx.TimeoutException():
            return Unavailable(f"{who} is silent", hint=_NO_NETWORK)
    return Unavailable(f"{who} cannot be reached: {reason(exc)}", hint=_NO_NETWORK)
