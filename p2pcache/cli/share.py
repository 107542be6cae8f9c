"""Share: put files of one's own into the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from p2pcache.agent.localapi.client import connect
from p2pcache.cli.command import Command, output_options
from p2pcache.cli.progress import ProgressDisplay
from p2pcache.units import format_bytes, format_count

if TYPE_CHECKING:
    from p2pcache.cli.output import Printer


@click.command(
    cls=Command,
    short_help="Put a file or folder into the store.",
    example="p2pcache push ./my-model",
    exits=(10, 13),
)
@click.argument("path", type=click.Path(exists=True))
@output_options
def push(path: str, printer: Printer) -> None:
    """Put the file or folder PATH into the store and print its names.

    The names are the manifest's CID, the UnixFS root that IPFS gives it, and for a single file its
    sha2-256.
    """
    with connect(embed=True) as agent, ProgressDisplay(printer) as display:
        answer = agent.push(path, on_progress=display.update)
    lines = [f"manifest  {answer['manifest']}", f"root      {answer['root']}"]
    if answer["sha256"] is not None:
        lines.append(f"sha256    {answer['sha256']}")
    printer.show("push", answer, lines)
    printer.note(f"{format_count(answer['files'], 'file')}, {format_bytes(answer['total_bytes'])}")
