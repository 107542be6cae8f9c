"""Share: folders of others, read in place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from p2pcache.agent.localapi.client import connect
from p2pcache.cli.command import Command, counted, output_options
from p2pcache.cli.output import printable
from p2pcache.cli.progress import ProgressDisplay
from p2pcache.errors import UsageError
from p2pcache.units import format_bytes, format_count

if TYPE_CHECKING:
    from p2pcache.agent.localapi.adopted import AdoptedAnswer
    from p2pcache.cli.output import Printer

LATER = "no agent runs: it is hashed while one does, or with --wait"
KINDS = {"hub": "Hugging Face cache", "ollama": "Ollama's store", "folder": "folder"}


@click.command(
    cls=Command,
    short_help="Share a folder's files from where they lie.",
    example="p2pcache adopt /data/models --wait",
    exits=(10, 11, 13),
)
@click.argument("folder", required=False, metavar="DIR")
@click.option("--private", is_flag=True, help="For this agent alone.")
@click.option("--public", is_flag=True, help="All of a Hugging Face cache is for others.")
@click.option("--wait", is_flag=True, help="Until all of it is hashed.")
@click.option("--list", "listed", is_flag=True, help="What is adopted, and how far it is.")
@output_options
def adopt(
    folder: str | None,
    printer: Printer,
    *,
    private: bool,
    public: bool,
    wait: bool,
    listed: bool,
) -> None:
    """Use the files of DIR from where they lie, for this agent and the others of its network.

    DIR is any folder, a Hugging Face cache (both layouts) or Ollama's store. Its files are hashed
    in the background, while no download runs; none is copied, changed or removed. A file that
    changes is served no more at once, and is hashed again. Of a Hugging Face cache others get what
    its hub gives to everybody.
    """
    if listed:
        if folder is not None or private or public or wait:
            raise UsageError("--list shows all that is adopted", hint="leave the rest out")
        with connect(embed=True) as agent:
            found = agent.adopted()
        rows = [("folder", "kind", "files", "size", "state")]
        rows += [_row(one) for one in found]
        printer.show_table("adopted", found, rows if found else [])
        if not found:
            printer.note("nothing is adopted")
        return
    if folder is None:
        raise UsageError("what is to be adopted?", hint="`p2pcache adopt DIR`, or --list")
    if private and public:
        raise UsageError("--private and --public say the opposite", hint="leave one of them out")
    with connect(embed=True) as agent, ProgressDisplay(printer) as display:
        answer = agent.adopt(
            folder, private=private, public=public, wait=wait, on_progress=display.update
        )
        is_for_now = agent.embedded and not wait
    printer.show("adopt", answer, [answer["folder"]])
    printer.note(f"{KINDS[answer['kind']]}: {adopted_state(answer)}")
    for note in [*answer["notes"], *([LATER] if is_for_now else [])]:
        printer.note(f"note: {note}")


def _row(one: AdoptedAnswer) -> tuple[str, str, str, str, str]:
    return (
        printable(one["folder"]),
        one["kind"],
        str(one["files"]),
        format_bytes(one["bytes"]),
        adopted_state(one),
    )


def adopted_state(one: AdoptedAnswer) -> str:
    """How far a folder is, for people."""
    if one["problem"] is not None:
        return printable(one["problem"])
    parts = [f"{format_count(one['files'], 'file')}, {format_bytes(one['bytes'])} hashed"]
    if one["waiting_files"]:
        paused = ", paused for a download" if one["paused"] else ""
        left = format_bytes(one["waiting_bytes"])
        parts.append(f"{counted(one['waiting_files'], 'file')}, {left} to go{paused}")
    if one["settling"]:
        parts.append(f"{counted(one['settling'], 'file')} being written")
    left_out = sum(one["left_out"].values())
    if left_out:
        why = ", ".join(f"{count} {reason}" for reason, count in sorted(one["left_out"].items()))
        parts.append(f"left out: {why}")
    if one["kept_files"]:
        parts.append(f"{counted(one['kept_files'], 'file')} for this agent alone")
    if one["private"] or one["public"]:
        parts.append("private" if one["private"] else "public")
    return "; ".join(parts)


@click.command(
    cls=Command,
    short_help="Use a folder's files no more.",
    example="p2pcache unadopt /data/models",
    exits=(10, 11),
)
@click.argument("folder", metavar="DIR")
@output_options
def unadopt(folder: str, printer: Printer) -> None:
    """Undo `adopt` of DIR. Its files stay as they are, and what was copied or linked stays, too."""
    with connect(embed=True) as agent:
        answer = agent.unadopt(folder)
    printer.show("unadopt", answer, ())
    printer.note(f"{answer['folder']}: {format_count(answer['files'], 'file')} let go")
