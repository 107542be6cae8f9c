"""How a reader addresses a byte server: what its answers to a ticket become in orders."""

from __future__ import annotations

from dataclasses import dataclass, field

from p2pcache.lanes.orders import Location, Tls


@dataclass(frozen=True, slots=True)
class Reach:
    """One host of a lane (an IP address or a name), the ticket for one scope, and the pin.

    `fingerprint` None: a plain lane. Else `cert_path` and `key_path` are the PEM files of the
    reader's own certificate, whose fingerprint the ticket is bound to.
    """

    host: str
    port: int
    token: str = field(repr=False)
    fingerprint: bytes | None = None
    cert_path: str | None = None
    key_path: str | None = None

    def blob(self, name: bytes) -> Location:
        """Where a `FetchOrder` reads the blob of that name (binary, at most 64 bytes)."""
        return self._at(f"/blob/{name.hex()}")

    def bundle(self) -> Location:
        """Where a `BundleOrder` asks."""
        return self._at("/bundle")

    def _at(self, path: str) -> Location:
        host = f"[{self.host}]" if ":" in self.host else self.host
        headers = (("Authorization", f"Ticket {self.token}"),)
        if self.fingerprint is None:
            return Location(f"http://{host}:{self.port}{path}", headers, direct=True)
        pinned = Tls(
            pin_sha256=self.fingerprint.hex(), client_cert=self.cert_path, client_key=self.key_path
        )
        return Location(f"https://{host}:{self.port}{path}", headers, pinned, direct=True)
