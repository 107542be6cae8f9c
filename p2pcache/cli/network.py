"""Share: the network of agents, who may join it, and who is in it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from p2pcache.agent.localapi.client import Client, connect
from p2pcache.agent.network_files import Files
from p2pcache.cli.command import EXPIRY, Command, output_options, when
from p2pcache.cli.output import printable
from p2pcache.errors import Interrupted, Unavailable, UsageError
from p2pcache.units import format_bytes, format_duration, format_rate

if TYPE_CHECKING:
    from p2pcache.agent.localapi.answers import NetworkAnswer
    from p2pcache.cli.output import Printer

RUN = "now run `p2pcache agent run`: nobody listens until then"


@click.command(
    cls=Command,
    short_help="Make a network of your own.",
    example="p2pcache init",
    exits=(10, 11, 13),
)
@output_options
def init(printer: Printer) -> None:
    """Make this agent's identity and a new network with it as the admin.

    Only agents that hold the network's key can connect; `p2pcache invite` hands it on. Running it
    again changes nothing.
    """
    with connect(embed=True) as agent:
        answer = agent.init()
        embedded = agent.embedded
    _show_network(printer, "init", answer, "made" if answer["made"] else "there already")
    if embedded:
        printer.note(RUN)


@click.command(
    cls=Command,
    short_help="Let another machine join.",
    example="p2pcache invite --expires 1h",
    exits=(10, 11),
)
@click.option(
    "--expires", type=EXPIRY, default="24h", metavar="TIME", help="How long it is good for: 24h."
)
@output_options
def invite(printer: Printer, expires: int) -> None:
    """Print a token for `p2pcache join`. Whoever has it is in: send it as you would a password."""
    with connect() as agent:
        answer = agent.invite(expires_s=expires)
    printer.show("invite", answer, [answer["token"]])
    printer.note(f"good until {when(answer['expires_at'])}; it holds the network key")


@click.command(
    cls=Command,
    short_help="Join a network.",
    example="p2pcache join p2pcache1-...",
    exits=(10, 11, 13, 14),
)
@click.argument("token")
@output_options
def join(token: str, printer: Printer) -> None:
    """Join the network that TOKEN (from `p2pcache invite`) is for. `-` reads it from stdin."""
    if token == "-":
        token = sys.stdin.read()
    if not token.strip():
        raise UsageError(
            "there is no invitation", hint="`p2pcache invite` on a machine that is in prints one"
        )
    agent = Client(embed=True)
    key = Files(agent.home).network
    try:
        with agent:
            try:
                answer = agent.join(token)
            finally:
                embedded = agent.embedded
    except KeyboardInterrupt:  # the agent has ended, or has given up the call
        raise _join_interrupted(kept=key.exists()) from None
    except Unavailable:
        if embedded and key.exists():
            printer.note(RUN)
        raise
    _show_network(printer, "join", answer, "joined" if answer["made"] else "in it already")
    if embedded:
        printer.note(RUN)


def _join_interrupted(*, kept: bool) -> Interrupted:
    if kept:
        return Interrupted(
            "interrupted; the network's key is kept",
            hint="`p2pcache agent run` goes on trying to reach the others",
        )
    return Interrupted("interrupted; no key is kept", hint="`p2pcache join TOKEN` begins anew")


def _show_network(printer: Printer, kind: str, answer: NetworkAnswer, word: str) -> None:
    lines = [
        f"network  {answer['network']}  ({word})",
        f"peer     {answer['peer']}",
        f"admin    {answer['admin'] or '-'}",
        *(f"address  {address}" for address in answer["addresses"]),
    ]
    printer.show(kind, answer, [printable(line) for line in lines])


@click.command(
    cls=Command,
    short_help="Show the other agents.",
    example="p2pcache peers --banned",
    exits=(10, 11),
)
@click.option("--banned", is_flag=True, help="Those that are not talked to, and why.")
@output_options
def peers(printer: Printer, banned: bool) -> None:
    """Show who is connected, or with --banned who is not talked to."""
    with connect() as agent:
        if banned:
            bans = agent.bans()
            banned_rows = [("peer", "since", "reason")]
            banned_rows += [(b["peer"], when(b["banned_at"]), b["reason"]) for b in bans]
            printer.show_table("ban", bans, banned_rows)
            return
        members = agent.peers()
    rows = [
        ("peer", "address", "zone", "version", "for", "ping", "up", "sent", "received", "holds")
    ]
    for m in members:
        ping = m["round_trip_s"]
        rows.append(
            (
                m["peer"],
                m["address"] or "-",
                "/".join(filter(None, (m["zone"], m["rack"]))) or "-",
                m["agent"],
                format_duration(m["connected_s"]),
                "-" if ping is None else f"{ping * 1000:.1f}ms",
                format_rate(m["up_bytes_per_s"]),
                format_bytes(m["sent_bytes"]),
                format_bytes(m["received_bytes"]),
                str(m["holds"]),
            )
        )
    printer.show_table("peer", members, rows)


@click.command(
    cls=Command,
    short_help="Talk to a banned agent again.",
    example="p2pcache unban 12D3KooW...",
    exits=(10, 11),
)
@click.argument("peer")
@output_options
def unban(peer: str, printer: Printer) -> None:
    """Lift the ban of PEER (`p2pcache peers --banned` lists them)."""
    if not peer.strip():
        raise UsageError("there is no peer id", hint="`p2pcache peers --banned` lists the banned")
    with connect(embed=True) as agent:
        answer = agent.unban(peer)
    printer.show("unban", answer, [answer["peer"]])
    printer.note(f"{peer} may talk to this agent again")
