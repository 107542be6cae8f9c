"""Fix: check what is stored, the surroundings and the settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from p2pcache.agent.localapi.client import connect
from p2pcache.cli.command import Command, Group, counted, output_options
from p2pcache.cli.output import Printer, printable
from p2pcache.cli.progress import ProgressDisplay
from p2pcache.errors import AgentNotRunning, LocalFault, P2PCacheError, Untrusted

if TYPE_CHECKING:
    from p2pcache.agent.localapi.answers import BadBlob, CheckAnswer

NAMED_REFS = 3  # that are not all here; --json has all


@click.command(
    cls=Command,
    short_help="Hash again what is stored.",
    example="p2pcache verify --repair",
    exits=(10, 11, 12, 13),
)
@click.argument("ref", required=False)
@click.option("--repair", is_flag=True, help="Fetch bad blocks again.")
@output_options
def verify(ref: str | None, printer: Printer, repair: bool) -> None:
    """Hash what is stored (all of it, or REF) and compare.

    What is bad is taken out, and said again each time until it is back: --repair fetches only the
    bad blocks again, also of what an earlier run took out.
    """
    with connect(embed=True) as agent, ProgressDisplay(printer) as display:
        answer = agent.verify(ref, repair=repair, on_progress=display.update)
    bad, unread = answer["bad"], answer["unread"]
    lines = [f"bad  {blob['sha256'] or blob['root']}  {_extent(blob)}" for blob in bad]
    if repair:  # else it is the hint
        lines = [
            line if blob["reason"] in (None, _extent(blob)) else f"{line}  {blob['reason']}"
            for line, blob in zip(lines, bad, strict=True)
        ]
    lines += [f"unread  {blob['sha256'] or blob['root']}  {blob['problem']}" for blob in unread]
    printer.show("verify", answer, [printable(line) for line in lines])
    printer.note(f"checked {answer['checked']}, bad {len(bad)}, repaired {answer['repaired']}")
    incomplete = answer.get("incomplete", ())  # an older agent does not say
    if incomplete:
        more = len(incomplete) - NAMED_REFS
        printer.note(
            f"{counted(len(incomplete), 'ref')} not all here: "
            f"{', '.join(incomplete[:NAMED_REFS])}{f' and {more} more' if more > 0 else ''}; "
            "`p2pcache get` brings the rest"
        )
    linked = sum(blob["linked"] for blob in bad)
    if linked:
        printer.note(
            f"{counted(linked, 'link')} in a Hugging Face cache or a folder still show the damaged "
            "bytes; `p2pcache get` of the same replaces them"
        )
    if len(bad) > answer["repaired"]:
        raise Untrusted(
            f"damaged and not repaired: {counted(len(bad) - answer['repaired'], 'blob')}",
            hint="`p2pcache get` (or `push`) the same again: what is good of it is kept"
            if repair
            else "`p2pcache verify --repair` fetches the bad blocks again",
        )
    if unread:
        raise LocalFault(
            f"{counted(len(unread), 'stored blob')} could not be read: {unread[0]['problem']}",
            hint="nothing of them was touched; look at `p2pcache doctor`, then verify again",
        )


def _extent(blob: BadBlob) -> str:
    count = blob["bad_blocks"]
    return str(blob["reason"]) if count is None else counted(count, "block")


@click.command(
    cls=Command, short_help="Check the surroundings.", example="p2pcache doctor", exits=(10,)
)
@output_options
def doctor(printer: Printer) -> None:
    """Run the checks; one line each, with a hint where something is wrong."""
    try:
        with connect() as agent:
            running: CheckAnswer = {
                "check": "agent", "ok": True, "detail": f"pid {agent.connect().pid}", "hint": None,
            }  # fmt: skip
            checks = agent.doctor()
    except AgentNotRunning as exc:
        # Not a fault: commands run one when they need it.
        running = {"check": "agent", "ok": True, "detail": "not running", "hint": exc.hint}
        with connect(embed=True) as agent:
            checks = agent.doctor()
    checks = [running, *checks]
    for check in checks:
        lines = [f"{'ok  ' if check['ok'] else 'BAD '} {check['check']}: {check['detail']}"]
        if check["hint"] and not check["ok"]:
            lines.append(f"     hint: {check['hint']}")
        printer.show("check", check, [printable(line) for line in lines])
    failed = [check["check"] for check in checks if not check["ok"]]
    if failed:
        raise P2PCacheError(f"{len(failed)} of {len(checks)} checks failed: {', '.join(failed)}")


@click.group(
    cls=Group,
    invoke_without_command=True,
    short_help="Show the settings.",
    example="p2pcache config show",
    exits=(10,),
)
@output_options
@click.pass_context
def config(ctx: click.Context, printer: Printer) -> None:
    """Settings: every one with its value and where that came from."""
    if ctx.invoked_subcommand is None:
        _show(printer)


@config.command(
    cls=Command, short_help="Show the settings.", example="p2pcache config show", exits=(10,)
)
@output_options
def show(printer: Printer) -> None:
    """Show every setting with its value and where that came from."""
    _show(printer)


def _show(printer: Printer) -> None:
    with connect(embed=True) as agent:
        settings = sorted(agent.config().items())
    rows = [("setting", "value", "from")]
    rows += [
        (name, str(one.get("text", one["value"])), str(one["source"])) for name, one in settings
    ]
    printer.show_table("setting", [{"name": name, **one} for name, one in settings], rows)
