"""The certificate of an agent's lanes: self-signed, made when the agent starts, pinned by readers.

Its fingerprint (and the whole of it, for the server that has to trust a reader) travels over the
authenticated sync stream; no authority, name or date says who it belongs to. It is both a server's
and a client's: an agent is one party, whoever calls whom.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import ssl
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_CERTIFICATE_BYTES = 4096  # DER, of others; ours have about 370

# RFC 5280 4.1.2.5: "no well-defined expiration". Dates say nothing here (the pin does), so that a
# machine whose clock is years off can still read.
_NOT_BEFORE = datetime(2000, 1, 1, tzinfo=UTC)
_NOT_AFTER = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Certificate:
    """`der` is public; `key_pem` (PKCS #8, not encrypted) never leaves this machine."""

    der: bytes
    key_pem: bytes = field(repr=False)

    @property
    def fingerprint(self) -> bytes:
        """What readers pin."""
        return fingerprint(self.der)

    @property
    def pem(self) -> bytes:
        """The certificate as text, for OpenSSL."""
        return ssl.DER_cert_to_PEM_cert(self.der).encode()


def fingerprint(der: bytes) -> bytes:
    """sha2-256 of a DER certificate (32 bytes)."""
    return hashlib.sha256(der).digest()


def make_certificate() -> Certificate:
    """A new key and its certificate: ECDSA P-256, about a millisecond."""
    from cryptography import x509  # 50 ms; the byte server and the workers never need it
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    # OpenSSL looks trusted certificates up by subject: a name of its own keeps that one lookup.
    text = "p2pcache " + secrets.token_hex(8)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_NOT_BEFORE)
        .not_valid_after(_NOT_AFTER)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage(both), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Certificate(
        certificate.public_bytes(serialization.Encoding.DER),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )


def load_into(context: ssl.SSLContext, certificate_pem: bytes, key_pem: bytes) -> None:
    """Give a context its own certificate. `ssl` reads files only: one without a name, in memory."""
    with _nameless_file(certificate_pem + key_pem) as path:
        context.load_cert_chain(path)


@contextmanager
def _nameless_file(data: bytes) -> Iterator[str]:
    if hasattr(os, "memfd_create"):
        with open(os.memfd_create("certificate"), "wb") as file:
            file.write(data)
            file.flush()
            yield f"/proc/self/fd/{file.fileno()}"
    else:
        with tempfile.NamedTemporaryFile() as named:  # mode 0600
            named.write(data)
            named.flush()
            yield named.name
