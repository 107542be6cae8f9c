"""Whom we trust to name servers, and why a connection failed: distrust, no TLS, no server."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from p2pcache.errors import LocalFault, Untrusted

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAX_CAUSES = 16  # httpx > httpcore > trio > ssl is 4 deep
_MAX_SAID_CHARS = 300


def trusting(ca_file: str) -> ssl.SSLContext:
    """A client context that trusts the authorities of a file alone.

    Raises LocalFault when there are none to be read: our own setting, and no origin's fault.
    """
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as exc:  # ssl.SSLError is one
        why = "it holds no certificate" if isinstance(exc, ssl.SSLError) else exc.strerror
        raise LocalFault(
            f"cannot read the certificate authorities in {ca_file}: {why}",
            hint="set `tls.ca_file` to a PEM file, or unset it to trust the public authorities",
        ) from exc


def distrust(exc: BaseException, who: str) -> Untrusted | None:
    """Untrusted if a certificate was the reason for `exc`, however deep; else None.

    HTTP libraries wrap the reason differently (httpx on trio leaves even the message empty), so
    the chain of causes is searched for ssl's own error.
    """
    for cause in _causes(exc):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Untrusted(
                f"the certificate of {who} does not verify: {cause.verify_message}",
                hint="name the authority's file with SSL_CERT_FILE or the `ca_file` setting",
            )
    return None


def reason(exc: BaseException) -> str:
    """What the innermost library said that says anything; httpx often leaves its own word empty."""
    said = ""
    for cause in _causes(exc):
        if isinstance(cause, ssl.SSLError):
            plain = cause.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST")
            return "it does not speak TLS (https) there" if plain else f"TLS: {cause.reason}"
        if isinstance(cause, OSError) and cause.strerror:
            said = cause.strerror
        said = said or str(cause)
    return (said or type(exc).__name__)[:_MAX_SAID_CHARS]


def _causes(exc: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = exc
    for _ in range(_MAX_CAUSES):
        if cause is None:
            return
        yield cause
        cause = cause.__cause__ or cause.__context__
