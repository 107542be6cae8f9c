"""Every patch of libp2p is still needed, and does what it is for."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

from p2pcache.net import py_libp2p_fixes
from tests.support.libp2p_defects import PROBES

NAMES = [probe.__name__ for probe in PROBES]


def ask(name: str, kind: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.libp2p_defects", name, kind],
        check=False, capture_output=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    return done.stdout.decode().strip()


def test_the_version_is_the_one_that_the_patches_were_written_for():
    assert version("libp2p") == py_libp2p_fixes.VERSION


@pytest.mark.parametrize("name", NAMES)
def test_the_stock_library_still_has_the_defect_or_its_patch_can_go(name):
    assert ask(name, "stock") == "defect"


@pytest.mark.parametrize("name", NAMES)
def test_the_patch_mends_it(name):
    assert ask(name, "fixed") == "fine"
