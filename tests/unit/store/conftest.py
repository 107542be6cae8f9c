from __future__ import annotations

import pytest

from p2pcache.store.layout import StoreOptions
from p2pcache.store.store import Store

OPTIONS = StoreOptions(reserve_bytes=0)


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "home", OPTIONS) as opened:
        yield opened
