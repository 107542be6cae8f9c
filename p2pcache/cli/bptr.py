"""Get: what Baseten's pointer files name, and pointer files for truss-transfer."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from p2pcache.agent.localapi.client import connect
from p2pcache.cli.command import RATE, Command, Group, ThereIs, output_options, short, when
from p2pcache.cli.output import Mode, Printer, printable
from p2pcache.cli.progress import ProgressDisplay
from p2pcache.content import digests
from p2pcache.content.patterns import Selection
from p2pcache.errors import LocalFault, UsageError
from p2pcache.formats.bptr.load import load_pointers
from p2pcache.formats.bptr.plan import content_digest, model_ref
from p2pcache.formats.bptr.pointers import (
    DEFAULT_SECRET,
    MODEL_PATH,
    NEVER,
    S3,
    Azure,
    Gcs,
    Http,
    PointerFile,
)
from p2pcache.units import format_bytes, format_count, format_duration

if TYPE_CHECKING:
    from p2pcache.formats.bptr.pointers import Pointer


@click.group(
    cls=Group,
    short_help="Read and write Baseten's pointer files.",
    example="p2pcache bptr pull bptr-manifest.json --to model_cache",
    exits=(10, 11, 12, 13, 14),
)
def bptr() -> None:
    """Read and write the pointer files of Baseten's truss-transfer."""


@bptr.command(
    "pull",
    cls=Command,
    short_help="Bring what pointer files name.",
    example="p2pcache bptr pull bptr-manifest.json --to model_cache",
    exits=(10, 11, 12, 13, 14),
)
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=ThereIs(dir_okay=False))
@click.option("--to", required=True, type=click.Path(), metavar="DIR", help="Where the files go.")
@click.option(
    "--model-path",
    default=MODEL_PATH,
    metavar="PATH",
    help="What absolute names begin with; DIR takes its place.",
)
@click.option("--copy", "copy_files", is_flag=True, help="Copy, to write to the files; never link.")
@click.option(
    "--limit-rate", type=RATE, metavar="RATE", help="At most this per second: 10M, 1 MiB."
)
@click.option("--offline", is_flag=True, help="Ask no origin: what is here, or other agents have.")
@output_options
def pull(
    files: tuple[str, ...], to: str, model_path: str, copy_files: bool, printer: Printer,
    **options: Any,  # noqa: ANN401 - limit_rate, offline
) -> None:  # fmt: skip
    """Bring every file that the pointer FILEs (JSON or YAML) name into DIR, verified.

    Of several pointers to one name the first counts. Where a pointer has a digest, that is what
    arrives, or nothing; a pointer that has expired is refused before a byte is asked for.
    """
    with connect(embed=True) as agent, ProgressDisplay(printer) as display:
        answer = agent.bptr_pull(
            files,
            on_progress=display.update,
            folders=folders_below(to, model_path),
            model_path=model_path,
            links=not copy_files,
            **options,
        )
    for note in answer["notes"]:
        printer.note(f"note: {note}")
    printer.note(
        f"{format_count(answer['files'], 'file')}, {format_bytes(answer['total_bytes'])}: "
        f"{format_bytes(answer['fetched_bytes'])} fetched, "
        f"{format_bytes(answer['reused_bytes'])} were here; {format_duration(answer['seconds'])}"
    )
    printer.show("bptr", answer, answer["folders"])


def folders_below(to: str, model_path: str) -> dict[str, str]:
    """Everything into one folder: relative names, and those that begin with the model path."""
    if not model_path.startswith("/"):
        raise UsageError("--model-path is absolute", hint=f"the default is {MODEL_PATH}")
    return {"": to, model_path: to}


