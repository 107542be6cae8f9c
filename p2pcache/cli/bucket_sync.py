"""Get: content between a Hugging Face cache and a bucket of hf-cache-sync."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import click

from p2pcache.agent.localapi.client import connect
from p2pcache.cli.bucket_options import config_option, repo_name
from p2pcache.cli.command import DURATION, RATE, Command, output_options, short
from p2pcache.cli.output import printable
from p2pcache.cli.progress import ProgressDisplay
from p2pcache.errors import Denied, P2PCacheError, from_wire
from p2pcache.units import format_bytes, format_count, format_duration

if TYPE_CHECKING:
    from collections.abc import Iterable

    from p2pcache.agent.localapi.client import Client
    from p2pcache.cli.output import Printer

dry_run_option = click.option("--dry-run", is_flag=True, help="Say what would move; move nothing.")
fallback_option = click.option(
    "--fallback",
    type=click.Choice(["hf-hub"]),
    help="Where the bucket fails, ask the hub; not where it denies a login.",
)
pull_workers_option = click.option(
    "--workers", type=click.IntRange(min=1), help="Means nothing: the agent finds the best itself."
)
workers_option = click.option(
    "--workers", type=click.IntRange(1, 64), default=8, show_default=True, help="Blobs at once."
)
rate_option = click.option(
    "--limit-rate", type=RATE, metavar="RATE", help="At most this per second: 10M, 1 MiB."
)
gated_option = click.option(
    "--allow-gated", is_flag=True, help="Also what is gated or private at its hub."
)


@click.command(
    cls=Command,
    short_help="Bring a repository out of the bucket.",
    example="p2pcache bucket pull org/model",
    exits=(10, 11, 12, 13, 14),
)
@click.argument("repo")
@click.option("--revision", "-r", metavar="NAME", help="A commit, or a ref of the bucket (main).")
@click.option(
    "--repo-type",
    type=click.Choice(["model", "dataset", "space"]),
    help="Where the bucket has several of that name.",
)
@dry_run_option
@pull_workers_option
@fallback_option
@rate_option
@config_option
@output_options
def pull(repo: str, printer: Printer, workers: int | None, **options: Any) -> None:  # noqa: ANN401
    """Bring REPO (org/name) out of the bucket into the Hugging Face cache, verified.

    Other agents are asked first, as for every pull of that commit.
    """
    with connect(embed=True) as agent:
        answer = _pull(agent, printer, repo=repo, **options)
    printer.show("bucket_pull", answer, [answer["path"]] if answer["path"] else [])


def _pull(agent: Client, printer: Printer, **options: Any) -> dict[str, Any]:  # noqa: ANN401
    with ProgressDisplay(printer) as display:
        answer, _ = agent.bucket("pull", on_progress=display.update, **options)
    for note in answer["notes"]:
        printer.note(printable(f"note: {note}"))
    name = f"{repo_name(answer)} {short(answer['commit'])}"
    files = f"{format_count(answer['files'], 'file')}, {format_bytes(answer['total_bytes'])}"
    missing = answer["dry_run"]
    if missing is not None:
        said = f"would fetch {format_bytes(missing['missing_bytes'])} of {files}"
    else:
        said = (
            f"{files}: {format_bytes(answer['fetched_bytes'])} fetched, "
            f"{format_bytes(answer['reused_bytes'])} were here; "
            f"{format_duration(answer['seconds'])}"
        )
    printer.note(printable(f"{name}: {said}"))
    return answer


@click.command(
    "pull-all",
    cls=Command,
    short_help="Bring every repository of the bucket.",
    example="p2pcache bucket pull-all --include 'org/*'",
    exits=(10, 11, 12, 13, 14),
)
@click.option("--include", multiple=True, metavar="PATTERN", help="Only repositories like this.")
@click.option("--exclude", multiple=True, metavar="PATTERN", help="No repositories like this.")
@click.option("--limit", type=click.IntRange(min=0), metavar="N", help="At most so many.")
@dry_run_option
@pull_workers_option
@fallback_option
@rate_option
@config_option
@output_options
def pull_all(
    include: tuple[str, ...], exclude: tuple[str, ...], limit: int | None, config: str | None,
    printer: Printer, workers: int | None, **options: Any,  # noqa: ANN401
) -> None:  # fmt: skip
    """Bring what `main` means of every repository in the bucket.

    One that fails does not keep the others from coming; the exit code is 1 then.
    """
    failed: list[str] = []
    with connect(embed=True) as agent:
        _, rows = agent.bucket("remote", config=config)
        wanted = [row for row in rows if "main" in row["refs"]]
        wanted = [row for row in wanted if _takes(row, include, exclude)][:limit]
        for row in wanted:
            try:
                answer = _pull(
                    agent, printer, repo=row["repo"], repo_type=row["repo_type"], config=config,
                    **options,
                )  # fmt: skip
            except P2PCacheError as exc:
                failed.append(repo_name(row))
                printer.note(printable(f"error: {repo_name(row)}: {exc.message}"))
                said = {"repo": row["repo"], "repo_type": row["repo_type"], "error": exc.to_wire()}
                printer.show("bucket_pull", said, ())
            else:
                path = answer["path"]
                printer.show("bucket_pull", {**answer, "error": None}, [path] if path else [])
    printer.note(f"{format_count(len(wanted) - len(failed), 'repository')} of "
                 f"{len(wanted)} are here")  # fmt: skip
    if failed:
        raise _some_failed(failed, len(wanted))


def _takes(row: dict[str, Any], include: Iterable[str], exclude: Iterable[str]) -> bool:
    """By the name alone, as hf-cache-sync does, or with the type before it: `datasets/org/*`."""
    names = (row["repo"], repo_name(row))
    patterns = list(include)
    wanted = not patterns or any(fnmatchcase(name, p) for p in patterns for name in names)
    return wanted and not any(fnmatchcase(name, p) for p in exclude for name in names)


def _some_failed(failed: list[str], count: int) -> P2PCacheError:
    shown = ", ".join(failed[:5]) + (", ..." if len(failed) > 5 else "")
    return P2PCacheError(
        printable(f"{len(failed)} of {count} failed: {shown}"),
        hint="what was verified is kept: run it again when that is mended",
    )


@click.command(
    cls=Command,
    short_help="Send the cache's repositories to the bucket.",
    example="p2pcache bucket push --dry-run",
    exits=(10, 11, 12, 14),
)
@click.argument("repos", nargs=-1, metavar="[REPO]...")
@dry_run_option
@workers_option
@rate_option
@gated_option
@config_option
@output_options
def push(repos: tuple[str, ...], printer: Printer, **options: Any) -> None:  # noqa: ANN401
    """Send what the bucket lacks of REPOs, or of the whole Hugging Face cache.

    Blobs are hashed before they go out. What is gated or private at its hub stays here.
    """
    with connect(embed=True) as agent, ProgressDisplay(printer) as display:
        answer, _ = agent.bucket("push", on_progress=display.update, repos=list(repos), **options)
    _show_push(printer, answer)
    printer.show("bucket_push", answer, [answer["where"]])
    if answer["failed"]:
        raise _some_failed([repo_name(row) for row in answer["failed"]], _count(answer))
    if repos and answer["restricted"]:
        raise Denied(
            f"{repo_name(answer['restricted'][0])}: {answer['restricted'][0]['reason']}",
            hint="if its licence lets you pass it on so, use --allow-gated",
        )


def _count(answer: dict[str, Any]) -> int:
    return int(answer["unchanged"]) + len(answer["restricted"]) + int(answer["revisions"])


def _show_push(printer: Printer, answer: dict[str, Any]) -> None:
    for row in answer["failed"]:
        printer.note(printable(f"error: {repo_name(row)} {short(row['commit'])}: {row['error']}"))
        if row["hint"]:
            printer.note(printable(f"  hint: {row['hint']}"))
    for row in answer["restricted"]:
        printer.note(
            printable(f"left out: {repo_name(row)} {short(row['commit'])}: {row['reason']}")
        )
    for note in answer["notes"]:
        printer.note(printable(f"note: {note}"))
    printer.note(_push_summary(answer))


def _push_summary(answer: dict[str, Any]) -> str:
    """What went, or would go, to the bucket, and what it had."""
    count, there = answer["revisions"], answer["unchanged"]
    whole = f"{format_count(there, 'revision')} {'is' if there == 1 else 'are'} there, whole"
    if not count:
        return f"nothing to send: {whole}"
    verb = "would be sent" if answer["dry_run"] else "sent"
    blobs = f"{format_count(answer['sent_blobs'], 'blob')} ({format_bytes(answer['sent_bytes'])})"
    if not answer["sent_blobs"]:
        blobs = "no blob, for the bucket has them"
    said = f"{verb}: {format_count(count, 'revision')}, {blobs}"
    return said + (f"; {whole}" if there else "")


@click.command(
    cls=Command,
    short_help="Push whenever the cache has changed.",
    example="p2pcache bucket watch",
    exits=(10, 11, 12, 14),
)
@click.option(
    "--debounce",
    type=DURATION,
    default=30,
    metavar="TIME",
    help="How long nothing has to change before a push (30s).",
)
@click.option("--once", is_flag=True, help="End after the first push of a change.")
@workers_option
@rate_option
@gated_option
@config_option
@output_options
def watch(printer: Printer, **options: Any) -> None:  # noqa: ANN401
    """Push now, and whenever the Hugging Face cache has changed and is quiet again, until Ctrl-C.

    A push that failed is tried again after some minutes.
    """

    def show(item: dict[str, Any]) -> None:
        if "error" in item:
            error = from_wire(item["error"])
            printer.note(printable(f"error: {error.message}"))
            printer.show("bucket_push", {"error": item["error"]}, ())
        else:
            _show_push(printer, item)
            printer.show("bucket_push", {**item, "error": None}, ())

    with connect(embed=True) as agent:
        agent.bucket("watch", on_item=show, **options)
