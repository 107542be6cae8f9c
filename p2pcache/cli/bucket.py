"""Get: the buckets of hf-cache-sync; here what looks at them, `bucket_sync` moves content."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from p2pcache.agent.localapi.client import connect
from p2pcache.cli.bucket_options import config_option, repo_name
from p2pcache.cli.bucket_sync import pull, pull_all, push, watch
from p2pcache.cli.command import Command, Group, output_options, short, when
from p2pcache.cli.output import printable
from p2pcache.errors import DiskFull, LocalFault, P2PCacheError
from p2pcache.formats.hf_cache_sync.settings import FILE_NAME, TEMPLATE
from p2pcache.units import format_bytes, format_count

if TYPE_CHECKING:
    from p2pcache.cli.output import Printer


@click.group(
    cls=Group,
    short_help="Share a Hugging Face cache through a bucket.",
    example="p2pcache bucket pull org/model",
    exits=(10, 11, 12, 13, 14),
)
def bucket() -> None:
    """Share Hugging Face caches through a bucket, in the layout of hf-cache-sync.

    The bucket is that of .hf-cache-sync.yaml, here or in the home folder.
    """


for command in (pull, pull_all, push, watch):
    bucket.add_command(command)


@bucket.command(cls=Command, short_help="Write a file of settings.", example="p2pcache bucket init")
@output_options
def init(printer: Printer) -> None:
    """Write .hf-cache-sync.yaml into this folder, to be filled in; one that is there is left."""
    path = Path(FILE_NAME).absolute()
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with os.fdopen(os.open(path, flags, 0o600), "w", encoding="utf-8") as stream:
            stream.write(TEMPLATE)
        made = True
    except FileExistsError:
        printer.note(f"{path} is there already: it is left as it is")
        made = False
    except OSError as exc:
        raise LocalFault(f"{path} cannot be written: {exc.strerror}") from exc
    printer.show("bucket_init", {"path": str(path), "made": made}, [str(path)] if made else [])


@bucket.command(
    cls=Command,
    short_help="Show the cache, its budget and the bucket.",
    example="p2pcache bucket status",
    exits=(10, 11),
)
@config_option
@output_options
def status(printer: Printer, **options: Any) -> None:  # noqa: ANN401
    """Show the cache and the settings. The bucket is not asked."""
    from p2pcache.agent.localapi.calls import bucket as settled

    said = settled("prune", **options).args
    with connect(embed=True) as agent:
        found, _ = agent.bucket("list", **options)
    named = f"s3://{said['bucket']}/{said['prefix']}".rstrip("/") if said["bucket"] else None
    value = {**found, "budget_bytes": said["max_bytes"], "bucket": named, "login": said["login"]}
    lines = [
        f"cache    {found['cache']}",
        f"repos    {found['repos']}, {format_count(found['revisions'], 'revision')}",
        f"size     {format_bytes(found['total_bytes'])}"
        + (f", of which no snapshot shows {format_bytes(found['loose_bytes'])}"
           if found["loose_bytes"] else ""),
        f"partial  {format_bytes(found['partial_bytes'])}",
        f"budget   {format_bytes(said['max_bytes'])}",
        f"bucket   {named or '- (`p2pcache bucket init` writes a file of settings)'}",
        f"login    {said['login'] or '-'}",
    ]  # fmt: skip
    printer.show("bucket_status", value, [printable(line) for line in lines])


@bucket.command(
    "list",
    cls=Command,
    short_help="List revisions, of the cache or of the bucket.",
    example="p2pcache bucket list --remote",
    exits=(10, 11, 12, 14),
)
@click.option("--remote", is_flag=True, help="Those of the bucket.")
@config_option
@output_options
def list_(remote: bool, printer: Printer, **options: Any) -> None:  # noqa: ANN401
    """List the revisions of the Hugging Face cache, or with --remote of the bucket."""
    with connect(embed=True) as agent:
        answer, rows = agent.bucket("remote" if remote else "list", **options)
    _notes(printer, answer)
    last = "blobs missing" if remote else "used"
    heads = ("repository", "commit", "refs", "files", "size", last)
    lines = [
        (
            repo_name(row), short(row["commit"]), " ".join(row["refs"]) or "-", str(row["files"]),
            format_bytes(row["size"]),
            str(row["missing_blobs"]) if remote else when(row["used_at"]),
        )
        for row in rows
    ]  # fmt: skip
    printer.show_table("revision", rows, [heads, *(tuple(map(printable, line)) for line in lines)])


@bucket.command(
    cls=Command,
    short_help="Compare the cache with the bucket.",
    example="p2pcache bucket diff",
    exits=(10, 11, 12, 14),
)
@config_option
@output_options
def diff(printer: Printer, **options: Any) -> None:  # noqa: ANN401
    """Show for each revision whether the cache, the bucket or both have it.

    `differs`: one of them has files that the other has not.
    """
    with connect(embed=True) as agent:
        answer, rows = agent.bucket("diff", **options)
    _notes(printer, answer)
    lines = [(repo_name(row), short(row["commit"]), row["status"]) for row in rows]
    heads = ("repository", "commit", "status")
    printer.show_table("revision", rows, [heads, *(tuple(map(printable, line)) for line in lines)])
    counts = ", ".join(f"{count} {status}" for status, count in sorted(answer["counts"].items()))
    printer.note(counts or "neither has anything")


@bucket.command(
    cls=Command,
    short_help="Make room in the cache.",
    example="p2pcache bucket prune --max-gb 50",
    exits=(10, 11, 13),
)
@click.option(
    "--max-gb",
    type=click.FloatRange(min=0),
    metavar="GB",
    help="What is to be left, in GiB (default: cache.max_local_gb).",
)
@click.option("--dry-run", is_flag=True, help="Say what would go, and remove nothing.")
@config_option
@output_options
def prune(printer: Printer, **options: Any) -> None:  # noqa: ANN401
    """Remove revisions that no ref names, the one used longest ago first, until the rest fits.

    Downloads of other processes stay, and what changed within the last hour. A budget that cannot
    be met is an error (13), after what may go is gone.
    """
    with connect(embed=True) as agent:
        answer, rows = agent.bucket("prune", **options)
    _notes(printer, answer)
    verb = "would remove" if answer["dry_run"] else "removed"
    lines = [f"{verb} {repo_name(row)} {short(row['commit'])}" for row in rows]
    printer.show("bucket_prune", {**answer, "removed": rows}, map(printable, lines))
    printer.note(
        f"{verb} {format_count(answer['revisions'], 'revision')}, "
        f"{format_bytes(answer['freed_bytes'])}; {format_bytes(answer['left_bytes'])} are left"
    )
    if answer["elsewhere_bytes"]:
        printer.note(
            f"{format_bytes(answer['elsewhere_bytes'])} of it have other names on this disk: "
            "`p2pcache gc` evicts what the store keeps"
        )
    if answer["over_budget"] is not None:
        raise DiskFull(
            answer["over_budget"], hint="`hf cache rm` removes what has a ref; or a larger budget"
        )


@bucket.command(
    cls=Command,
    short_help="Check the settings, the login and the bucket.",
    example="p2pcache bucket doctor",
    exits=(10, 11),
)
@click.option("--write", is_flag=True, help="A login that may only read is a fault.")
@config_option
@output_options
def doctor(printer: Printer, **options: Any) -> None:  # noqa: ANN401
    """Run the checks; one line each, with a hint where something is wrong or to be known."""
    with connect(embed=True) as agent:
        _, checks = agent.bucket("doctor", **options)
    for check in checks:
        lines = [f"{'ok  ' if check['ok'] else 'BAD '} {check['check']}: {check['detail']}"]
        if check["hint"]:
            lines.append(f"     hint: {check['hint']}")
        printer.show("check", check, [printable(line) for line in lines])
    failed = [check["check"] for check in checks if not check["ok"]]
    if failed:
        raise P2PCacheError(f"{len(failed)} of {len(checks)} checks failed: {', '.join(failed)}")


def _notes(printer: Printer, answer: dict[str, Any]) -> None:
    for note in answer.get("notes", ()):
        printer.note(printable(f"note: {note}"))
