"""Two stores, and the place of a bundle between them."""

from __future__ import annotations

import pytest

from p2pcache.store.store import Store
from tests.support.bundles import OPTIONS


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "here", OPTIONS) as opened:
        yield opened


@pytest.fixture
def other(tmp_path):
    with Store.open(tmp_path / "there", OPTIONS) as opened:
        yield opened


@pytest.fixture
def path(tmp_path):
    return tmp_path / "bundle.car"
