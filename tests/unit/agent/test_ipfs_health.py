"""What `status` and `doctor` say of the parts that speak IPFS, when something is in their way."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
import trio
import trio.testing

from p2pcache.agent.names import MEMBERS_S, with_somebody
from p2pcache.config.ipfs import listen_at
from tests.support.inside import Inside, agent_inside

if TYPE_CHECKING:
    from pathlib import Path

    from p2pcache.agent.network_slot import NetworkSlot


async def checks(inside: Inside) -> dict[str, dict[str, Any]]:
    await inside("doctor")
    return {row["check"]: row for row in inside.items}


async def test_a_kubo_that_is_down_and_one_that_does_not_run_are_told(tmp_path: Path) -> None:
    down = "http://127.0.0.1:9"
    async with agent_inside(tmp_path / "a", network_enabled="off", ipfs_kubo=down) as inside:
        row = (await checks(inside))["kubo"]
        assert (row["ok"], "cannot be reached" in row["detail"]) == (False, True)
        assert "ipfs daemon" in row["hint"]
    nothing = str(tmp_path)  # what `auto` becomes: the folder of a repository
    async with agent_inside(tmp_path / "b", network_enabled="off", ipfs_kubo=nothing) as inside:
        row = (await checks(inside))["kubo"]
        assert (row["ok"], f"no Kubo runs on the repository {nothing}" in row["detail"]) == (
            False, True,
        )  # fmt: skip
    async with agent_inside(tmp_path / "c", network_enabled="off") as inside:
        assert "kubo" not in await checks(inside), "none is wanted"


async def test_bitswap_without_a_network_is_told(tmp_path: Path) -> None:
    async with agent_inside(tmp_path / "a", ipfs_bitswap="on") as inside:
        row = (await checks(inside))["bitswap"]
        assert (row["ok"], "no network" in row["detail"]) == (False, True)
        assert "p2pcache init" in row["hint"]
        assert (await inside("status"))["ipfs"]["waits"]


async def test_each_port_that_is_taken_is_told(tmp_path: Path) -> None:
    with ExitStack() as taken:
        ports = []
        for _ in range(2):
            one = taken.enter_context(socket.create_server(("127.0.0.1", 0)))
            ports.append(one.getsockname()[1])
        async with agent_inside(
            tmp_path / "a", network_enabled="off",
            ipfs_gateway=f"localhost:{ports[0]}", ipfs_rpc=f"localhost:{ports[1]}",
        ) as inside:  # fmt: skip
            with trio.fail_after(10):
                while "ipfs rpc" not in ((await inside("status"))["ipfs"]["why"] or ""):  # noqa: ASYNC110
                    await trio.sleep(0.02)
            why = (await inside("status"))["ipfs"]["why"]
            assert "ipfs gateway" in why
            rows = await checks(inside)
            assert not rows["ipfs gateway"]["ok"]
            assert not rows["ipfs rpc"]["ok"]


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("localhost:8080", "127.0.0.1:8080"), ("LocalHost:1", "127.0.0.1:1"),
        ("[::1]:8080", "[::1]:8080"), ("127.0.0.1:0", "127.0.0.1:0"), ("8080", "127.0.0.1:8080"),
    ],
)  # fmt: skip
def test_the_names_of_loopback_are_taken(text: str, where: str) -> None:
    assert str(listen_at(text)) == where


@pytest.mark.parametrize("text", ["0.0.0.0:80", "localhost.evil:80", "192.0.2.1:80", ":80", "x"])
def test_other_places_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"loopback|port"):
        listen_at(text)


async def test_a_network_that_is_open_for_long_is_not_waited_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Slot:
        open_for_s = 0.0

        async def wait_open(self, _timeout_s: float) -> Any:
            await trio.lowlevel.checkpoint()
            send, receive = trio.open_memory_channel[int](1)
            self.kept = send  # nobody ever comes
            return SimpleNamespace(network=SimpleNamespace(watch=lambda: receive))

    slot = Slot()
    for open_for_s, waited_s in ((0.0, MEMBERS_S), (1.0, MEMBERS_S - 1.0), (60.0, 0.0)):
        slot.open_for_s, began = open_for_s, trio.current_time()
        await with_somebody(cast("NetworkSlot", slot))
        assert trio.current_time() - began == pytest.approx(waited_s)
