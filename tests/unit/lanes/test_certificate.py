"""The ephemeral certificate of an agent's lanes."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from p2pcache.lanes.certificate import (
    MAX_CERTIFICATE_BYTES,
    fingerprint,
    load_into,
    make_certificate,
)


def test_each_is_another_under_a_name_of_its_own() -> None:
    first, second = make_certificate(), make_certificate()
    assert first.fingerprint != second.fingerprint
    names = {x509.load_der_x509_certificate(each.der).subject for each in (first, second)}
    assert len(names) == 2  # OpenSSL looks trusted ones up by name


def test_it_fits_a_hello_and_is_good_for_both_ends_at_any_date() -> None:
    made = make_certificate()
    assert len(made.der) < MAX_CERTIFICATE_BYTES / 4
    parsed = x509.load_der_x509_certificate(made.der)
    usage = parsed.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usage) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert parsed.not_valid_before_utc < datetime(2001, 1, 1, tzinfo=UTC)
    assert parsed.not_valid_after_utc.year == 9999


def test_its_key_is_never_shown() -> None:
    made = make_certificate()
    assert b"PRIVATE KEY" in made.key_pem
    assert "PRIVATE" not in repr(made)


def test_openssl_takes_it_from_memory() -> None:
    made = make_certificate()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_into(context, made.pem, made.key_pem)
    assert fingerprint(ssl.PEM_cert_to_DER_cert(made.pem.decode())) == made.fingerprint
