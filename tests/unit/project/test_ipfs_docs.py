"""docs/ipfs.md names tests: each of them exists."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_every_test_that_the_page_of_rules_names_exists():
    page = (ROOT / "docs" / "ipfs.md").read_text()
    named = set(re.findall(r"`(test_[a-z0-9_]+)`", page))
    assert len(named) > 40
    known: set[str] = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        known.update(re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.M))
    assert named <= known, named - known
