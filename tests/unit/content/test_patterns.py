"""Selection by patterns, against huggingface_hub's own filter as the oracle."""

from __future__ import annotations

import pytest
from huggingface_hub.utils import filter_repo_objects

from p2pcache.content.patterns import MAX_PATTERN_CHARS, MAX_PATTERNS, Selection
from p2pcache.errors import UsageError

PATHS = [
    "config.json", "Config.JSON", "data/a.json", "data/deep/b.json", "data.json", ".hidden",
    "weights/model-00001.safetensors", "a[1].bin", "a1.bin", "emoji-🎉.txt", "data/", "x",
]  # fmt: skip
PATTERNS = [
    "*", "*.json", "data/", "data/*", "data/*.json", "**/*.json", "?", "a[[]1].bin", "a[1].bin",
    "[!d]*", "data\\", "data\\*.json", ".*", "CONFIG.json", "emoji-?.txt", "nothing", "data",
]  # fmt: skip


def taken(selection: Selection, paths: list[str]) -> list[str]:
    return [path for path in paths if selection.takes(path)]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("other", [None, "*.json", "data/"])
def test_selection_agrees_with_huggingface_hub(pattern: str, other: str | None) -> None:
    others = [] if other is None else [other]
    for include, exclude in (([pattern], others), (others, [pattern])):
        theirs = filter_repo_objects(
            PATHS, allow_patterns=include or None, ignore_patterns=exclude or None
        )
        assert taken(Selection(include, exclude), PATHS) == list(theirs)


def test_no_pattern_takes_everything() -> None:
    assert taken(Selection(), PATHS) == PATHS


def test_a_bare_string_is_one_pattern() -> None:
    assert taken(Selection("*.json"), ["a.json", "s"]) == ["a.json"]


@pytest.mark.parametrize("bad", [[""], ["x" * (MAX_PATTERN_CHARS + 1)], ["x"] * (MAX_PATTERNS + 1)])
def test_patterns_out_of_bounds_are_refused(bad: list[str]) -> None:
    with pytest.raises(UsageError):
        Selection(bad)
