"""docs/replaces.md and docs/formats.md: commands that exist, tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from p2pcache.cli.main import cli

ROOT = Path(__file__).resolve().parents[3]
REPLACES = (ROOT / "docs" / "replaces.md").read_text()
FORMATS = (ROOT / "docs" / "formats.md").read_text()
ROWS = re.findall(r"^\| (?!-|with |wish )(.+?) \| (.+) \|$", REPLACES, re.M)
COMMANDS = re.findall(r"p2pcache ((?:[a-z][a-z-]* ?){1,2})((?:[^`]*))`", REPLACES)


def _failures() -> list[tuple[str, str]]:
    """What was seen of another tool, and the test that it does not happen here."""
    table = FORMATS.partition("| seen of truss-transfer")[2].partition("\n\n")[0]
    return re.findall(r"^\| (.+?) \| `(test_\w+)` \|$", table, re.M)


def test_every_failure_that_was_seen_names_a_test_that_exists() -> None:
    found = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.M)
    }
    assert len(_failures()) >= 10
    assert [name for _, name in _failures() if name not in found] == []


# Of the table of features in the facts about the other systems: those that truss-transfer has.
TRUSS = [
    "portable JSON manifest", "sources: HF", "sources: S3", "allow/ignore globs", "expiry",
    "parallel ranged", "retry with backoff", "cross-repo dedupe", "LRU/age eviction",
    "cache-vs-network", "atomic temp+rename", "page-cache prewarm", "pluggable backends",
    "JSON stats", "progress", "exit-code contract", "secrets files", "path-traversal", "proxies",
    "Python API",
]  # fmt: skip


@pytest.mark.parametrize("feature", TRUSS)
def test_everything_that_truss_transfer_does_has_a_line(feature: str) -> None:
    assert [what for what, _ in ROWS if what.startswith(feature)], feature


@pytest.mark.parametrize(("what", "here"), ROWS)
def test_every_line_names_what_does_it(what: str, here: str) -> None:
    assert "`" in here or "nothing" in here or "](" in here, what


def test_every_command_and_option_of_a_line_exists() -> None:
    assert len(COMMANDS) > 12
    for words, rest in COMMANDS:
        name, _, sub = words.strip().partition(" ")
        command = cli.get_command(None, name)  # type: ignore[arg-type]
        assert command is not None, words
        inner = getattr(command, "commands", {})
        command = inner.get(sub, command)
        known = {option for one in command.params for option in (*one.opts, *one.secondary_opts)}
        assert set(re.findall(r"(--[a-z-]+)", rest)) <= known | {"--json"}, (words, rest)
