"""Share: put files of one's own into the store."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from p2pcache.agent.localapi.client import connect
from p2pcache.cli.command import RATE, SECRET_OPTION, Command, output_options
from p2pcache.cli.progress import ProgressDisplay
from p2pcache.errors import NotFound, UsageError
from p2pcache.units import format_bytes, format_count

if TYPE_CHECKING:
    from p2pcache.agent.localapi.answers import PushedTo
    from p2pcache.agent.localapi.options import PushOptions
    from p2pcache.cli.output import Printer


@click.command(
    cls=Command,
    short_help="Put a file or folder into the store, or elsewhere.",
    example="p2pcache push ./my-model",
    exits=(10, 11, 12, 13, 14),
)
@click.argument("what", metavar="PATH|REF")
@click.argument("dest", required=False)
@click.option("--to", metavar="DEST", help="The same as DEST.")
@click.option(
    "--kubo", metavar="URL|auto", help="The Kubo that gets it, in place of the configured one."
)
@click.option("--dry-run", is_flag=True, help="Send nothing; say what would be sent.")
@click.option("--allow-gated", is_flag=True, help="Also what is gated or private at its origin.")
@click.option(
    "--replicas", type=click.IntRange(1), metavar="K", help="Of `peers`: so many other agents."
)
@SECRET_OPTION
@click.option("--to-secret", metavar="NAME", help="The same for DEST.")
@click.option(
    "--limit-rate", type=RATE, metavar="RATE", help="At most this per second: 10M, 1 MiB."
)
@output_options
def push(
    printer: Printer,
    what: str,
    dest: str | None,
    to: str | None,
    kubo: str | None,
    dry_run: bool,
    allow_gated: bool,
    replicas: int | None,
    secret: str | None,
    to_secret: str | None,
    limit_rate: int | None,
) -> None:
    """Put the file or folder PATH into the store and print its names. With DEST, give it, or what
    REF means, to that place: `ipfs` is the configured Kubo, which pins it; s3://bucket/folder,
    gs://bucket/folder or az://account/container/folder gets each file as an object; oci:// and
    ollama:// are registries; `peers` has --replicas other agents keep it.

    The names are the manifest's CID, the UnixFS root that IPFS gives it, and for a single file its
    sha2-256.
    """
    place = _place(dest, to)
    if replicas is not None and place != "peers":
        raise click.UsageError("--replicas is for the destination 'peers'.")
    if place is None:
        if dry_run or allow_gated or any((kubo, limit_rate, secret, to_secret)):
            raise click.UsageError(
                "--kubo, --dry-run, --allow-gated, --secret, --to-secret and --limit-rate are for "
                "a destination."
            )
        if not os.path.exists(what):
            hint = "a ref goes to another place: `p2pcache push REF DEST`"
            if "://" in what:
                raise UsageError("a ref needs a destination", hint=hint)
            raise NotFound(f"no such file or folder: {what}", hint=hint)
    options: PushOptions = {}
    if place is not None:
        options = {
            "to": place,
            "kubo": kubo,
            "dry_run": dry_run,
            "allow_gated": allow_gated,
            "replicas": replicas,
            "secret": secret,
            "to_secret": to_secret,
            "limit_rate": limit_rate,
        }
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
    blocks, objects, size = given["sent_blocks"], given["sent_objects"], given["sent_bytes"]
    if given["dry_run"]:
        blocks, objects = given["missing_blocks"], given["missing_objects"]
        size = given["missing_bytes"]
    count = format_count(objects, "object") if objects else format_count(blocks, "block")
    verb = "would be sent" if given["dry_run"] else "sent"
    kept = "; pinned there" if given["pinned"] else ""
    printer.note(f"{count}, {format_bytes(size)} {verb} to {given['where']}{kept}")
    if resumed := given["resumed_bytes"]:
        printer.note(f"{format_bytes(resumed)} were there of an upload that had broken off")
    for note in given["notes"]:
        printer.note(f"note: {note}")
