"""A plugin of pytest for `scripts/test`: what needs a program that has to be built runs last.

    python -m pytest -p tests.support.after_builds --builds FD

FD is a pipe that ends when everything is built. Nothing is listed: a test needs a build when its
file imports `building`, itself or through others. No deadline of a test has begun when it waits.
"""

from __future__ import annotations

import ast
import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

REPO = Path(__file__).resolve().parents[2]
BUILDING = "tests.support.building"
FD = pytest.StashKey[int]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--builds", type=int, required=True, help="a pipe that ends with the builds")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[FD] = config.getoption("--builds")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: needs_build(item.path))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    if needs_build(item.path):
        os.read(item.config.stash[FD], 1)  # nobody writes: it ends, now or long ago
    return (yield)


@cache
def needs_build(test: Path) -> bool:
    """Whether a test's file imports what makes programs, through any modules of the tests."""
    seen: set[str] = set()
    left = set(_imported(test))
    while left:
        name = left.pop()
        if name not in seen:
            seen.add(name)
            left |= _imported(REPO / f"{name.replace('.', '/')}.py")
    return BUILDING in seen


@cache
def _imported(file: Path) -> frozenset[str]:
    """Modules of the tests that a file imports anywhere, and names that may be such modules."""
    found: set[str] = set()
    if file.is_file():
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                found |= {node.module, *(f"{node.module}.{one.name}" for one in node.names)}
            elif isinstance(node, ast.Import):
                found |= {one.name for one in node.names}
    return frozenset(name for name in found if name.startswith("tests."))
