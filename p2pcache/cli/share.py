"""Share: put files of one's own into the store."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from p2pcache.agent.localapi.client import connect
from p2pcache.cli.command import Command, output_options
from p2pcache.cli.progress import ProgressDisplay
from p2pcache.units import format_bytes, format_count

if TYPE_CHECKING:
    from p2pcache.agent.localapi.answers import PushedTo
    from p2pcache.agent.localapi.options import PushOptions
    from p2pcache.cli.output import Printer

DESTINATION = click.Choice(["ipfs"])


@click.command(
    cls=Command,
    short_help="Put a file or folder into the store, or elsewhere.",
    example="p2pcache push ./my-model",
    exits=(10, 11, 12, 13, 14),
)
@click.argument("what", metavar="PATH|REF")
@click.argument("dest", required=False, type=DESTINATION)
@click.option("--to", type=DESTINATION, help="The same as DEST.")
@click.option(
    "--kubo", metavar="URL|auto", help="The Kubo that gets it, in place of the configured one."
)
@click.option("--dry-run", is_flag=True, help="Send nothing; say what would be sent.")
@click.option("--allow-gated", is_flag=True, help="Also what is gated or private at its origin.")
@output_options
def push(
    printer: Printer,
    what: str,
    dest: str | None,
    to: str | None,
    kubo: str | None,
    dry_run: bool,
    allow_gated: bool,
) -> None:
    """Put the file or folder PATH into the store and print its names. With DEST, give it, or what
    REF means, to that place: `ipfs` is the configured Kubo, which pins it.

    The names are the manifest's CID, the UnixFS root that IPFS gives it, and for a single file its
    sha2-256.
    """
    place = _place(dest, to)
    if place is None:
        if kubo is not None or dry_run or allow_gated:
            raise click.UsageError("--kubo, --dry-run and --allow-gated are for a destination.")
        if not os.path.exists(what):
            raise click.UsageError(
                f"There is no file or folder '{what}', and a ref needs a destination: ipfs."
            )
    options: PushOptions = {}
    if place is not None:
        options = {"to": place, "kubo": kubo, "dry_run": dry_run, "allow_gated": allow_gated}
    with connect(embed=True) as agent, ProgressDisplay(printer) as display:
        answer = agent.push(what, on_progress=display.update, **options)
    lines = [f"manifest  {answer['manifest']}", f"root      {answer['root']}"]
    if answer["sha256"] is not None:
        lines.append(f"sha256    {answer['sha256']}")
    printer.show("push", answer, lines)
    printer.note(f"{format_count(answer['files'], 'file')}, {format_bytes(answer['total_bytes'])}")
    given = answer.get("to")
    if given is not None:
        _tell_given(printer, given)


def _place(dest: str | None, to: str | None) -> str | None:
    if dest is not None and to is not None and dest != to:
        raise click.UsageError(f"Two destinations: '{dest}' and '{to}'.")
    return dest or to


def _tell_given(printer: Printer, given: PushedTo) -> None:
    count, size = given["missing_blocks"], given["missing_bytes"]
    if not given["dry_run"]:
        count, size = given["sent_blocks"], given["sent_bytes"]
    verb = "would be sent" if given["dry_run"] else "sent"
    kept = "; pinned there" if given["pinned"] else ""
    printer.note(
        f"{format_count(count, 'block')}, {format_bytes(size)} {verb} to {given['where']}{kept}"
    )
    for note in given["notes"]:
        printer.note(f"note: {note}")
