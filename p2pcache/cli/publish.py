"""Share: what strangers of the public IPFS network get."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from p2pcache.agent.localapi.client import connect
from p2pcache.cli.command import Command, counted, output_options
from p2pcache.errors import UsageError

if TYPE_CHECKING:
    from p2pcache.cli.output import Printer


@click.command(
    cls=Command,
    short_help="Give content to the public IPFS network.",
    example="p2pcache publish hf://org/model",
    exits=(10, 11, 14),
)
@click.argument("ref", required=False)
@click.option("--list", "listed", is_flag=True, help="What is published.")
@output_options
def publish(ref: str | None, printer: Printer, *, listed: bool) -> None:
    """Make REF, all of which is here, public and print its CID.

    With `ipfs.public = share` everybody can find and fetch it from then on, and it stays in the
    store until it is unpublished. Nothing else is given to strangers, and nothing that is gated or
    private. With --list show what is published.
    """
    if listed:
        if ref is not None:
            raise UsageError("--list shows all that is published", hint="leave the rest out")
        with connect(embed=True) as agent:
            found = agent.published()
        rows = [("root", "refs")]
        rows += [(one["root"], ", ".join(one["refs"])) for one in found]
        printer.show_table("published", found, rows if found else [])
        if not found:
            printer.note("nothing is published")
        return
    if ref is None:
        raise UsageError("what is to be published?", hint="`p2pcache publish REF`, or --list")
    with connect(embed=True) as agent:
        answer = agent.publish(ref)
    printer.show("publish", answer, [answer["root"]])
    printer.note(f"published {ref}: {counted(answer['blocks'], 'block')}")
    for note in answer["notes"]:
        printer.note(f"note: {note}")


@click.command(
    cls=Command,
    short_help="Give it to no stranger any more.",
    example="p2pcache unpublish hf://org/model",
    exits=(10, 11, 14),
)
@click.argument("ref")
@output_options
def unpublish(ref: str, printer: Printer) -> None:
    """Undo `publish` of REF, or of the CID that it printed. Who has it already keeps it."""
    with connect(embed=True) as agent:
        answer = agent.unpublish(ref)
    printer.show("unpublish", answer, ())
    printer.note(f"{ref} is given to no stranger any more")
