"""Share: content and names in one file, for machines that no network connects."""

from __future__ import annotations

import shutil
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from p2pcache.agent.localapi.client import connect
from p2pcache.cli.command import Command, ThereIs, output_options, when
from p2pcache.cli.output import Mode, not_written
from p2pcache.cli.progress import ProgressDisplay
from p2pcache.errors import UsageError
from p2pcache.units import format_bytes, format_count

if TYPE_CHECKING:
    from collections.abc import Iterator

    from p2pcache.agent.localapi.bundled import ExportAnswer
    from p2pcache.cli.output import Printer

STREAM = "-"  # standard input or output
_COPY_BYTES = 1 << 20


@click.command(
    cls=Command,
    short_help="Write refs into one file for another network.",
    example="p2pcache export hf://org/model -o model.car",
    exits=(10, 11, 13, 14),
)
@click.argument("refs", nargs=-1, required=True, metavar="REF...")
@click.option(
    "--output", "-o", type=click.Path(dir_okay=False, allow_dash=True), metavar="FILE",
    required=True,
    help="The file to write, in place of one of that name; `-` is standard output.",
)  # fmt: skip
@click.option("--gated", is_flag=True, help="Also what is gated or private; it stays marked.")
@click.option("--plain", is_flag=True, help="One DAG as it is, as `ipfs dag export` writes it.")
@output_options
def export(printer: Printer, refs: tuple[str, ...], output: str, gated: bool, plain: bool) -> None:
    """Write REFs, all of which must be here, into one CAR that `p2pcache import` and IPFS read.

    It holds the files as UnixFS, the manifests, and what the refs mean, signed by this agent. An
    index for other tools is written beside it. A CID that is here as blocks alone is written as it
    is, as with --plain.
    """
    with _to_write(printer, output) as path:
        with connect(embed=True) as agent, ProgressDisplay(printer) as display:
            answer = agent.export(refs, path, gated=gated, plain=plain, on_progress=display.update)
        if output == STREAM:
            _write_out(path)
        else:
            printer.show(
                "export", answer, [f"{one['root']}  {one['ref']}" for one in answer["refs"]]
            )
    _tell_exported(printer, answer, "standard output" if output == STREAM else answer["path"])


def _tell_exported(printer: Printer, answer: ExportAnswer, where: str) -> None:
    for ref in answer["refs"]:
        if answer.get("format", "bundle") == "bundle" and not ref["names"]:
            printer.note(
                f"note: no name of `{ref['ref']}` goes along: it goes by its root or its manifest"
            )
    blocks = format_count(answer["blocks"], "block")
    printer.note(f"{format_bytes(answer['size_bytes'])}, {blocks} in {where}")


@contextmanager
def _to_write(printer: Printer, output: str) -> Iterator[Path]:
    """The file that the agent writes: for standard output one that goes again."""
    if output != STREAM:
        yield Path(output)
        return
    if printer.mode is Mode.JSON:
        raise UsageError("`--json` and `-o -` both write to standard output", hint="name a file")
    if sys.stdout.buffer.isatty():
        raise UsageError("a CAR is nothing for a terminal", hint="name a file, or use a pipe")
    with tempfile.TemporaryDirectory(prefix="p2pcache-") as folder:
        yield Path(folder) / "out.car"


def _write_out(path: Path) -> None:
    out = sys.stdout.buffer
    with path.open("rb") as file:
        try:
            shutil.copyfileobj(file, out, _COPY_BYTES)
            out.flush()
        except BrokenPipeError:
            raise  # who reads has enough
        except OSError as exc:
            raise not_written(exc) from exc


@click.command(
    "import",
    cls=Command,
    short_help="Take in a file that export wrote, or any CAR.",
    example="p2pcache import model.car",
    exits=(10, 11, 12, 13),
)
@click.argument("car", type=ThereIs(dir_okay=False, allow_dash=True))
@output_options
def import_(printer: Printer, car: str) -> None:
    """Bring what a CAR holds into the store, verified, and learn its names; `-` is standard input.

    From then on `p2pcache get` finds the names without any network, and other agents of this
    network find the content here. A CAR of another IPFS tool gives its DAGs, whatever their shape:
    their roots are pinned.
    """
    with (
        _to_read(car) as path,
        connect(embed=True) as agent,
        ProgressDisplay(printer) as display,
    ):
        answer = agent.import_bundle(path, on_progress=display.update)
    lines = []
    for ref in answer["refs"]:
        found = ref["manifest"] if not ref.get("pinned") and ref["manifest"] else ref["root"]
        lines += [f"{name['ref']}  {found}" for name in ref["names"]] or [found]
        for name in ref["names"]:
            said = when(name["resolved_at"])
            printer.note(f"note: `{name['ref']}` in the word of peer {name['signer']}, of {said}")
    for note in answer["notes"]:
        printer.note(f"note: {note}")
    printer.show("import", answer, lines)
    files = sum(ref["files"] for ref in answer["refs"])
    blocks = answer.get("new_block_bytes", 0)  # of an older agent none
    printer.note(
        f"{format_count(files, 'file')}, {format_bytes(answer['total_bytes'])}: "
        f"{format_bytes(answer['new_bytes'])} were new here"
        + (f", and {format_bytes(blocks)} of blocks" if blocks else "")
    )


@contextmanager
def _to_read(car: str) -> Iterator[Path]:
    """The file that the agent reads: of standard input a copy, for it is read more than once."""
    if car != STREAM:
        yield Path(car)
        return
    with tempfile.TemporaryDirectory(prefix="p2pcache-") as folder:
        path = Path(folder) / "in.car"
        try:
            with path.open("wb") as file:
                shutil.copyfileobj(sys.stdin.buffer, file, _COPY_BYTES)
        except OSError as exc:
            raise not_written(exc) from exc
        yield path
