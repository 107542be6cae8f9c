"""docs/ipfs.md and docs/formats.md name tests: each of them exists."""

import ast
import re
from pathlib import Path

import pytest

from p2pcache.gateway.kubo_rpc.api import CALLS

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(("name", "at_least"), [("ipfs", 41), ("formats", 9)])
def test_every_test_that_the_page_of_rules_names_exists(name, at_least):
    page = (ROOT / "docs" / f"{name}.md").read_text()
    named = set(re.findall(r"`(test_[a-z0-9_]+)`", page))
    assert len(named) >= at_least
    known: set[str] = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        known.update(re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.M))
    assert named <= known, named - known


READS = {"flag", "integer", "natural", "seconds", "text", "unsupported"}


def options_read() -> set[str]:
    """The long names of all options that a call of the RPC looks at."""
    found = set()
    for path in (ROOT / "p2pcache" / "gateway" / "kubo_rpc").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                of_query = ast.unparse(node.func.value).endswith("query")
                if of_query and node.func.attr in READS:
                    names = node.args[1:] if node.func.attr == "natural" else node.args
                    found |= {one.value for one in names if isinstance(one, ast.Constant)}
    return found


def test_the_table_has_every_call_of_the_rpc_and_every_option():
    page = (ROOT / "docs" / "ipfs.md").read_text()
    begin = page.index("Every option that is read")
    table = page[begin : page.index("Options that are not in the table", begin)]
    named = set(re.findall(r"`([^`]+)`", table))
    assert len(options_read()) > 60
    assert options_read() <= named, options_read() - named
    assert set(CALLS) <= named, set(CALLS) - named
