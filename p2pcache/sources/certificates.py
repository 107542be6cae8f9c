"""Tell a certificate that does not verify from a server that cannot be reached."""

from __future__ import annotations

import ssl

from p2pcache.errors import Untrusted

_MAX_CAUSES = 16  # httpx > httpcore > trio > ssl is 4 deep


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
