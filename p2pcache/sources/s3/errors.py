"""What refusals of S3 and of boto3 mean to us: the one table (HOUSE R4).

| S3 or boto3 says                                        | ours        | who acts
|---------------------------------------------------------|-------------|---------------------------
| NoSuchBucket, NoSuchKey, NoSuchVersion, 404, 410        | NotFound    | the user checks the name
| InvalidAccessKeyId, SignatureDoesNotMatch, InvalidToken | Denied      | the user mends the login
| ExpiredToken, RequestExpired, an SSO session that ended | Denied      | the user logs in again
| AccessDenied, any other 401, 403, 407, 451              | Denied      | the user asks the owner
| InvalidObjectState (archived)                           | Denied      | the user restores it
| RequestTimeTooSkewed                                    | LocalFault  | the user sets the clock
| no such profile, half a login, no boto3                 | LocalFault  | the user mends the set-up
| another region, and not found by itself                 | UsageError  | the user sets the region
| InvalidBucketName, KeyTooLong, 400, 501                 | UsageError  | the user checks the ref
| QuotaExceeded, storage full, 507                        | Denied      | the bucket's owner
| BadDigest, NoSuchUpload                                 | Unavailable | nobody: it is sent again
| SlowDown, RequestTimeout, 408, 425, 429, 5xx            | Unavailable | nobody: try again
| no connection, timeout, a reply that is cut             | Unavailable | nobody: try again
| bad certificate, what is no S3, too long a reply        | Untrusted   | drop this endpoint

HEAD has no body, so its refusals have a status and no code; then `listing` asks for a list, whose
refusal says why.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from p2pcache.content.s3_refs import STORES
from p2pcache.errors import (
    Denied,
    LocalFault,
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

    from botocore.exceptions import ClientError

MAX_CODE_CHARS = 64
NO_BOTO3 = "pip install 'p2pcache[s3]', where the agent's Python is"
CHECK_LOGIN = (
    "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the profile; "
    "`s3.anonymous = on` goes without"
)
SET_LOGIN = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE or `s3.profile`"

NO_NETWORK = (
    "check the endpoint (`s3.endpoint`, AWS_ENDPOINT_URL), the network and the proxy settings; "
    "--offline uses what is here"
)
_NO_STORE = (  # of a ref that tells its store
    "check the ref, its line in `s3.buckets` if it has one, the network and the proxy settings; "
    "--offline uses what is here"
)
_MISSING = frozenset({"NoSuchKey", "NoSuchVersion", "404", "410"})
_WRONG_LOGIN = frozenset(
    {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "InvalidTokenId"}
)
_OVER = frozenset(
    {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"}
)
_REGION = frozenset({"PermanentRedirect", "AuthorizationHeaderMalformed", "301", "307"})
_BUSY = frozenset({"SlowDown", "RequestTimeout", "RequestLimitExceeded", "Throttling"})
_BUSY_STATUS = frozenset({408, 425, 429})
_FULL = frozenset(
    {"QuotaExceeded", "XMinioAdminBucketQuotaExceeded", "XMinioStorageFull", "InsufficientStorage"}
)
_DAMAGED = frozenset({"BadDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch"})


@contextlib.contextmanager
def as_ours(name: str, endpoint: str, *, signed: bool = True) -> Iterator[None]:
    """Translate whatever boto3 raises, once, at this edge. `name`: what was asked for."""
    try:
        from botocore import exceptions as theirs
    except ImportError as exc:
        raise LocalFault("S3 needs boto3, which is not installed", hint=NO_BOTO3) from exc
    try:
        yield
    except P2PCacheError:
        raise
    except theirs.ClientError as exc:
        raise of_answer(exc, name, endpoint, signed=signed) from exc
    except theirs.BotoCoreError as exc:
        raise _of_library(exc, name, endpoint) from exc
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
        # the library parses replies without checking them; nothing else runs in this block
        raise Untrusted(
            f"{endpoint} does not answer like S3 ({type(exc).__name__})", hint="check the endpoint"
        ) from exc


def code_of(exc: ClientError) -> str:
    """S3's word for an error, or the status as text where there was no body."""
    return str(exc.response.get("Error", {}).get("Code", ""))[:MAX_CODE_CHARS]


def status_of(exc: ClientError) -> int:
    """The HTTP status of an error; 0 where there was none."""
    status = exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return status if isinstance(status, int) else 0