@bptr.command(
    "create",
    cls=Command,
    short_help="Write a pointer file for refs.",
    example="p2pcache bptr create hf://org/model --out bptr-manifest.json",
    exits=(10, 11, 12, 13, 14),
)
@click.argument("refs", nargs=-1, required=True, metavar="REF...")
@click.option(
    "--out", "-o", required=True, type=click.Path(dir_okay=False), metavar="FILE",
    help="The file to write, in place of one of that name; - is stdout.",
)  # fmt: skip
@click.option(
    "--model-path", default=MODEL_PATH, metavar="PATH", help="What the names of files begin with."
)
@click.option("--volume", metavar="NAME", help="Folder below it (default: the ref's last name).")
@click.option(
    "--secret", default=DEFAULT_SECRET, metavar="NAME", help="The login that the files want."
)
@click.option("--include", multiple=True, metavar="PATTERN", help="Only paths like this.")
@click.option("--exclude", multiple=True, metavar="PATTERN", help="No paths like this.")
@output_options
def create(
    refs: tuple[str, ...],
    out: str,
    model_path: str,
    volume: str | None,
    secret: str,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    printer: Printer,
) -> None:
    """Write FILE, a pointer file in JSON for what REFs mean now, which truss-transfer reads.

    Nothing is downloaded. A branch becomes the commit that it means.
    """
    from p2pcache.formats.bptr.write import as_text, pointers_of

    selection = Selection(include, exclude)
    pointers: list[Pointer] = []
    with connect(embed=True) as agent:
        for ref in refs:
            answer = agent.resolve(ref)
            pointers += pointers_of(
                answer, typed=ref, model_path=model_path,
                volume=_volume(answer["canonical"], volume), secret=secret, selection=selection, uid=ref.removeprefix("hf://"),
            )  # fmt: skip
    text = as_text(PointerFile(tuple(pointers)))
    names = [pointer.file_name for pointer in pointers]
    if len(set(names)) < len(names):
        raise UsageError("two refs have files of one name", hint="write a file for each")
    total = sum(pointer.size for pointer in pointers)
    if out == "-":
        printer.show("bptr", {"pointers": len(pointers), "total_bytes": total}, [text])
    else:
        _write(out, text)
        path = os.path.abspath(out)
        written = {"path": path, "pointers": len(pointers), "total_bytes": total}
        printer.show("bptr", written, [path])
    printer.note(f"{format_count(len(pointers), 'pointer')} to {format_bytes(total)}")


def _volume(canonical: str, given: str | None) -> str:
    if given is not None:
        return given
    whole = canonical.partition("://")[2].partition("@")[0].partition("#")[0]
    return (
        whole.rstrip("/").rpartition("/")[2]
        if canonical.startswith(("hf:", "s3:", "gs:", "az:"))
        else ""
    )


def _write(out: str, text: str) -> None:
    path = Path(out)
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        staged.write_text(text + "\n", encoding="utf-8")
        staged.replace(path)
    except OSError as exc:
        staged.unlink(missing_ok=True)
        raise LocalFault(f"{out} cannot be written: {exc.strerror}") from exc


@bptr.command(
    "show",
    cls=Command,
    short_help="List what pointer files name.",
    example="p2pcache bptr show bptr-manifest.json",
    exits=(11, 12),
)
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=ThereIs(dir_okay=False))
@output_options
def show(files: tuple[str, ...], printer: Printer) -> None:
    """List what the pointer FILEs name, and how each file will be verified. Nobody is asked."""
    found = load_pointers(files)
    rows = [_row(pointer) for pointer in found.pointers]
    models = [{"ref": model_ref(m), "volume": m.volume} for m in found.models]
    if printer.mode is Mode.JSON:
        for row in rows:
            printer.show("pointer", row, ())
        for model in models:
            printer.show("model", model, ())
        return
    heads = ("size", "verified by", "expires", "name", "from")
    lines = [
        (format_bytes(r["size"]), r["verified_by"], r["expires"], r["file_name"], r["from"])
        for r in rows
    ]
    printer.show_table("pointer", rows, [heads, *(tuple(map(printable, line)) for line in lines)])
    for model in models:
        printer.note(f"and what {printable(model['ref'])} has when it is pulled")
    for note in found.notes:
        printer.note(f"note: {note}")


def _row(pointer: Pointer) -> dict[str, Any]:
    digest = content_digest(pointer)
    match pointer.resolution:
        case Http(url, expires_at):
            where = url.partition("?")[0]  # behind it may be a signature
            expires = "-" if expires_at >= NEVER else when(expires_at)
        case S3(bucket, key):
            where, expires = f"s3://{bucket}/{key}", "-"
        case Gcs(bucket, path):
            where, expires = f"gs://{bucket}/{path}", "-"
        case Azure(account, container, blob):
            where, expires = f"az://{account}/{container}/{blob}", "-"
    kind, _, value = ("" if digest is None else digests.describe(digest)).partition(":")
    return {
        "file_name": pointer.file_name,
        "size": pointer.size,
        "verified_by": f"{kind} {short(value)}" if digest is not None else "size",
        "sha256": value if kind == "sha256" else None,
        "git_sha1": value if kind == "git" else None,
        "expires": expires,
        "secret": pointer.secret,
        "from": where,
    }
