"""A click command whose help ends with an example and its exit codes, and what commands share."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, Any

import click

from p2pcache import units
from p2pcache.cli.output import EXIT_CODES, Mode, Printer
from p2pcache.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Callable


class _Explained(click.Command):
    """What a command and a group of commands have in common: see `Command`."""

    def __init__(
        self,
        *args: Any,  # noqa: ANN401 - click's own
        example: str,
        exits: tuple[int, ...] = (),
        **options: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(*args, **options)
        self.example = example
        self.exits = tuple(sorted({0, 1, 2, 130, *exits}))

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The example, then the exit codes with their meanings."""
        with formatter.section("Example"):
            formatter.write_text(self.example)
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code), EXIT_CODES[code]) for code in self.exits])


class Command(_Explained):
    """A command with an `example` and its `exits` (0, 1, 2 and 130 are always possible)."""


class Group(_Explained, click.Group):
    """Commands below one name; its `exits` are theirs."""


def output_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--json` and `--quiet`; the command gets them as `printer`."""

    @click.option("--json", "as_json", is_flag=True, help="Print JSON: a document, or one a line.")
    @click.option("--quiet", "-q", is_flag=True, help="Print the data and nothing else.")
    @functools.wraps(function)
    def with_printer(*args: Any, as_json: bool, quiet: bool, **options: Any) -> Any:  # noqa: ANN401
        mode = Mode.JSON if as_json else Mode.QUIET if quiet else Mode.HUMAN
        return function(*args, printer=Printer(mode), **options)

    return with_printer


class ThereIs(click.Path):
    """A path of this machine that has to be there: else NotFound, as for a ref that is a path."""

    def convert(self, value: Any, *where: Any) -> Any:  # noqa: ANN401 - click's own
        """As click's; raises NotFound."""
        if not (self.allow_dash and value == "-") and not os.path.exists(value):
            raise NotFound(f"no such file or folder: {value}")
        return super().convert(value, *where)


class Unit(click.ParamType[int]):
    """An option written with a unit, parsed by one of `units`' functions."""

    def __init__(self, name: str, parse: Callable[[str], int]) -> None:
        self.name = name
        self._parse = parse

    def convert(
        self,
        value: Any,  # noqa: ANN401 - click's own signature
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> int:
        """The number that `value` means, in the base unit."""
        try:
            return self._parse(str(value))
        except ValueError as exc:
            self.fail(str(exc), param, ctx)


BYTES = Unit("size", units.parse_bytes)
RATE = Unit("rate", units.parse_rate)
DURATION = Unit("time", lambda text: round(units.parse_duration(text)))
EXPIRY = Unit("time", units.parse_expiry)


def short(digest: str | None) -> str:
    """Enough of a digest or commit to recognise it."""
    return "-" if digest is None else digest[:12]


def counted(count: int, what: str) -> str:
    """A number with its noun: `1 block`, `3 blocks`."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def when(moment: float | None) -> str:
    """A unix time as people read it, in their own zone, which it names."""
    if moment is None:
        return "-"
    import datetime

    return f"{datetime.datetime.fromtimestamp(moment).astimezone():%Y-%m-%d %H:%M %Z}"


SECRET_OPTION = click.option(
    "--secret", metavar="NAME", help="The login TRUSS_SECRET_NAME, or in the file /secrets/NAME."
)
