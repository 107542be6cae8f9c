"""Tokens for Google Cloud Storage, by google-auth, in a worker process.

In this order: the caller's token; the caller's account (GOOGLE_APPLICATION_CREDENTIALS); what
google-auth finds where the agent runs (a file, gcloud's login, the machine's account, workload
identity). The agent's own login goes to the configured endpoint alone, whatever a caller names.
"""

from __future__ import annotations

import datetime
import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from p2pcache.errors import Denied, P2PCacheError, Unavailable, UsageError
from p2pcache.sources.gcs.options import PUBLIC_GCS, GcsOptions
from p2pcache.sources.rest import Answer, Rest, missing_library
from p2pcache.sources.tokens import Token

if TYPE_CHECKING:
    from collections.abc import Mapping

    from p2pcache.sources.port import GcsLogin

READ = "https://www.googleapis.com/auth/devstorage.read_only"
WRITE = "https://www.googleapis.com/auth/devstorage.read_write"
HELP = (
    "set GOOGLE_APPLICATION_CREDENTIALS to the file of a service account, or run "
    "`gcloud auth application-default login` where the agent runs (p2pcache[gcs] is needed)"
)
_KINDS = ("service_account", "authorized_user")


@dataclass(frozen=True, slots=True)
class GcsRequest:
    """One question about a bucket. `key`, `generation`, `folder`: as in `content.cloud_refs`.

    `scope`: what the token is to allow.
    """

    bucket: str
    options: GcsOptions
    login: GcsLogin | None = field(repr=False)
    key: str | None = None
    generation: str | None = None
    folder: bool = False
    scope: str = READ

    @property
    def endpoint(self) -> str:
        """Who is asked: the caller's server, else the configured one."""
        said = None if self.login is None else self.login.endpoint_url
        return said or self.options.endpoint


def token_gcs(request: GcsRequest) -> Token | None:
    """What a request carries; None where there is no login. Raises Denied, Unavailable, Untrusted,
    UsageError, LocalFault.
    """
    login = request.login
    if request.options.anonymous:
        return None
    if login is not None and login.token is not None:
        return Token(login.token)
    if login is not None and login.account is not None:
        return _fresh(_account(login.account, request.scope), request)
    if request.endpoint not in (request.options.endpoint, PUBLIC_GCS):
        return None
    found = _found(request.scope)
    return None if found is None else _fresh(found, request)


def _account(text: str, scope: str) -> Any:  # noqa: ANN401
    """What a caller brings: only kinds that neither run a program nor read other files."""
    try:
        from google.oauth2 import credentials, service_account
    except ImportError as exc:
        raise missing_library("a login at Google", "google-auth", "gcs") from exc
    try:
        plain = json.loads(text)
        kind = plain.get("type")
        if kind == "service_account":
            return service_account.Credentials.from_service_account_info(plain, scopes=[scope])
        if kind == "authorized_user":
            return credentials.Credentials.from_authorized_user_info(plain, scopes=None)
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
        kind = None
    raise UsageError(
        "GOOGLE_APPLICATION_CREDENTIALS holds no login that can be used",
        hint=f"it is the JSON of a kind {' or '.join(_KINDS)}; others work where the agent runs",
    ) from None  # the cause quotes what it could not read


def _found(scope: str) -> Any:  # noqa: ANN401
    """The agent's own login, if there is one; without the library there is none."""
    try:
        import google.auth
        from google.auth import exceptions
    except ImportError:
        return None
    try:
        return google.auth.default(scopes=[scope])[0]
    except exceptions.GoogleAuthError:
        return None


def _fresh(credentials: Any, request: GcsRequest) -> Token:  # noqa: ANN401
    from google.auth import exceptions

    with Rest("Google's login server", request.options.rest) as rest:
        try:
            credentials.refresh(_Transport(rest))
        except P2PCacheError:
            raise
        except exceptions.GoogleAuthError as exc:
            if getattr(exc, "retryable", False):
                raise Unavailable("Google's login server has a fault") from exc
            raise Denied("Google does not accept the login", hint=HELP) from None
        except (ValueError, TypeError, KeyError, AttributeError) as exc:
            raise Denied("Google's login server does not answer like one", hint=HELP) from exc
    if not isinstance(credentials.token, str):
        raise Denied("Google gives no token for the login", hint=HELP)
    expiry = credentials.expiry  # in UTC, without saying so
    until = math.inf if expiry is None else expiry.replace(tzinfo=datetime.UTC).timestamp()
    return Token(credentials.token, until)


class _Transport:
    """What google-auth sends its requests with."""

    def __init__(self, rest: Rest) -> None:
        self._rest = rest

    def __call__(
        self,
        url: str,
        method: str = "GET",
        body: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        **_: object,
    ) -> _Response:
        data = body.encode() if isinstance(body, str) else body
        return _Response(self._rest.ask(method, url, headers or {}, data))


class _Response:
    def __init__(self, answer: Answer) -> None:
        self.status = answer.status
        self.headers = answer.headers
        self.data = answer.body
