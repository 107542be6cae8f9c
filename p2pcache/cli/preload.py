"""Get: have agents of the network bring a ref ahead of its use, and look at how far they are."""

from __future__ import annotations

import datetime
import time
from typing import TYPE_CHECKING, Any, cast

import click

from p2pcache import units
from p2pcache.agent.localapi.client import connect
from p2pcache.cli.command import EXPIRY, RATE, Command, Group, output_options, when
from p2pcache.cli.output import Mode, aligned, printable, say
from p2pcache.cli.preload_reasons import reasons
from p2pcache.errors import P2PCacheError, UsageError
from p2pcache.units import format_bytes, format_duration, format_progress, format_rate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from p2pcache.agent.localapi.answers import Progress
    from p2pcache.agent.localapi.preloaded import PreloadAnswer, PreloadLine, PreloadStateAnswer
    from p2pcache.cli.output import Printer

REDRAW_S = 0.5
LINE_S = 10.0  # in a log
ID_CHARS = 12  # of an id: enough to name one
PEER_CHARS = 16


def moment(text: str, base: float) -> float:
    """`6h` (after `base`), `22:00` (the next one after it), or `2026-11-22T03:00`, which is local
    time. `base` and the result are unix seconds. Raises ValueError.
    """
    try:
        return base + units.parse_duration(text)
    except ValueError:
        pass
    try:
        clock = datetime.time.fromisoformat(text)
    except ValueError:
        clock = None
    try:
        if clock is None:
            return datetime.datetime.fromisoformat(text).timestamp()
        first = datetime.datetime.fromtimestamp(base).astimezone()
        at = datetime.datetime.combine(first.date(), clock)
        later = at if at.timestamp() > base else at + datetime.timedelta(days=1)
        return later.timestamp()
    except (ValueError, OverflowError, OSError) as exc:
        raise ValueError(f"`{text}` is no time; write 6h, 22:00 or 2026-11-22T03:00") from exc


