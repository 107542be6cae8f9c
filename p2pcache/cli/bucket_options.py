"""What the commands below `p2pcache bucket` have in common."""

from __future__ import annotations

from typing import Any

import click

from p2pcache.cli.command import ThereIs

config_option = click.option(
    "--config",
    type=ThereIs(dir_okay=False),
    metavar="FILE",
    help="Settings (default: .hf-cache-sync.yaml here, then in the home folder).",
)


def repo_name(row: dict[str, Any]) -> str:
    """A repository as the output shows it; a model without its type."""
    kind = row["repo_type"]
    return str(row["repo"]) if kind == "model" else f"{kind}s/{row['repo']}"
