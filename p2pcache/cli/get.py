"""Get: bring a ref's files here, or only say what it means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from p2pcache.agent.localapi.client import connect
from p2pcache.cli.command import DURATION, RATE, SECRET_OPTION, Command, output_options, short, when
from p2pcache.cli.output import Mode, Printer, printable
from p2pcache.cli.progress import ProgressDisplay
from p2pcache.units import format_bytes, format_count, format_duration

if TYPE_CHECKING:
    from p2pcache.agent.localapi.answers import FileAnswer, GetAnswer, ResolveAnswer


KUBO_OPTION = click.option(
    "--kubo", metavar="URL|auto", help="A Kubo that is asked for a CID, by its RPC's address."
)
PLATFORM_OPTION = click.option(
    "--platform",
    metavar="OS/ARCH",
    help="Which image of an oci:// ref for several (default: ours).",
)
LAYOUT_OPTION = click.option(
    "--layout",
    type=click.Choice(["oci", "files"]),
    help="An oci:// ref as an OCI image layout, or as the files that its layers name.",
)


@click.command(
    cls=Command,
    short_help="Bring a ref's files here, verified.",
    example="p2pcache get hf://org/model --include '*.safetensors' --include '*.json'",
    exits=(10, 11, 12, 13, 14),
)
@click.argument("ref")
@click.option(
    "--to",
    type=click.Path(),
    metavar="DIR",
    help="Put the files into this folder, in place of others of their names.",
)
@click.option(
    "--hf-cache/--no-hf-cache",
    default=None,
    help="Put Hugging Face refs into its own cache (default, unless --to is given).",
)
@click.option(
    "--to-ollama/--no-to-ollama",
    default=None,
    help="Show the model to Ollama: an ollama:// ref (default where OLLAMA_MODELS is set, unless "
    "--to), or the GGUF of any other.",
)
@click.option(
    "--ollama-name", metavar="NAME[:TAG]", help="What Ollama calls a GGUF (default: as its file)."
)
@click.option("--include", multiple=True, metavar="PATTERN", help="Only paths like this.")
@click.option("--exclude", multiple=True, metavar="PATTERN", help="No paths like this.")
@click.option("--revision", metavar="NAME", help="Branch, tag or commit (default: the ref's own).")
@click.option("--copy", "copy_files", is_flag=True, help="Copy, to write to the files; never link.")
@click.option("--dry-run", is_flag=True, help="Say what would be fetched, and fetch nothing.")
@click.option(
    "--limit-rate", type=RATE, metavar="RATE", help="At most this per second: 10M, 1 MiB."
)
@click.option("--offline", is_flag=True, help="Ask no origin: what is here, or other agents have.")
@click.option("--refresh", is_flag=True, help="Ask the origin what the ref means now.")
@click.option(
    "--max-age", type=DURATION, metavar="TIME", help="Another agent's word on a name: how old."
)
@click.option(
    "--trust",
    metavar="any|none|PEER[,PEER]",
    help="Whose word on a name counts when the origin is not asked.",
)
@SECRET_OPTION
@KUBO_OPTION
@PLATFORM_OPTION
@LAYOUT_OPTION
@output_options
def get(
    ref: str,
    printer: Printer,
    to: str | None,
    hf_cache: bool | None,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    copy_files: bool,
    **options: Any,  # noqa: ANN401 - the others, by name
) -> None:
    """Bring the files of REF here, verified, and print where they are.

    REF is hf://org/name[@revision][/path], a bare org/name, a huggingface.co address,
    s3://bucket[/key], gs://bucket[/key], az://account/container[/blob], oci://host/name:tag,
    ollama://model:tag, an http(s) address, a path, sha256:HEX, or a CID. Without a running agent,
    one runs as long as the command. Several files that belong in no Hugging Face cache stay in the
    store, and nothing is printed, unless --to says where they are wanted.
    """
    with connect(embed=True) as agent, ProgressDisplay(printer) as display:
        answer = agent.get(
            ref,
            on_progress=display.update,
            to=to,
            hf_cache=to is None if hf_cache is None else hf_cache,
            include=list(include),
            exclude=list(exclude),
            links=not copy_files,
            **options,
        )
    for note in answer["notes"]:
        printer.note(f"note: {note}")
    printer.note(_summary(answer))
    path = answer["path"]
    if path is None and answer.get("dry_run") is None:
        printer.note("they are in the store; `--to DIR` shows them in a folder")
    printer.show("get", answer, [] if path is None else [path])


def _summary(answer: GetAnswer) -> str:
    files = f"{format_count(answer['files'], 'file')}, {format_bytes(answer['total_bytes'])}"
    missing = answer.get("dry_run")
    if missing is not None:
        return f"would fetch {format_bytes(missing['missing_bytes'])} of {files}"
    made = answer.get("made") or {}
    how = ", ".join(format_count(count, kind) for kind, count in made.items())
    return (
        f"{files}: {format_bytes(answer['fetched_bytes'])} fetched, "
        f"{format_bytes(answer['reused_bytes'])} were here; "
        f"{format_duration(answer['seconds'])}" + (f" ({how})" if how else "")
    )


@click.command(
    cls=Command,
    short_help="Say what a ref means now.",
    example="p2pcache resolve hf://org/model@main",
    exits=(10, 11, 12, 14),
)
@click.argument("ref")
@click.option("--revision", metavar="NAME", help="Branch, tag or commit.")
@click.option("--refresh", is_flag=True, help="Ask the origin, whatever is recorded.")
@click.option("--offline", is_flag=True, help="Ask no origin: records, or other agents.")
@SECRET_OPTION
@KUBO_OPTION
@PLATFORM_OPTION
@LAYOUT_OPTION
@output_options
def resolve(ref: str, printer: Printer, **options: Any) -> None:  # noqa: ANN401
    """Resolve REF to its immutable manifest and list its files."""
    with connect(embed=True) as agent:
        answer = agent.resolve(ref, **options)
    if printer.mode is Mode.JSON:
        head = {key: value for key, value in answer.items() if key != "files"}
        printer.show("resolution", head, ())
        for file in answer["files"]:
            printer.show("file", file, ())
        return
    printer.show("resolution", answer, _resolution_lines(answer))
    printer.show_table(
        "file",
        answer["files"],
        [
            ("", "size", "sha256", "root", "path"),
            *(
                (
                    "here" if file["present"] else "",
                    format_bytes(file["size"]),
                    short(file["sha256"]),
                    short(file["root"]),
                    file["path"],
                )
                for file in answer["files"]
            ),
        ],
    )


def _both_names(files: list[FileAnswer]) -> list[str]:
    """Of a single file, whole: each can be given to `get`."""
    if len(files) != 1:
        return []
    sha256, root = files[0]["sha256"], files[0]["root"]
    return [
        f"sha2-256  {f'sha256:{sha256}' if sha256 else '- (not taken yet)'}",
        f"root      {f'ipfs://{root}' if root else '-'}",
    ]


def _resolution_lines(answer: ResolveAnswer) -> list[str]:
    lines = [
        f"ref       {answer['canonical']}",
        f"manifest  {answer['manifest'] or '- (known when the bytes have arrived)'}",
        f"revision  {answer['immutable'] or '-'}",
        f"source    {answer['source']} {answer['endpoint']}"
        + (", gated" if answer["gated"] else ""),
        f"resolved  {when(answer['resolved_at'])}"
        + (" (from the record)" if answer["from_record"] else ""),
        f"files     {answer['file_count']}, {format_bytes(answer['total_bytes'])}",
        *_both_names(answer["files"]),
        *(f"note      {note}" for note in answer["notes"]),
    ]
    return [printable(line) for line in lines]
