"""Whom we trust to name servers, and how to tell distrust from a server that is away."""

from __future__ import annotations

import ssl

from p2pcache.errors import LocalFault, Untrusted

_MAX_CAUSES = 16  # httpx > httpcore > trio > ssl is 4 deep


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
    cause: BaseException | None = exc
    for _ in range(_MAX_CAUSES):
        if cause is None:
            return None
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Untrusted(
                f"the certificate of {who} does not verify: {cause.verify_message}",
                hint="name the authority's file with SSL_CERT_FILE or the `ca_file` setting",
            )
        cause = cause.__cause__ or cause.__context__
    return None
