"""Look: what a swarm of many nodes would do, in virtual time. No agent is asked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from p2pcache.cli.command import BYTES, RATE, Command, counted, output_options
from p2pcache.errors import LocalFault
from p2pcache.units import format_bytes, format_duration, format_rate

if TYPE_CHECKING:
    from p2pcache.cli.output import Printer
    from p2pcache.transfer.simulate import Case, Outcome

SHARE = click.FloatRange(0.0, 0.5)


@click.command(
    cls=Command,
    short_help="Try a swarm of many nodes in virtual time.",
    example="p2pcache simulate --nodes 64 --size 256MiB --plot swarm.svg",
)
@click.option("--nodes", type=click.IntRange(1, 5000), default=16, help="That start together.")
@click.option("--size", type=BYTES, default="256MiB", help="Of the file that nobody has.")
@click.option("--rate", type=RATE, default="12.5MB/s", help="Of each node's link, each way.")
@click.option("--origin-rate", type=RATE, help="Of the origin's link; as --rate if not given.")
@click.option("--zones", type=click.IntRange(1, 100), default=1, help="Count copies between them.")
@click.option("--churn", type=SHARE, default=0.0, help="Share killed on the way; others join.")
@click.option("--liars", type=SHARE, default=0.0, help="Share that sends other bytes.")
@click.option("--stragglers", type=SHARE, default=0.0, help="Share with a tenth of the rate.")
@click.option("--split", is_flag=True, help="Two halves that never hear of each other.")
@click.option("--seed", type=int, default=1, help="The same seed gives the same figures.")
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Write an SVG.")
@output_options
def simulate(
    *,
    nodes: int,
    size: int,
    rate: int,
    origin_rate: int | None,
    zones: int,
    churn: float,
    liars: float,
    stragglers: float,
    split: bool,
    seed: int,
    plot: Path | None,
    printer: Printer,
) -> None:
    """Run the pull machine of N nodes in virtual time, and say how far from the bound they end."""
    from p2pcache.transfer.simulate import Case, Simulation, svg

    if size < 1:
        raise click.BadParameter("a file of no bytes needs no swarm", param_hint="--size")
    case = Case(
        nodes=nodes, size=size, link=float(rate), origin=float(origin_rate or rate),
        slow_share=stragglers, churn=churn, liars=liars, split=split, zones=zones,
    )  # fmt: skip
    outcome = Simulation(case, seed).run()
    if plot is not None:
        title = f"{nodes} nodes, {format_bytes(size)}, seed {seed}"
        try:
            plot.write_text(svg(outcome.samples, case.bound_s, title))
        except OSError as exc:
            raise LocalFault(f"cannot write {plot}: {exc.strerror}") from exc
    value = {
        "nodes": nodes,
        "size_bytes": size,
        "bytes_per_s": rate,
        "origin_bytes_per_s": origin_rate or rate,
        "seed": seed,
        "bound_s": case.bound_s,
        **outcome.figures(),
    }
    printer.show("simulation", value, _lines(case, outcome))


def _lines(case: Case, outcome: Outcome) -> list[str]:
    rates = f"{format_rate(case.link)} each, origin {format_rate(case.origin)}"
    lines = [
        f"swarm       {counted(case.nodes, 'node')}, {format_bytes(case.size)}, {rates}",
        f"bound       {format_duration(case.bound_s)}",
        f"last node   {outcome.last:.3f} x the bound",
        f"median      {outcome.median:.3f} x the bound",
        f"origin      {outcome.copies:.3f} copies",
        f"duplicates  {outcome.duplicates:.2%} of all bytes",
        f"uploads     the busiest node sent {outcome.skew:.2f} x the mean",
    ]
    if case.zones > 1:
        lines.append(f"zones       {outcome.crossings:.2f} copies entered each from others")
    if outcome.banned or outcome.unbanned:
        lines.append(
            f"liars       {outcome.banned} of {outcome.banned + outcome.unbanned} found out, "
            f"{format_bytes(outcome.wrong_bytes)} of wrong bytes sent, none kept"
        )
    return lines
