"""The entry point: the first screen, commands that are loaded when named, errors to exit codes."""

from __future__ import annotations

import importlib
import io
import sys
import warnings
from typing import TYPE_CHECKING

import click

from p2pcache.agent.localapi.client import tell_slow_start, terminal_options
from p2pcache.cli.command import Command
from p2pcache.cli.output import Mode, Printer, discard, not_written, printable, say
from p2pcache.errors import Interrupted, P2PCacheError, UsageError
from p2pcache.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

TAGLINE = "p2pcache: a peer-to-peer content-addressed cache for AI models"

# Group, then command: the module that holds it, its name there, and its one line.
COMMANDS: dict[str, dict[str, tuple[str, str, str]]] = {
    "Get": {
        "get": ("get", "get", "Bring a ref's files here, verified."),
        "resolve": ("get", "resolve", "Say what a ref means now."),
        "bptr": ("bptr", "bptr", "Read and write Baseten's pointer files."),
        "bucket": ("bucket", "bucket", "Share a Hugging Face cache through a bucket."),
        "preload": ("preload", "preload", "Have other agents bring it ahead of its use."),
    },
    "Keep": {
        "ls": ("keep", "ls", "List what is stored."),
        "pin": ("keep", "pin", "Never evict this."),
        "unpin": ("keep", "unpin", "Let it be evicted again."),
        "rm": ("keep", "rm", "Forget a ref and free its space."),
        "gc": ("keep", "gc", "Evict what was not used for longest."),
    },
    "Share": {
        "push": ("share", "push", "Put a file or folder into the store, or elsewhere."),
        "adopt": ("adopt", "adopt", "Share a folder's files from where they lie."),
        "unadopt": ("adopt", "unadopt", "Use a folder's files no more."),
        "publish": ("publish", "publish", "Give content to the public IPFS network."),
        "unpublish": ("publish", "unpublish", "Give it to no stranger any more."),
        "export": ("bundle", "export", "Write refs into one file for another network."),
        "import": ("bundle", "import_", "Take in a file that export wrote, or any CAR."),
        "init": ("network", "init", "Make a network of your own."),
        "invite": ("network", "invite", "Let another machine join."),
        "join": ("network", "join", "Join a network."),
        "peers": ("network", "peers", "Show the other agents."),
        "grant": ("grant", "grant", "Let an agent read a gated repository."),
        "unban": ("network", "unban", "Talk to a banned agent again."),
    },
    "Look": {
        "status": ("look", "status", "Show the agent now."),
        "why": ("look", "why", "Explain a pull: sources, times, bound."),
        "trace": ("trace", "trace", "Follow running pulls, or replay one."),
        "cid": ("cid", "cid", "Print what IPFS calls files and folders."),
        "simulate": ("simulate", "simulate", "Try a swarm of many nodes in virtual time."),
    },
    "Fix": {
        "verify": ("fix", "verify", "Hash again what is stored."),
        "doctor": ("fix", "doctor", "Check the surroundings."),
        "config": ("fix", "config", "Show the settings."),
        "agent": ("agent", "agent", "Run, look at and stop the agent."),
        "completion": ("main", "completion", "Print the shell's completion script."),
    },
}
ALIASES = {"pull": "get"}
COMPLETION_VARIABLE = "_P2PCACHE_COMPLETE"  # click's name for it; read in config
FIRST_SCREEN = ("get", "ls", "push", "why", "doctor")  # one of each group


class Commands(click.Group):
    """The commands of `COMMANDS`; a module is imported when its command is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order of the groups."""
        return [name for group in COMMANDS.values() for name in group]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name or alias."""
        name = ALIASES.get(cmd_name, cmd_name)
        for group in COMMANDS.values():
            if name in group:
                module, attribute, _ = group[name]
                found = getattr(importlib.import_module(f"p2pcache.cli.{module}"), attribute)
                assert isinstance(found, click.Command)
                return found
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Every command with its one line, by group."""
        for title, group in COMMANDS.items():
            with formatter.section(title):
                formatter.write_dl([(name, line) for name, (_, _, line) in group.items()])


@click.group(cls=Commands, invoke_without_command=True)
@click.version_option(__version__, message="p2pcache %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """A peer-to-peer content-addressed cache for AI models."""
    if ctx.invoked_subcommand is None:
        click.echo(first_screen())


def first_screen() -> str:
    """What `p2pcache` alone says: five commands, one example."""
    lines = [TAGLINE, ""]
    for title, group in COMMANDS.items():
        lines += [
            f"  {title:<6} p2pcache {name:<7} {group[name][2]}"
            for name in FIRST_SCREEN
            if name in group
        ]
    lines += [
        "",
        "Example:",
        "  p2pcache get hf://org/model",
        "",
        "`p2pcache --help` lists every command, `p2pcache COMMAND --help` explains one.",
    ]
    return "\n".join(lines)


@click.command(
    cls=Command,
    short_help="Print the shell's completion script.",
    example="p2pcache completion zsh > ~/.zfunc/_p2pcache",
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of SHELL, to be sourced or installed."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(cli, {}, "p2pcache", COMPLETION_VARIABLE).source())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        return _run(argv)


def _show_warning(
    message: Warning | str, category: type[Warning], *_: object, **__: object
) -> None:
    """What an agent wants its user to know; anything else is for whoever develops with us."""
    if category is UserWarning:
        say(sys.stderr, f"warning: {printable(str(message))}\n")


def _say_slow_start() -> None:
    say(sys.stderr, "starting an agent...\n")


def _run(argv: Sequence[str] | None) -> int:
    args = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show
    if not {"--json", "--quiet", "-q"} & set(args):
        tell_slow_start(_say_slow_start)
    asked = terminal_options().completion
    if asked is not None:
        from click.shell_completion import shell_complete

        return shell_complete(cli, {}, "p2pcache", COMPLETION_VARIABLE, asked)
    try:
        try:
            # Not `cli.main`: it answers Ctrl-C and broken pipes by itself, and otherwise.
            with cli.make_context("p2pcache", list(args)) as ctx:  # click empties it
                cli.invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            discard(sys.stdout)  # the reader had enough: `p2pcache ls | head` is no failure
            return 0
        return 0
    except click.exceptions.Exit as exc:
        return exc.exit_code
    except click.UsageError as exc:
        where = f"`{exc.ctx.command_path} --help`" if exc.ctx else "`p2pcache --help`"
        error: P2PCacheError = UsageError(exc.format_message(), hint=f"{where} shows the usage")
    except (KeyboardInterrupt, click.Abort):
        error = Interrupted("interrupted; what was verified is kept")
    except P2PCacheError as exc:
        error = exc
    except FileNotFoundError:  # of a relative P2PCACHE_HOME, the one path that every command needs
        error = UsageError("the working directory is gone", hint="go to a folder that exists")
    except OSError as exc:  # the agent's are ours by now: this one is of standard output
        error = not_written(exc)
    try:
        sys.stdout.flush()
    except OSError:
        discard(sys.stdout)
    Printer(Mode.JSON if "--json" in args else Mode.HUMAN).error(error)
    return error.exit_code
