"""Trace: what running pulls are told and ask for, and the same again."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from p2pcache.agent.localapi.client import connect
from p2pcache.agent.replaying import replay_file
from p2pcache.cli.command import Command, ThereIs, output_options
from p2pcache.cli.output import Mode, Printer, printable
from p2pcache.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FIELDS_CHARS = 160  # of one line for people


@click.command(
    cls=Command,
    short_help="Follow running pulls, or replay one.",
    example="p2pcache trace --json > pull.jsonl",
    exits=(10, 11),
)
@click.argument("ref", required=False)
@click.option("--once", is_flag=True, help="End with the first pull that ends.")
@click.option(
    "--replay",
    type=ThereIs(path_type=Path),
    metavar="FILE",
    help="Replay a recording instead: does the machine ask for the same again?",
)
@output_options
def trace(ref: str | None, once: bool, replay: Path | None, printer: Printer) -> None:
    """Print every event and action of running pulls (of REF, or all) as it happens.

    With --json one line of JSON each, in a documented format that --replay reads.
    """
    if replay is not None:
        if ref is not None or once:
            raise UsageError("--replay takes a recording, and neither REF nor --once")
        same = True
        for found in replay_file(replay):
            same = same and found["same"]
            printer.show("replay", found, replayed_lines(found))
        if not same:
            raise click.exceptions.Exit(1)
        return

    def show(line: str) -> None:
        if printer.mode is Mode.JSON:
            click.echo(line)
        else:
            printer.show("line", {}, [readable(json.loads(line))])
        sys.stdout.flush()  # whoever reads a pipe wants it now

    with connect() as agent:
        agent.trace(show, ref, once=once)


def readable(record: Mapping[str, Any]) -> str:
    """One record for people: time, what, and as much of its fields as fits."""
    kind = record.get("type", "?")
    if kind == "trace":
        return f"listening to {record.get('agent', 'the agent')}; Ctrl-C ends it"
    if kind == "lost":
        return f"... {record.get('steps')} steps were lost: this listener is too slow"
    head = f"{record.get('pull', '?'):>3} {record.get('t', 0.0):9.3f}s  "
    if kind not in ("event", "action"):
        shown = {k: v for k, v in record.items() if k in ("ref", "total_bytes", "where")}
        return printable(f"{head}{kind} {_short(shown)}")
    rest = {k: v for k, v in record.items() if k not in ("type", "pull", "step", "t", kind)}
    mark = ">" if kind == "event" else "<"
    return printable(f"{head}{mark} {record.get(kind)} {_short(rest)}")


def _short(fields: Mapping[str, Any]) -> str:
    text = json.dumps(fields, separators=(",", ":"))
    return text if len(text) <= FIELDS_CHARS else text[: FIELDS_CHARS - 3] + "..."


def replayed_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """What came of a replay."""
    yield printable(f"pull {found['pull']}  {found['ref']}")
    difference = found["difference"]
    if difference is None:
        yield f"  the same {found['actions']} actions in {found['steps']} steps"
    else:
        yield (
            f"  differs at step {difference['step']}, after {difference['t']:.3f}s; "
            f"the {found['steps']} steps before it are the same"
        )
        yield printable(f"  recorded  {json.dumps(difference['recorded'])}")
        yield printable(f"  replayed  {json.dumps(difference['replayed'])}")
    if found["incomplete"] is not None:
        yield printable(f"  not to its end: {found['incomplete']}")
    where = ", ".join(f"{k.removesuffix('_s')} {v:.2f}s" for k, v in found["where"].items() if v)
    yield f"  {found['seconds']:.2f}s: {where or '-'}"
    for incident in found["incidents"]:
        yield printable(f"  after {incident['at_s']:.1f}s: {incident['text']}")
