"""The agent itself: run it in the foreground, look at it, stop it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from p2pcache.agent.localapi.client import connect
from p2pcache.agent.localapi.embedded import agent_command, agent_environment
from p2pcache.cli.command import RATE, Command, Group, output_options
from p2pcache.cli.look import status_lines

if TYPE_CHECKING:
    from p2pcache.cli.output import Printer


@click.group(
    cls=Group,
    invoke_without_command=True,
    short_help="Run, look at and stop the agent.",
    example="p2pcache agent run",
    exits=(10, 13),
)
@click.pass_context
def agent(ctx: click.Context) -> None:
    """The process that does the work. Commands start one when none runs."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@agent.command(cls=Command, short_help="Run it here.", example="p2pcache agent run", exits=(13,))
@click.option(
    "--embedded", is_flag=True, help="Finish when standard input closes and nobody is connected."
)
@click.option(
    "--limit-up",
    type=RATE,
    metavar="RATE",
    help="At most this per second to all other agents together: 10M, 1 MiB.",
)
def run(embedded: bool, limit_up: int | None) -> None:
    """Run the agent in the foreground until SIGTERM or Ctrl-C; it then finishes and exits."""
    # A fresh interpreter in the same process: the agent carries nothing of the command line's.
    command = agent_command(embedded=embedded, limit_up=limit_up)
    os.execve(command[0], command, agent_environment())


@agent.command(cls=Command, short_help="Show it.", example="p2pcache agent status", exits=(10, 11))
@output_options
def status(printer: Printer) -> None:
    """Show the running agent, as `p2pcache status` does."""
    with connect() as client:
        answer = client.status()
    printer.show("status", answer, status_lines(answer))


@agent.command(cls=Command, short_help="Stop it.", example="p2pcache agent stop", exits=(10,))
@output_options
def stop(printer: Printer) -> None:
    """Ask the running agent to finish and exit. What was verified is kept."""
    with connect() as client:
        pid = client.connect().pid
        answer = client.shutdown()
    printer.show("stop", {**answer, "pid": pid}, ())
    printer.note(f"the agent (pid {pid}) is stopping")
