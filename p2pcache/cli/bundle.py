"""Share: content and names in one file, for machines that no network connects."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from p2pcache.agent.localapi.client import connect
from p2pcache.cli.command import Command, output_options, when
from p2pcache.cli.progress import ProgressDisplay
from p2pcache.units import format_bytes, format_count

if TYPE_CHECKING:
    from p2pcache.cli.output import Printer


@click.command(
    cls=Command,
    short_help="Write refs into one file for another network.",
    example="p2pcache export hf://org/model -o model.car",
    exits=(10, 11, 13, 14),
)
@click.argument("refs", nargs=-1, required=True, metavar="REF...")
@click.option(
    "--output", "-o", type=click.Path(dir_okay=False), metavar="FILE", required=True,
    help="The file to write, in place of one of that name.",
)  # fmt: skip
@click.option("--gated", is_flag=True, help="Also what is gated or private; it stays marked.")
@output_options
def export(printer: Printer, refs: tuple[str, ...], output: str, gated: bool) -> None:
    """Write REFs, all of which must be here, into one CAR that `p2pcache import` and IPFS read.

    It holds the files as UnixFS, the manifests, and what the refs mean, signed by this agent. An
    index for other tools is written beside it.
    """
    with connect(embed=True) as agent, ProgressDisplay(printer) as display:
        answer = agent.export(refs, output, gated=gated, on_progress=display.update)
    lines = []
    for ref in answer["refs"]:
        lines.append(f"{ref['root']}  {ref['ref']}")
        if not ref["names"]:
            printer.note(f"note: no name of `{ref['ref']}` goes along; its manifest is its name")
    printer.show("export", answer, lines)
    printer.note(
        f"{format_bytes(answer['size_bytes'])}, {format_count(answer['blocks'], 'block')} in "
        f"{answer['path']}"
    )


@click.command(
    "import",
    cls=Command,
    short_help="Take in a file that export wrote.",
    example="p2pcache import model.car",
    exits=(10, 11, 12, 13),
)
@click.argument("bundle", type=click.Path(exists=True, dir_okay=False))
@output_options
def import_(printer: Printer, bundle: str) -> None:
    """Bring what the CAR BUNDLE holds into the store, verified, and learn its names.

    From then on `p2pcache get` finds the names without any network, and other agents of this
    network find the content here. A CAR of another IPFS tool gives its files and folders.
    """
    with connect(embed=True) as agent, ProgressDisplay(printer) as display:
        answer = agent.import_bundle(bundle, on_progress=display.update)
    lines = []
    for ref in answer["refs"]:
        found = ref["manifest"] or ref["root"]
        lines += [f"{name['ref']}  {found}" for name in ref["names"]] or [found]
        for name in ref["names"]:
            said = when(name["resolved_at"])
            printer.note(f"note: `{name['ref']}` in the word of peer {name['signer']}, of {said}")
    for note in answer["notes"]:
        printer.note(f"note: {note}")
    printer.show("import", answer, lines)
    files = sum(ref["files"] for ref in answer["refs"])
    printer.note(
        f"{format_count(files, 'file')}, {format_bytes(answer['total_bytes'])}: "
        f"{format_bytes(answer['new_bytes'])} were new here"
    )
