"""One repository's access as one user has it: nothing, an anonymous token, then a login.

Public content is asked for without the login: what everybody may read is then known to be open, and
a login goes nowhere that does not need it. Tokens end early (60 s where nothing is said), pulls do
not: they are asked for anew in time, and when a registry refuses one that was good before.
"""

from __future__ import annotations

import base64
import enum
import json
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import trio

from p2pcache.errors import Denied, Untrusted
from p2pcache.sources.oci.challenge import Challenge, may_see_key, may_see_login
from p2pcache.sources.oci.signature import signed
from p2pcache.sources.urls import origin_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

    from p2pcache.sources.port import RegistryLogin

MAX_TOKEN_BYTES = 64 << 10  # with the JSON around it; GitLab's have 1 KB, ECR's 3 KB
TOKEN_S = 60.0  # how long a token is good where its server says nothing (distribution's spec)
MAX_TOKEN_S = 86_400.0
MARGIN = 0.2  # of its time: a request that starts now has to be through before it is over
SETTLED_S = 10.0  # a token that is refused sooner was not refused for its age


class Stage(enum.IntEnum):
    """What goes along with a request."""

    NOTHING = 0
    ANONYMOUS = 1
    LOGIN = 2


@dataclass(frozen=True, slots=True)
class Held:
    """What a request is made with: an Authorization header, good until `until` (trio's clock)."""

    stage: Stage = Stage.NOTHING
    authorization: str | None = field(default=None, repr=False)
    since: float = 0.0
    until: float = float("inf")


@dataclass(frozen=True, slots=True)
class TokenReply:
    """What a token's server answered."""

    status: int
    body: bytes


class Access:
    """See the module. `ask(url, authorization, form)`: one request to a token's server.

    `registry`: the URL that requests go to; `trusted`: hosts that may see its logins beside those
    that belong to it. `scopes`: what a token is asked for (distribution's scope.md).
    """

    def __init__(
        self,
        registry: str,
        scopes: Sequence[str],
        login: RegistryLogin | None,
        trusted: Collection[str],
        ask: Callable[[str, str | None, Mapping[str, str] | None], Awaitable[TokenReply]],
    ) -> None:
        self.login = login
        self.held = Held()
        self.is_known = False  # whether the registry was asked for anything yet
        self._registry = registry
        self._scopes = scopes
        self._trusted = trusted
        self._ask = ask
        self._challenge: Challenge | None = None
        self._handed: set[str] = set()  # keys of blobs whose place was told with what is held
        self._lock = trio.Lock()

    async def climb(self, refused: Held, challenge: Challenge | None) -> bool:
        """After a refusal: whether there is something better to ask with now.

        Raises Untrusted for a realm that may not see the login, Denied where a token's server does
        not accept it, Unavailable.
        """
        async with self._lock:
            if self.held is not refused:
                return True  # somebody else climbed meanwhile
            self._challenge = challenge or self._challenge
            if self._challenge is None:
                return False
            if refused.stage is Stage.LOGIN:
                if trio.current_time() - refused.since < SETTLED_S:
                    return False
                return await self._hold(Stage.LOGIN)
            if refused.stage is Stage.NOTHING and await self._hold(Stage.ANONYMOUS):
                return True
            return self.login is not None and await self._hold(Stage.LOGIN)

    async def fresh(self, key: str | None = None) -> str | None:
        """The Authorization header for now. `key`: what it is for; told a second time with the
        same token, that one stopped working. Raises as `climb`.
        """
        async with self._lock:
            held, now = self.held, trio.current_time()
            again = key in self._handed and now - held.since >= SETTLED_S
            if held.stage is not Stage.NOTHING and (now >= held.until or again):
                await self._hold(held.stage)
            if key is not None:
                self._handed.add(key)
            return self.held.authorization

    async def _hold(self, stage: Stage) -> bool:
        """Get what a stage needs; False where there is no such thing."""
        challenge, login = self._challenge, self.login
        assert challenge is not None
        if stage is Stage.ANONYMOUS and challenge.realm is None:
            return False
        if stage is Stage.LOGIN and login is not None and login.bearer is not None:
            return self._take(stage, f"Bearer {login.bearer}", MAX_TOKEN_S)
        if challenge.realm is None:
            basic = None if login is None else login.basic
            return basic is not None and self._take(stage, f"Basic {basic}", MAX_TOKEN_S)
        reply = await self._token(challenge, login if stage is Stage.LOGIN else None)
        if reply is None:
            return False
        if reply.status in (400, 401, 403, 404):
            if stage is Stage.ANONYMOUS:
                return False
            raise Denied(
                f"{origin_of(challenge.realm)} does not accept the login for {self._registry} "
                f"(HTTP {reply.status})",
                hint=login_hint(self._registry, login),
            )
        token, lasts_s = _parsed(reply, origin_of(challenge.realm))
        return self._take(stage, f"Bearer {token}", lasts_s)

    def _take(self, stage: Stage, authorization: str, lasts_s: float) -> bool:
        now = trio.current_time()
        self.held = Held(stage, authorization, now, now + lasts_s * (1 - MARGIN))
        self._handed.clear()
        return True

    async def _token(self, challenge: Challenge, login: RegistryLogin | None) -> TokenReply | None:
        assert challenge.realm is not None
        if login is None:
            return await self._ask(challenge.token_url(self._scopes), None, None)
        if login.ollama_key is not None:
            if not may_see_key(challenge.realm, self._registry):
                raise self._stranger(challenge.realm)
            nonce = base64.urlsafe_b64encode(os.urandom(16)).decode().rstrip("=")
            url = challenge.token_url(self._scopes, ts=str(int(time.time())), nonce=nonce)
            return await self._ask(url, signed(url, login.ollama_key), None)
        if login.basic is None and login.identity is None:
            return None
        if not may_see_login(challenge.realm, self._registry, self._trusted):
            raise self._stranger(challenge.realm)
        if login.identity is not None:
            form = {
                "grant_type": "refresh_token",
                "client_id": "p2pcache",
                "service": challenge.service or "",
                "scope": " ".join(self._scopes),
                "refresh_token": login.identity,
            }
            return await self._ask(challenge.realm, None, form)
        return await self._ask(challenge.token_url(self._scopes), f"Basic {login.basic}", None)

    def _stranger(self, realm: str) -> Untrusted:
        host = urlsplit(realm).hostname or ""
        return Untrusted(
            f"{self._registry} wants its login sent to {origin_of(realm)}, which is not its own",
            hint=f"if that is right, add `{host}` to the setting `oci.realms`",
        )


def login_hint(registry: str, login: RegistryLogin | None) -> str:
    """What a user does about a refused login, or a missing one."""
    if login is not None and login.ollama_key is not None:
        return "add this machine's Ollama key (~/.ollama/id_ed25519.pub) to your account there"
    return f"run `docker login {urlsplit(registry).netloc}`, then try again"


def _parsed(reply: TokenReply, who: str) -> tuple[str, float]:
    """The token and the seconds that it is good for."""
    try:
        said = json.loads(reply.body) if reply.status == 200 else None
    except (ValueError, RecursionError):
        said = None
    said = said if isinstance(said, dict) else {}
    token = said.get("token") or said.get("access_token")
    if not isinstance(token, str) or not (token.isascii() and token.isprintable() and token):
        raise Untrusted(f"{who} was asked for a token and gives none (HTTP {reply.status})")
    lasts_s = said.get("expires_in")
    if not isinstance(lasts_s, int | float) or not lasts_s > 0:
        return token, TOKEN_S
    return token, min(float(lasts_s), MAX_TOKEN_S)
