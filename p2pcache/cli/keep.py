"""Keep: what is stored, what stays, what goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from p2pcache.agent.localapi.client import connect
from p2pcache.cli.command import BYTES, Command, counted, output_options, short, when
from p2pcache.units import format_bytes

if TYPE_CHECKING:
    from p2pcache.agent.localapi.answers import LsAnswer
    from p2pcache.cli.output import Printer


@click.command(
    cls=Command, short_help="List what is stored.", example="p2pcache ls --json", exits=(10,)
)
@output_options
def ls(printer: Printer) -> None:
    """List the manifests that the store knows, and how much of each is here; then files and pinned
    DAGs that no manifest lists.

    What no eviction takes says why: it is pinned, a copy that a preload keeps (replica), or one
    that neither an origin nor, as far as is known, a lasting copy elsewhere could replace (last
    copy).
    """
    with connect(embed=True) as agent:
        found = agent.ls()
    rows = [("ref", "revision", "files", "size", "here", "stays", "last used")]
    for entry in found:
        total = entry["total_bytes"]
        share = 100 * entry["present_bytes"] // total if total else 100
        rows.append(
            (
                entry["ref"] or entry["manifest"] or "-",
                short(entry["immutable"]),
                str(entry["files"]),
                format_bytes(total),
                f"{share}%",
                _stays(entry),
                when(entry["last_used"]),
            )
        )
    printer.show_table("manifest", found, rows if found else [])
    if not found:
        printer.note("the store is empty; `p2pcache get REF` fills it")


def _stays(entry: LsAnswer) -> str:
    """Why no eviction takes it, in a word or two; `--json` has the whole of it."""
    if entry["pinned"]:
        return "pinned"
    kept = entry.get("kept") or ""  # an older agent does not say
    return "replica" if "preload" in kept else "last copy" if kept else ""


@click.command(
    cls=Command,
    short_help="Never evict this.",
    example="p2pcache pin hf://org/model",
    exits=(10, 11),
)
@click.argument("ref")
@output_options
def pin(ref: str, printer: Printer) -> None:
    """Keep REF from being evicted: a ref, or any name of a manifest, a file or a DAG."""
    with connect(embed=True) as agent:
        answer = agent.pin(ref)
    printer.show("pin", answer, ())
    printer.note(f"pinned {ref}")


@click.command(
    cls=Command,
    short_help="Let it be evicted again.",
    example="p2pcache unpin hf://org/model",
    exits=(10, 11),
)
@click.argument("ref")
@output_options
def unpin(ref: str, printer: Printer) -> None:
    """Undo `pin`, or a pin of Kubo's RPC by its root; nothing is removed until room is needed."""
    with connect(embed=True) as agent:
        answer = agent.unpin(ref)
    printer.show("unpin", answer, ())
    printer.note(f"unpinned {ref}")


@click.command(
    cls=Command,
    short_help="Forget a ref and free its space.",
    example="p2pcache rm hf://org/model",
    exits=(10, 11),
)
@click.argument("ref")
@click.option("--force", is_flag=True, help="Even if it is pinned or the last copy.")
@output_options
def rm(ref: str, printer: Printer, force: bool) -> None:
    """Forget REF and remove what nothing else refers to.

    While another ref means the same content, only REF is forgotten; the CID of a manifest means all
    refs of it, and a file's sha2-256 or root all refs that mean it alone. Files that were put
    elsewhere (the Hugging Face cache, --to) stay.
    """
    with connect(embed=True) as agent:
        answer = agent.rm(ref, force=force)
    printer.show("rm", answer, ())
    printer.note(f"freed {format_bytes(answer['freed_bytes'])}")
    for note in answer.get("notes", ()):
        printer.note(f"note: {note}")


@click.command(
    cls=Command,
    short_help="Evict what was not used for longest.",
    example="p2pcache gc --target 200G",
    exits=(10, 13),
)
@click.option(
    "--target", type=BYTES, metavar="SIZE", help="Down to this much (default: the low watermark)."
)
@click.option("--dry-run", is_flag=True, help="Say what would go.")
@output_options
def gc(printer: Printer, target: int | None, dry_run: bool) -> None:
    """Evict by last use. What stays is counted with the reason: pins, running downloads, copies
    that a preload keeps, and last copies, which no origin and no other agent could give again.
    """
    with connect(embed=True) as agent:
        answer = agent.gc(target_bytes=target, dry_run=dry_run)
    printer.show("gc", answer, ())
    would = "would free" if dry_run else "freed"
    printer.note(
        f"{would} {format_bytes(answer['freed_bytes'])} in {counted(answer['evicted'], 'blob')}"
    )
    for reason, kept_bytes in sorted(answer["kept"].items()):
        printer.note(f"  kept {format_bytes(kept_bytes)}: {reason}")
