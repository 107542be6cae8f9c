"""What a hub's refusals mean to us: the one table (HOUSE R4).

| the hub says                                           | ours        | who acts
|--------------------------------------------------------|-------------|-----------------------------
| X-Error-Code GatedRepo                                 | Denied      | the user accepts a licence
| 401 with a token, and no X-Error-Code                  | Denied      | the user renews the token
| 403, 451, "Access to this resource is disabled."       | Denied      | the user asks the owner
| X-Error-Code RepoNotFound, 401 without a token, 404    | NotFound    | the user checks name, login
| X-Error-Code RevisionNotFound, EntryNotFound           | NotFound    | the user checks the name
| 400, an id that the library refuses                    | UsageError  | the user checks the name
| 408, 425, 429, 5xx, no connection, timeout, offline    | Unavailable | nobody: try again
| bad certificate, redirect loop, bad JSON, wrong fields | Untrusted   | drop this endpoint

The Hub hides private repositories: without a token it answers 401 for missing and private alike,
with a token 404 for missing and not allowed alike. Then the error is NotFound and says both.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from p2pcache.content.refs import DEFAULT_REVISION
from p2pcache.errors import (
    Denied,
    NotFound,
    P2PCacheError,
    Unavailable,
    Untrusted,
    UsageError,
)
from p2pcache.sources import headers
from p2pcache.sources.certificates import distrust, reason

if TYPE_CHECKING:
    from collections.abc import Iterator

    from p2pcache.sources.hf_guard import Reply
    from p2pcache.sources.hf_listing import HfListRequest

MAX_SAID_CHARS = 300  # of the hub's own words, in our message

_NO_NETWORK = (
    "check the network and the proxy settings; HF_ENDPOINT names a mirror, and --offline uses "
    "what is here"
)
_TRY_AGAIN = frozenset({408, 425, 429})  # and 5xx


def refuse_status(response: Reply, request: HfListRequest) -> None:
    """Raise Unavailable for a status that only time cures, before the library starts to sleep."""
    status = response.status_code
    if status not in _TRY_AGAIN and status < 500:
        return
    wait_s = headers.retry_after_s(
        response.headers.get("retry-after"),
        response.headers.get("ratelimit"),
        now_unix_s=time.time(),
    )
    what = "limits our requests" if status == 429 else "has a fault"
    raise Unavailable(f"{request.endpoint} {what} (HTTP {status})", retry_after_s=wait_s)


@contextlib.contextmanager
def as_ours(request: HfListRequest) -> Iterator[None]:
    """Translate whatever the library raises, once, at this edge."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    # The base classes are those of the HTTP library (httpx in 1.x, httpx2 in 2.x) and OSError.
    transport_errors: tuple[type[Exception], ...] = HfHubHTTPError.__bases__
    try:
        yield
    except P2PCacheError:
        raise
    except HfHubHTTPError as exc:
        raise _of_response(exc.response, request) from exc
    except HFValidationError as exc:
        raise UsageError(f"not a repository id: {request.repo_id!r}", hint=_short(exc)) from exc
    except OfflineModeIsEnabled as exc:
        raise Unavailable(
            f"HF_HUB_OFFLINE is set: {request.endpoint} was not asked",
            hint="unset HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE where the agent runs",
        ) from exc
    except transport_errors as exc:
        raise _of_transport(exc, request) from exc
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
        # the library parses replies without checking them; nothing else runs in this block
        raise Untrusted(
            f"{request.endpoint} does not answer like a Hugging Face Hub ({type(exc).__name__})",
            hint="check HF_ENDPOINT",
        ) from exc


def _of_response(response: Reply, request: HfListRequest) -> P2PCacheError:
    status, code = response.status_code, response.headers.get("x-error-code")
    said = (response.headers.get("x-error-message") or "")[:MAX_SAID_CHARS]
    name = f"{request.repo_type} {request.repo_id!r}"
    match code:
        case "GatedRepo":
            return _gated(name, request)
        case "RevisionNotFound":
            return NotFound(
                f"{name} has no revision {request.revision!r}",
                hint=f"see its branches and tags at {request.url}",
            )
        case "EntryNotFound":
            return NotFound(f"{name} has no {request.path!r} at {request.revision!r}")
        case "RepoNotFound":
            return _hidden(name, request)
    if said == "Access to this resource is disabled.":
        return Denied(f"{name} was disabled by its owner or by {request.endpoint}")
    if status == 401 and request.token is not None:
        return Denied(
            f"{request.endpoint} did not accept the token" + (f": {said}" if said else ""),
            hint="renew it (`hf auth login`) or unset HF_TOKEN to go without",
        )
    if status in (401, 404):
        return _hidden(name, request)
    if status in (403, 407, 451):
        return Denied(
            f"{request.endpoint} does not allow access to {name}" + (f": {said}" if said else ""),
            hint="the token may lack the permission to read this repository",
        )
    if status == 400:
        return UsageError(f"{request.endpoint} does not understand {name}: {said}")
    return Untrusted(f"{request.endpoint} answers HTTP {status} to a listing of {name}")


def _gated(name: str, request: HfListRequest) -> Denied:
    if request.token is None:
        return Denied(
            f"{name} is gated, and no token was given",
            hint=f"accept the licence at <{request.url}>, then set HF_TOKEN or run `hf auth login`",
        )
    return Denied(
        f"{name} is gated, and this token's account has no access yet",
        hint=f"accept the licence or ask for access at <{request.url}>, then try again",
    )


def _hidden(name: str, request: HfListRequest) -> NotFound:
    """Missing or private: the hub does not say which."""
    suspects = "check the name"
    if request.revision != DEFAULT_REVISION:
        suspects += f" and the revision {request.revision!r}"
    if request.token is None:
        return NotFound(
            f"{request.endpoint} has no public {name} at {request.revision!r}",
            hint=f"{suspects}; if it is private, set HF_TOKEN or run `hf auth login`",
            hidden=True,
        )
    return NotFound(
        f"{request.endpoint} has no {name} at {request.revision!r} that this token may see",
        hint=f"{suspects}; if it is private, ask its owner for access",
        hidden=True,
    )


def _of_transport(exc: BaseException, request: HfListRequest) -> P2PCacheError:
    """No response: by the class name, as two HTTP libraries have the same names."""
    if (untrusted := distrust(exc, request.endpoint)) is not None:
        return untrusted
    match type(exc).__name__:
        case "TooManyRedirects":
            return Untrusted(f"{request.endpoint} redirects in a loop")
        case "RemoteProtocolError" | "DecodingError":
            return Unavailable(f"{request.endpoint} broke off its reply: {_short(exc)}")
        case kind if kind.endswith("Timeout"):
            return Unavailable(
                f"{request.endpoint} was silent for {request.request_timeout_s:g} s",
                hint=_NO_NETWORK,
            )
    return Unavailable(f"{request.endpoint} cannot be reached: {reason(exc)}", hint=_NO_NETWORK)


def _short(exc: BaseException) -> str:
    return (str(exc) or type(exc).__name__)[:MAX_SAID_CHARS]
