"""A private certificate authority and a certificate for 127.0.0.1 and localhost, by openssl."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class ServerCert:
    ca_file: Path
    cert_file: Path
    key_file: Path


def make_server_cert(folder: Path) -> ServerCert:
    """Made once in a folder; used again when it is there already."""
    folder.mkdir(parents=True, exist_ok=True)
    made = ServerCert(folder / "ca.pem", folder / "server.pem", folder / "server.key")
    if made.cert_file.exists():
        return made
    ca_key = folder / "ca.key"
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    _openssl(
        "req", "-x509", *curve, "-keyout", ca_key, "-out", made.ca_file, "-days", "30",
        "-subj", "/CN=test authority", "-addext", "basicConstraints=critical,CA:TRUE",
        "-addext", "keyUsage=critical,keyCertSign",
    )  # fmt: skip
    request = folder / "server.csr"
    _openssl("req", *curve, "-keyout", made.key_file, "-out", request, "-subj", "/CN=localhost")
    extensions = folder / "extensions"
    extensions.write_text(
        "subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth\n"
        "authorityKeyIdentifier=keyid\n"
    )
    _openssl(
        "x509", "-req", "-in", request, "-CA", made.ca_file, "-CAkey", ca_key, "-CAcreateserial",
        "-days", "30", "-extfile", extensions, "-out", made.cert_file,
    )  # fmt: skip
    return made


def _openssl(*argv: str | Path) -> None:
    subprocess.run(["openssl", *map(str, argv)], check=True, capture_output=True)
