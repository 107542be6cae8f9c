"""docs/clouds.md, what is tested of each store: tests and cases that exist, none left out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
TABLE = (ROOT / "docs" / "clouds.md").read_text().partition("## What is tested of each store")[2]
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in re.findall(r"^\|.*\|$", TABLE.partition("\n## ")[0], re.M)[2:]
]
FAULTS = [
    "`kill -9`", "wrong login", "missing bucket", "403", "404", "429", "5xx", "slow", "cut",
]  # fmt: skip


def _texts() -> str:
    folders = ("real", "faults", "support")
    return "\n".join(
        path.read_text() for one in folders for path in sorted((ROOT / "tests" / one).glob("*.py"))
    )


@pytest.mark.parametrize("direction", ["pull", "push"])
@pytest.mark.parametrize("fault", [*FAULTS, "ends"])
def test_every_fault_has_a_line_in_both_directions(direction: str, fault: str) -> None:
    assert [row for row in ROWS if row[0].startswith(f"{direction}: ") and fault in row[0]]


def test_every_test_of_a_line_exists_and_has_the_case() -> None:
    texts = _texts()
    names = set(re.findall(r"^(?:async )?def test_(\w+)", texts, re.M))
    assert len(ROWS) == 22
    for what, *cells in ROWS:
        assert len(cells) == 4, what
        for cell in cells:
            found = re.findall(r"`(\w*)((?:\[[^\]]+\])?)`", cell)
            assert found or cell in ("-", "the same"), (what, cell)
            for name, case in found:
                assert not name or name in names, (what, name)
                assert not case or f'"{case[1:-1]}"' in texts, (what, case)
