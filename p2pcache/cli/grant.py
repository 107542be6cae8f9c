"""Share: who may read a gated repository from other agents."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from p2pcache.agent.localapi.client import connect
from p2pcache.cli.command import EXPIRY, Command, output_options, when
from p2pcache.errors import UsageError
from p2pcache.units import parse_expiry

if TYPE_CHECKING:
    from p2pcache.cli.output import Printer

USUAL = "30d"


@click.command(
    cls=Command,
    short_help="Let an agent read a gated repository.",
    example="p2pcache grant hf://org/gated 12D3KooW... --expires 30d",
    exits=(10, 11, 14),
)
@click.argument("repo", required=False)
@click.argument("peer", required=False)
@click.option("--expires", type=EXPIRY, metavar="TIME", help=f"How long it holds: {USUAL}.")
@click.option("--list", "listed", is_flag=True, help="Those that there are.")
@click.option("--revoke", is_flag=True, help="Take it back.")
@output_options
def grant(
    repo: str | None,
    peer: str | None,
    printer: Printer,
    expires: int | None,
    listed: bool,
    revoke: bool,
) -> None:
    """As the network's admin, let PEER read REPO from other agents without its own access.

    With --list show all grants, with --revoke take one back.
    """
    if (listed or revoke) and expires is not None:
        raise UsageError("--expires is for a new grant", hint="leave it out")
    if listed:
        if revoke or repo is not None:
            raise UsageError("--list shows all grants", hint="leave the rest out")
        _show_all(printer)
        return
    if not (repo or "").strip() or not (peer or "").strip():
        raise UsageError(
            "a grant is for a repository and an agent",
            hint="`p2pcache grant hf://org/name 12D3KooW...`; `p2pcache peers` shows the peer ids",
        )
    assert repo is not None
    assert peer is not None
    if revoke:
        _revoke(repo, peer, printer)
        return
    with connect() as agent:
        answer = agent.grant(repo, peer, expires_s=expires or parse_expiry(USUAL))
    printer.show("grant", answer, ())
    printer.note(f"{answer['peer']} may read {answer['repo']} until {when(answer['expires_at'])}")
    if not answer["connected"]:
        printer.note("no such agent is connected now: is it the right peer id?")


def _revoke(repo: str, peer: str, printer: Printer) -> None:
    with connect() as agent:
        answer = agent.revoke(repo, peer)
    printer.show("revoke", answer, ())
    printer.note(
        f"{answer['peer']} may read {answer['repo']} no more: agents that are connected know it "
        "now, the others when they come back; a ticket that it has holds up to an hour, and what "
        "it has read it keeps"
    )


def _show_all(printer: Printer) -> None:
    with connect() as agent:
        grants = agent.grants()
    rows = [("repository", "peer", "until", "")]
    rows += [
        (one["repo"], one["peer"], when(one["expires_at"]), "taken back" if one["revoked"] else "")
        for one in grants
    ]
    printer.show_table("grant", grants, rows)