class _Time(click.ParamType[str]):
    """What `moment` understands, as it was typed."""

    name = "time"

    def convert(
        self,
        value: Any,  # noqa: ANN401 - click's own signature
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> str:
        """See above."""
        try:
            moment(str(value), time.time())
        except ValueError as exc:
            self.fail(str(exc), param, ctx)
        return str(value)


TIME = _Time()


def span(at: str | None, deadline: str | None, now: float) -> tuple[float | None, float | None]:
    """When it begins and when it is given up, in unix seconds; the latter counts from the former.
    Raises ValueError.
    """
    start = None if at is None else moment(at, now)
    return start, None if deadline is None else moment(deadline, max(now, start or now))


class _Preload(Group):
    """`preload REF` is `preload start REF`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See above."""
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["start", *args]
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options of `start`, which `preload REF` takes, then the commands."""
        options = (one for one in start.params if isinstance(one, click.Option))
        found = (one.get_help_record(ctx) for one in options)
        with formatter.section("Options of `preload REF`"):
            formatter.write_dl([record for record in found if record is not None])
        self.format_commands(ctx, formatter)


@click.group(
    cls=_Preload,
    short_help="Have other agents bring it ahead of its use.",
    example="p2pcache preload hf://org/model --nodes all --watch",
    exits=(10, 11, 12, 13, 14),
)
def preload() -> None:
    """Have agents of the network bring a ref ahead of its use.

    `p2pcache preload REF` is short for `p2pcache preload start REF`.
    """


@preload.command(
    cls=Command,
    short_help="Sign a preload and tell everybody.",
    example="p2pcache preload hf://org/model --nodes 3 --replicas 2 --at 22:00 --deadline 6h",
    exits=(10, 11, 12, 14),
)
@click.argument("ref")
@click.option("--revision", metavar="NAME", help="Branch, tag or commit.")
@click.option(
    "--nodes", default="all", metavar="all|N|LABEL", help="Which agents: gpu=h100 is a label."
)
@click.option(
    "--replicas",
    type=click.IntRange(0, 100_000),
    default=0,
    metavar="K",
    help="Evictions leave so many copies.",
)
@click.option("--at", type=TIME, metavar="TIME", help="Begin then: 22:00, 6h (from now).")
@click.option(
    "--deadline", type=TIME, metavar="TIME", help="Give up what is missing: 6h (after the start)."
)
@click.option(
    "--keep", type=EXPIRY, metavar="TIME", help="How long copies are kept from the start: 7d."
)
@click.option("--limit-rate", type=RATE, metavar="RATE", help="Of each agent, a second: 10M.")
@click.option("--watch", is_flag=True, help="Show how far they are until all have it.")
@output_options
def start(
    ref: str,
    printer: Printer,
    watch: bool,
    keep: int | None,
    at: str | None,
    deadline: str | None,
    **options: Any,  # noqa: ANN401
) -> None:
    """Have agents bring what REF means now, each with its own access, behind their own pulls.

    The preload is signed by this agent and goes on without it. Its id is printed.
    """
    begins, ends = span(at, deadline, time.time())
    with connect() as agent:
        answer = agent.preload(ref, keep_s=keep, at=begins, deadline=ends, **options)
        for note in answer.get("notes") or []:
            printer.note(f"note: {note}")
        if not watch:
            printer.show("preload", answer, [answer["id"]])
            return
        printer.note(f"preload {answer['id'][:ID_CHARS]} of {answer['ref']}")
        with _Display(printer) as display:
            state = agent.preload_state(answer["id"], watch=True, on_progress=display.update)
    _show(printer, state)
    _check(state)


@preload.command(
    "list",
    cls=Command,
    short_help="List what is being preloaded.",
    example="p2pcache preload list --json",
    exits=(10, 11),
)
@output_options
def list_(printer: Printer) -> None:
    """List the preloads that this agent knows, its own and those of others."""
    with connect() as agent:
        found = agent.preloads()
    rows = [("id", "ref", "nodes", "copies", "start", "deadline", "here", "signer")]
    rows += [
        (
            one["id"][:ID_CHARS],
            one["ref"],
            one["nodes"],
            str(one["replicas"] or "-"),
            when(one["start_at"]),
            when(one["deadline_at"]),
            _here(one),
            "this agent" if one["mine"] else one["signer"][-PEER_CHARS:],
        )
        for one in found
    ]
    printer.show_table("preload", found, rows)


def _here(one: PreloadAnswer) -> str:
    if one["cancelled"]:
        return "cancelled"
    return one.get("state", "-") if one.get("chosen", True) else "not selected"


@preload.command(
    cls=Command,
    short_help="Show how far every agent is.",
    example="p2pcache preload show 1f0c9a2be77d --watch",
    exits=(10, 11),
)
@click.argument("id_", metavar="ID")
@click.option("--watch", is_flag=True, help="Until it is over; then 0 says that all have it.")
@output_options
def show(id_: str, printer: Printer, watch: bool) -> None:
    """Show the preload ID (or the beginning of its id): one line an agent, and totals."""
    if not id_.strip():
        raise UsageError("there is no id", hint="`p2pcache preload list` shows them")
    with connect() as agent, _Display(printer) as display:
        state = agent.preload_state(id_, watch=watch, on_progress=display.update)
    _show(printer, state)
    if watch:
        _check(state)


@preload.command(
    cls=Command,
    short_help="End a preload of one's own.",
    example="p2pcache preload cancel 1f0c9a2be77d",
    exits=(10, 11, 14),
)
@click.argument("id_", metavar="ID")
@output_options
def cancel(id_: str, printer: Printer) -> None:
    """End the preload ID everywhere. What agents have brought so far stays until it is evicted."""
    if not id_.strip():
        raise UsageError("there is no id", hint="`p2pcache preload list` shows them")
    with connect() as agent:
        answer = agent.cancel_preload(id_)
    printer.show("preload", answer, [answer["id"]])


def _check(state: PreloadStateAnswer) -> None:
    """Raise what `--watch` ends with when not everybody has it."""
    totals = state["totals"]
    if state["cancelled"]:
        raise P2PCacheError("the preload was cancelled")
    if not totals["agents"]:
        raise P2PCacheError(
            f"no agent is selected by `{state['nodes']}`",
            hint="`agent.labels` in its settings says what an agent is",
        )
    if totals["complete"] < totals["agents"]:
        missing = totals["agents"] - totals["complete"]
        raise P2PCacheError(
            f"{missing} of {totals['agents']} agents do not have it",
            hint=f"`p2pcache preload show {state['id'][:ID_CHARS]}` says why; {_next(state)}",
        )


def _next(state: PreloadStateAnswer) -> str:
    missing = [one for one in state["agents"] if one["chosen"] and one["state"] != "complete"]
    if missing and all(one["code"] == "deadline" for one in missing):
        return "the deadline came first: preload it again with a later one"
    return "they go on trying"


def _show(printer: Printer, state: PreloadStateAnswer) -> None:
    if printer.mode is Mode.JSON:
        printer.show("preload", state, ())
        return
    rows = _rows(state)
    printer.show_table("agent", state["agents"], rows)
    for reason in reasons(line for line in state["agents"] if line["chosen"]):
        printer.note(f"  {reason}")
    printer.note(_totals(state))


def _rows(state: PreloadStateAnswer) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("agent", "state", "bytes", "rate", "origin", "labels")]
    rows += [_row(line) for line in state["agents"] if line["chosen"] or line["state"] != "idle"]
    return rows


def _row(line: PreloadLine) -> tuple[str, ...]:
    words = [line["state"]]
    if line["code"]:
        words.append(f"({line['code']})")
    if not line["here"]:
        words.append(f"away, heard {format_duration(line['heard_s'])} ago")
    return (
        "this agent" if line["self"] else line["peer"][-PEER_CHARS:],
        " ".join(words),
        format_progress(line["done_bytes"], line["total_bytes"]) if line["total_bytes"] else "-",
        format_rate(line["bytes_per_s"]) if line["bytes_per_s"] else "-",
        format_bytes(line["origin_bytes"]),
        line["labels"] or "-",
    )


def _totals(state: PreloadStateAnswer) -> str:
    totals = state["totals"]
    words = [f"{totals['complete']} of {totals['agents']} agents have it"]
    if totals["total_bytes"]:
        words.append(format_progress(totals["done_bytes"], totals["total_bytes"]))
    if totals["bytes_per_s"]:
        words.append(format_rate(totals["bytes_per_s"]))
    if totals["eta_s"] is not None:
        words.append(f"ETA {format_duration(totals['eta_s'])}")
    if totals["origin_copies"] is not None:
        words.append(f"{totals['origin_copies']:.2f} origin copies")
    return ", ".join(words)


class _Display:
    """What `--watch` shows until it is over: a table that is redrawn, a line now and then in a log,
    a JSON line for each change.
    """

    def __init__(self, printer: Printer) -> None:
        self._printer = printer
        self._drawn = 0  # lines
        self._next_at = 0.0 if printer.redraws else time.monotonic() + LINE_S

    def __enter__(self) -> _Display:
        return self

    def __exit__(self, *_: object) -> None:
        self._erase()

    def update(self, progress: Progress) -> None:
        """Take the newest state."""
        state = cast("PreloadStateAnswer", progress)
        if "totals" not in state:  # only a sign of life
            return
        printer = self._printer
        if printer.mode is Mode.JSON:
            fields = {key: value for key, value in state.items() if key != "type"}
            printer.show("preload-progress", fields, ())
            return
        now = time.monotonic()
        if not printer.shows_progress or now < self._next_at:
            return
        if printer.redraws:
            self._erase()
            self._draw([*aligned(_rows(state)), printable(_totals(state))])
            self._next_at = now + REDRAW_S
        else:
            say(printer.stderr, printable(_totals(state)) + "\n")
            self._next_at = now + LINE_S

    def _draw(self, lines: Sequence[str]) -> None:
        say(self._printer.stderr, "".join(f"{line}\x1b[K\n" for line in lines))
        self._drawn = len(lines)

    def _erase(self) -> None:
        if self._drawn:
            say(self._printer.stderr, f"\x1b[{self._drawn}A\x1b[J")
            self._drawn = 0
