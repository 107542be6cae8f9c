"""docs/replaces.md and docs/formats.md: commands that exist, tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from p2pcache.cli.main import cli

ROOT = Path(__file__).resolve().parents[3]
REPLACES = (ROOT / "docs" / "replaces.md").read_text()
FORMATS = (ROOT / "docs" / "formats.md").read_text()
REGISTRIES = (ROOT / "docs" / "registries.md").read_text()
ROWS = re.findall(r"^\| (?!-|with |wish )(.+?) \| (.+) \|$", REPLACES, re.M)
COMMANDS = re.findall(r"p2pcache ((?:[a-z][a-z-]* ?){1,2})((?:[^`]*))`", REPLACES)


def _failures(tool: str) -> dict[str, list[str]]:
    """What was seen of another tool, and the tests that it does not happen here."""
    table = (FORMATS + REGISTRIES).partition(f"| seen of {tool}")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (.+?) \| (.+) \|$", table, re.M)
    return {what: re.findall(r"`(test_\w+)`", tests) for what, tests in rows}


@pytest.mark.parametrize(("tool", "least"), [("truss-", 10), ("hf-cache-sync", 12), ("Ollama", 10)])
def test_every_failure_that_was_seen_names_a_test_that_exists(tool: str, least: int) -> None:
    found = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.M)
    }
    failures = _failures(tool)
    assert len(failures) >= least
    assert {what: names for what, names in failures.items() if not set(names) & found} == {}
    assert {name for names in failures.values() for name in names} <= found


def test_every_numbered_weakness_of_hf_cache_sync_is_in_its_table() -> None:
    names = "".join(name for row in _failures("hf-cache-sync").values() for name in row)
    assert set(re.findall(r"weakness_(\d+)_", names)) == {str(number) for number in range(1, 12)}


# Of the table of features in the facts about the other systems: those that each of them has.
TRUSS = [
    "portable JSON manifest", "sources: HF", "sources: S3", "allow/ignore globs", "expiry",
    "parallel ranged", "retry with backoff", "cross-repo dedupe", "LRU/age eviction",
    "cache-vs-network", "atomic temp+rename", "page-cache prewarm", "pluggable backends",
    "JSON stats", "progress", "exit-code contract", "secrets files", "path-traversal", "proxies",
    "Python API",
]  # fmt: skip
HF_CACHE_SYNC = [
    "`init`", "`push [--dry-run]", "`pull REPO", "`pull-all", "`list`", "`prune", "`watch",
    "`doctor`", "portable JSON manifest", "Hugging Face as a fallback", "S3 as a source",
    "include and exclude", "ranged download", "many small blobs", "sha256 of large", "retries",
    "dedupe by hash", "reuse of", "temporary file", "lock file", "fallback without",
    "refs as pins", "licence words", "team prefix", "progress", "exit codes", "secrets",
    "path-traversal", "proxies",
]  # fmt: skip
OLLAMA = [
    "`ollama pull NAME`", "`ollama push NAME`", "`ollama create", "a registry",
    "portable JSON manifest", "parallel ranged", "many small blobs", "progress lost",
    "verified after", "one wrong byte", "stalls", "retry with backoff", "tokens renewed",
    "blobs shared", "a file that is there", "unused blobs", "temporary file", "one download",
    "manifests as pins", "namespaces", "`ollama list`", "a newer model", "numbers by its API",
    "progress, which", "the key", "path-traversal", "proxies",
    "`OLLAMA_MAX_TRANSFER_STREAMS`, no rate",
]  # fmt: skip


@pytest.mark.parametrize(
    ("tool", "feature"),
    [(tool, feature) for tool, features in
     {"truss-transfer": TRUSS, "hf-cache-sync": HF_CACHE_SYNC, "Ollama's": OLLAMA}.items()
     for feature in features],
)  # fmt: skip
def test_everything_that_another_tool_does_has_a_line(tool: str, feature: str) -> None:
    section = REPLACES.partition(f"\n## {tool}")[2].partition("\n## ")[0]
    assert f"\n| {feature}" in section, feature


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
