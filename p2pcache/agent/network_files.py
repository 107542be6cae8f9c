"""Where the network's secrets and memories lie in an agent's home."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from p2pcache.content.peerid import PeerId, format_peer_id, parse_peer_id
from p2pcache.errors import LocalFault, UsageError

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Files:
    """Where the network's secrets lie in a home."""

    home: Path

    @property
    def identity(self) -> Path:
        """Our key."""
        return self.home / "identity.key"

    @property
    def public(self) -> Path:
        """Our key in the public IPFS network, which nobody can link with the other one."""
        return self.home / "public.key"

    @property
    def network(self) -> Path:
        """The key that all agents of the network share."""
        return self.home / "network.key"

    @property
    def admin(self) -> Path:
        """The peer id of the network's admin."""
        return self.home / "network.admin"

    @property
    def peers(self) -> Path:
        """Who was there last time."""
        return self.home / "peers.json"

    @property
    def port(self) -> Path:
        """The port of last time, so that invitations and others' memory stay good."""
        return self.home / "network.port"

    def read_port(self) -> int | None:
        """The port of last time; None when there is none, or nonsense."""
        try:
            port = int(self.port.read_text())
        except (OSError, ValueError):
            return None
        return port if 0 < port <= 65535 else None

    def read_admin(self) -> PeerId | None:
        """Whose grants count, if anybody's. Raises LocalFault."""
        try:
            return parse_peer_id(self.admin.read_text().strip())
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError, UsageError) as exc:
            raise LocalFault(
                f"`{self.admin}` does not hold a peer id",
                hint="it has one line, the admin's peer id (12D3KooW...), as in the home of any "
                "other member; restore it, or move it away (then no grant counts here), and "
                "start the agent anew",
            ) from exc

    def write_admin(self, admin: PeerId) -> None:
        """Remember the admin. Raises LocalFault."""
        try:
            self.admin.write_text(format_peer_id(admin) + "\n")
        except OSError as exc:
            raise LocalFault(f"`{self.admin}` cannot be written: {exc.strerror}") from exc
