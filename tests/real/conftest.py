"""What several files with real servers share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.kubo_rpc import Server


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server]]:
    """Kubo, and us: each file of questions has two of its own."""
    from tests.support.kubo_and_ours import kubo_and_ours  # imports clients of others

    with kubo_and_ours(tmp_path_factory.mktemp("rpc")) as both:
        yield both