def of_answer(exc: ClientError, name: str, endpoint: str, *, signed: bool) -> P2PCacheError:
    """The error for a refusal that has a status."""
    return of_refusal(
        Refusal(status_of(exc), code_of(exc), headers_of(exc)), name, endpoint, signed=signed
    )


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer of S3 that is no yes. `code`: its word for it; `headers`: in lower case."""

    status: int
    code: str
    headers: dict[str, str]


def of_refusal(told: Refusal, name: str, endpoint: str, *, signed: bool) -> P2PCacheError:
    """The same for one that came without boto3."""
    code, status = told.code, told.status
    if code == "NoSuchBucket":
        return NotFound(f"{endpoint} has no such bucket: {name}", hint="check name and endpoint")
    if code == "NoSuchUpload":
        return Unavailable(f"the upload of {name} was ended from elsewhere")
    if code in _MISSING or status in (404, 410):
        return NotFound(f"{endpoint} has no {name}", hint="check the key, and whether it is there")
    if code == "RequestTimeTooSkewed":
        return LocalFault(
            f"{endpoint} says that this machine's clock is wrong (RequestTimeTooSkewed)",
            hint="set the clock (`timedatectl set-ntp true`); signatures hold for some minutes",
        )
    if code in _FULL or status == 507:
        return Denied(
            f"{endpoint} has no room for {name} ({code or 'HTTP 507'})",
            hint="its owner has to free some, or to raise the quota; then push it again",
        )
    if code in _DAMAGED:
        return Unavailable(f"{endpoint} got other bytes of {name} than were sent ({code})")
    if code == "NotImplemented" or status == 501:
        return UsageError(f"{endpoint} cannot do what {name} asks for (NotImplemented)")
    if code in _BUSY or status in _BUSY_STATUS or status >= 500:
        return _busy(told, name, endpoint)
    if code in _REGION or status in (301, 307):
        region = told.headers.get("x-amz-bucket-region", "")[:40]
        return UsageError(
            f"{name} is in another region" + (f": {region}" if region.isascii() else ""),
            hint="set it: `s3.region`, or `region=` of the bucket in `s3.buckets`",
        )
    if code == "PreconditionFailed" or status == 412:
        return Untrusted(f"{name} changed while it was listed", hint="run it again")
    if status in (401, 403, 407, 451) or code in _WRONG_LOGIN | _OVER:
        return _denied(code, status, name, endpoint, signed=signed)
    if 400 <= status < 500:
        return UsageError(f"{endpoint} does not understand {name} ({code or status})")
    return Untrusted(f"{endpoint} answers HTTP {status} for {name}", hint="check the endpoint")


def headers_of(exc: ClientError) -> dict[str, str]:
    """Its answer's headers, in lower case."""
    found: Any = exc.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return {str(name).lower(): str(value) for name, value in dict(found).items()}


def _busy(told: Refusal, name: str, endpoint: str) -> Unavailable:
    status, code = told.status, told.code
    wait_s = headers.retry_after_s(told.headers.get("retry-after"), None, now_unix_s=time.time())
    limits = status in (429, 503) or code in _BUSY
    what = "limits our requests" if limits else "has a fault"
    said = f"HTTP {status}" + (f", {code}" if code and code != str(status) else "")
    return Unavailable(f"{endpoint} {what} for {name} ({said})", retry_after_s=wait_s)


def _denied(code: str, status: int, name: str, endpoint: str, *, signed: bool) -> Denied:
    said = f"({code})" if code and not code.isdigit() else f"(HTTP {status})"
    if code in _WRONG_LOGIN:
        return Denied(
            f"{endpoint} does not accept the login {said}",
            hint=CHECK_LOGIN,
        )
    if code in _OVER:
        return Denied(f"the login for {endpoint} has expired {said}", hint="log in again")
    if code == "InvalidObjectState":
        return Denied(f"{name} is archived {said}", hint="restore it, then run it again")
    if status == 407:
        return Denied("the proxy wants a login (HTTP 407)", hint="write it into HTTPS_PROXY")
    if not signed:
        return Denied(
            f"{endpoint} does not give out {name} without a login {said}",
            hint=SET_LOGIN,
        )
    return Denied(
        f"{endpoint} does not allow access to {name} {said}",
        hint="this login lacks the right (to read: s3:GetObject, s3:ListBucket; to push also "
        "s3:PutObject), or the requester has to pay (`s3.requester_pays`)",
    )


def _of_library(exc: Exception, name: str, endpoint: str) -> P2PCacheError:
    """No answer: by the class name, as boto3 has one for each way."""
    no_network = _NO_STORE if name.partition(":")[0] in STORES else NO_NETWORK
    if (untrusted := distrust(exc, endpoint)) is not None:
        return untrusted
    said = reason(exc)
    match type(exc).__name__:
        case "ProfileNotFound":
            return LocalFault(f"boto3: {said}", hint="see ~/.aws/config and `s3.profile`")
        case "PartialCredentialsError" | "ConfigParseError" | "ConfigNotFound":
            return LocalFault(f"boto3: {said}", hint="a login has two parts; see ~/.aws")
        case "NoCredentialsError" | "CredentialRetrievalError" | "MetadataRetrievalError":
            return Denied("no login for S3 could be had", hint=f"boto3: {said}")
        case name if "SSO" in name or "Token" in name or "Login" in name:
            return Denied("the login for S3 has ended", hint="`aws sso login`, then run it again")
        case "ParamValidationError" | "InvalidRegionError" | "UnsupportedS3ConfigurationError":
            return UsageError(f"boto3 refuses the request: {said}")
        case "ResponseParserError":
            return Untrusted(f"{endpoint} does not answer like S3", hint="check the endpoint")
        case "ConnectTimeoutError" | "ReadTimeoutError":
            return Unavailable(f"{endpoint} is silent", hint=no_network)
    return Unavailable(f"{endpoint} cannot be reached: {said}", hint=no_network)
