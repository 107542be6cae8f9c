"""Which of the admin's grants count now: one can be taken back by a later word of the admin.

A grant is a signed statement that travels, and nobody can make it unsaid. What takes it back is a
statement of the same form about `revoked <repo>`: that every grant of this repository to this peer
which ends by its `expires_at` is void. It travels, is kept and is forgotten as grants are, also by
agents that do not know it; when it ends, so has all that it speaks of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from p2pcache.content.peerid import PeerId
    from p2pcache.content.signed import Grant

_REVOKED = "revoked "  # no canonical ref has a space


def revoked(repo: str) -> str:
    """What a statement is about that takes grants of `repo` back."""
    return _REVOKED + repo


def of_admin(grants: Iterable[Grant], admin: PeerId | None) -> list[tuple[Grant, bool]]:
    """The grants that the network's admin signed, and whether each stands (was not taken back)."""
    said = [one for one in grants if admin is not None and one.signer == admin]
    void = {(one.repo, one.peer): one.expires_at for one in said if one.repo.startswith(_REVOKED)}
    return [
        (one, one.expires_at > void.get((revoked(one.repo), one.peer), 0.0))
        for one in said
        if not one.repo.startswith(_REVOKED)
    ]


def standing(grants: Iterable[Grant], admin: PeerId | None) -> list[Grant]:
    """Those that count."""
    return [one for one, stands in of_admin(grants, admin) if stands]


def revoked_until(grants: Iterable[Grant], admin: PeerId, repo: str, peer: PeerId) -> float:
    """When the last grant ends that was taken back; a new one has to end later. 0.0: none was."""
    said = [
        one.expires_at
        for one in grants
        if (one.signer, one.repo, one.peer) == (admin, revoked(repo), peer)
    ]
    return max(said, default=0.0)


def covers(repo: str, canonical: str) -> bool:
    """Whether a grant of `hf://org/name` is for a ref such as `hf://org/name@main/file`."""
    return canonical == repo or canonical.startswith((f"{repo}@", f"{repo}/"))
