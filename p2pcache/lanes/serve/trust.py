"""The TLS context of a byte server, and the certificates of the readers it lets in.

OpenSSL refuses unknown certificates in the handshake (CERT_REQUIRED, each known certificate an
anchor of its own by PARTIAL_CHAIN; facts/libp2p.md 7b). Its store cannot forget one, so a
certificate that is trusted no more is refused here too, and left out of a new context.
"""

from __future__ import annotations

import ssl
import threading
from typing import TYPE_CHECKING

from p2pcache.lanes.certificate import MAX_CERTIFICATE_BYTES, fingerprint, load_into

if TYPE_CHECKING:
    from collections.abc import Iterable


class Trust:
    """Who may shake hands. Any thread may call."""

    def __init__(self, certificate_pem: bytes, key_pem: bytes) -> None:
        self._own = certificate_pem, key_pem
        self._lock = threading.Lock()
        self._trusted: dict[bytes, bytes] = {}  # fingerprint -> DER
        self._context = self._new_context()

    @property
    def context(self) -> ssl.SSLContext:
        """For the next handshake."""
        return self._context

    def _new_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.num_tickets = 0  # a resumed session would skip the certificate; lanes live long
        # Python's own 3.11 builds differ in this (see lanes/tls): a cut is not a clean end
        context.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", ssl.Options(0))
        load_into(context, *self._own)
        for der in self._trusted.values():
            context.load_verify_locations(cadata=der)
        return context

    def add(self, certificates: Iterable[bytes]) -> None:
        """Let the holders of these certificates (DER) in. Raises ValueError for what is none."""
        with self._lock:
            for der in certificates:
                if len(der) > MAX_CERTIFICATE_BYTES:
                    raise ValueError("a certificate that is too long")
                try:
                    self._context.load_verify_locations(cadata=der)
                except ssl.SSLError as exc:
                    raise ValueError("not a certificate") from exc
                self._trusted[fingerprint(der)] = der

    def remove(self, fingerprints: Iterable[bytes]) -> None:
        """From the next handshake on, and for requests on connections that stand."""
        with self._lock:
            for each in fingerprints:
                self._trusted.pop(each, None)
            self._context = self._new_context()

    def is_trusted(self, fingerprint: bytes) -> bool:
        """Whether it was added and not removed."""
        return fingerprint in self._trusted
