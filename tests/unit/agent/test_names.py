"""What other agents are asked about names."""

from __future__ import annotations

from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import trio

from p2pcache.agent.names import NetworkNames
from p2pcache.store.store import Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.mark.parametrize(
    ("canonical", "is_told"),
    [
        ("hf://org/model@main", True),
        ("https://host.example/model.bin", True),
        ("https://host.example/model.bin?version=2", True),
        ("https://user:word@host.example/model.bin", False),
        ("https://bucket.example/model.bin?X-Amz-Date=1&X-Amz-Signature=abc", False),
    ],
)
async def test_nobody_is_asked_about_an_address_that_opens_what_it_leads_to(
    tmp_path, canonical, is_told
):
    asked = []

    class Network:
        @asynccontextmanager
        async def watch(self) -> AsyncIterator[AsyncIterator[str]]:
            there, changes = trio.open_memory_channel[str](1)
            there.send_nowait("somebody is there")
            yield changes

        async def resolutions(self, canonical: str, *, timeout_s: float) -> list[Any]:
            asked.append(canonical)
            return []

    async def wait_open(timeout_s: float) -> Any:
        return SimpleNamespace(network=Network())

    slot: Any = SimpleNamespace(wait_open=wait_open, open_for_s=0.0)
    with Store.open(tmp_path / "store") as store:
        assert await NetworkNames(slot, store, lambda: 1e9).words(canonical) == []
    assert asked == ([canonical] if is_told else [])
