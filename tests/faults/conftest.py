"""What several files of faults serve: a module that needs another blob has its own."""

from __future__ import annotations

import pytest

from tests.support.blobs import MIB, ServedBlob, write_blob


@pytest.fixture(scope="module")
def blob(tmp_path_factory: pytest.TempPathFactory) -> ServedBlob:
    """Long enough to be caught amid its pull, at 8 MiB/s."""
    return write_blob(tmp_path_factory.mktemp("origin"), 24 * MIB + 1)


@pytest.fixture(scope="module")
def five_blocks(tmp_path_factory: pytest.TempPathFactory) -> ServedBlob:
    return write_blob(tmp_path_factory.mktemp("origin"), 5 * MIB, seed=5)
