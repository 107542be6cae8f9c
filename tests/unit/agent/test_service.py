"""The operations of the local API by their names."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Any, cast

import pytest

from p2pcache.agent.service import OPERATIONS, Service, load_operation
from p2pcache.errors import LocalFault


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_that_is_named_is_there(name: str) -> None:
    found = load_operation(name)
    assert inspect.iscoroutinefunction(found)
    assert list(inspect.signature(found).parameters) == ["parts", "args", "emit"]


def test_a_name_that_nobody_knows_is_no_operation() -> None:
    assert load_operation("get:get") is None
    assert load_operation("") is None


async def test_an_operation_that_cannot_be_imported_any_more_is_no_bug(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """p2pcache was installed anew, or removed, below an agent that runs."""
    monkeypatch.setitem(OPERATIONS, "push", "module_of_another_version:push")
    service = Service(cast("Any", None))
    with pytest.raises(LocalFault, match="module_of_another_version") as told:
        await service.call("push", {}, cast("Any", None))
    assert told.value.hint is not None
    assert "agent stop" in told.value.hint


def test_an_agent_starts_without_what_only_some_operations_need() -> None:
    seldom = ["yaml", "p2pcache.agent.bptr", "p2pcache.agent.push", "p2pcache.agent.bucket.push"]
    code = f"import sys, p2pcache.agent.daemon; print([m for m in {seldom} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
