"""The agent's side of the byte server: it ends with the agent, and comes back as it was."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from p2pcache.errors import LocalFault
from p2pcache.lanes.certificate import make_certificate
from p2pcache.lanes.fetch import fetch
from p2pcache.lanes.orders import BLOCK_BYTES, FaultKind, Location, Tls
from p2pcache.lanes.serve.control import MAX_ENTRIES
from p2pcache.lanes.serve.options import ServeOptions
from p2pcache.lanes.serve.table import Entry
from p2pcache.lanes.tickets import address_binding, certificate_binding
from p2pcache.transfer.byte_server import open_byte_server
from tests.support.lane_server import NAME, SCOPE, LaneServer, Reader
from tests.support.partial_files import PartialFiles, some_bytes
from tests.support.processes import is_alive

if TYPE_CHECKING:
    from pathlib import Path

    from p2pcache.lanes.orders import FetchReport
    from p2pcache.transfer.byte_server import ByteServer

DATA = some_bytes(2 * BLOCK_BYTES + 99)
PLAIN = ServeOptions(bytes(range(32)), ("127.0.0.1",))


@pytest.fixture
def blob(tmp_path: Path) -> Entry:
    path = tmp_path / "blob"
    path.write_bytes(DATA)
    return Entry(str(path), len(DATA))


def location_of(server: ByteServer, name: bytes = NAME) -> Location:
    token = server.issue(b"reader", SCOPE, address_binding("127.0.0.1"), 60)
    url = f"http://127.0.0.1:{server.port}/blob/{name.hex()}"
    return Location(url, (("Authorization", f"Ticket {token}"),), direct=True)


async def pull(location: Location, folder: Path) -> FetchReport:
    files = PartialFiles(folder, len(DATA))
    report = await trio.to_thread.run_sync(fetch, files.order(location))
    assert report.fault is not None or files.read("data") == DATA
    return report


def kill(server: ByteServer, signum: int = signal.SIGKILL) -> int:
    pid = server.pid
    os.kill(pid, signum)
    return pid


async def test_it_serves_and_ends_with_its_scope(blob: Entry, tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with open_byte_server(PLAIN) as server:
            await server.scope(SCOPE, {NAME: blob})
            assert (await pull(location_of(server), tmp_path / "a")).fault is None
            sent_bytes = 0
            while sent_bytes < len(DATA):  # it counts them after the reader has them
                sent_bytes = (await server.statistics())["readers"][b"reader"][0]
            pid = server.pid
        assert not is_alive(pid)


async def test_after_a_kill_old_tickets_and_pins_are_good_again(
    blob: Entry, tmp_path: Path
) -> None:
    reader, own = Reader(tmp_path / "reader"), make_certificate()
    options = replace(PLAIN, certificate_pem=own.pem, key_pem=own.key_pem)
    with trio.fail_after(60):
        async with open_byte_server(options) as server:
            assert server.fingerprint == own.fingerprint
            await server.trust([reader.certificate.der])
            await server.scope(SCOPE, {NAME: blob})
            binding = certificate_binding(reader.certificate.fingerprint)
            token = server.issue(b"reader", SCOPE, binding, 60)
            tls = Tls(None, own.fingerprint.hex(), str(reader.cert_path), str(reader.key_path))
            location = Location(
                f"https://127.0.0.1:{server.port}/blob/{NAME.hex()}",
                (("Authorization", f"Ticket {token}"),), tls, direct=True,
            )  # fmt: skip
            for life in range(3):
                assert (await pull(location, tmp_path / str(life))).fault is None
                old = kill(server)
                await server.scope(b"told while it is dead", {b"late": blob})  # waits for the next
                assert server.pid != old
                assert not is_alive(old)
            assert (await pull(location, tmp_path / "last")).fault is None
            found = await server.statistics()
            assert (found["scopes"], found["names"], found["restarts"]) == (2, 2, 3)


async def test_a_change_that_meets_the_kill_is_not_lost(blob: Entry) -> None:
    """Whatever moment it dies at: before, while or after it hears of the change."""
    with trio.fail_after(60):
        async with open_byte_server(PLAIN) as server:
            async with trio.open_nursery() as nursery:
                for number in range(20):
                    nursery.start_soon(server.scope, b"%d" % number, {b"name %d" % number: blob})
                    if number == 10:
                        kill(server)
                    await trio.sleep(0.001)
                nursery.start_soon(server.drop_scope, b"never was")
            assert (await server.statistics())["scopes"] == 20


async def test_what_is_cancelled_before_its_first_step_is_done_all_the_same(blob: Entry) -> None:
    names = {b"name %d" % number: blob for number in range(MAX_ENTRIES + 1)}
    with trio.fail_after(30):
        async with open_byte_server(PLAIN) as server:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.scope, SCOPE, names)
                for number in range(100):
                    nursery.start_soon(server.scope, b"%d" % number, {NAME: blob})
                nursery.cancel_scope.cancel()
            found = await server.statistics()
            assert (found["scopes"], found["names"]) == (101, len(names) + 1)
            assert found["restarts"] == 0


async def test_what_was_taken_back_does_not_return(blob: Entry, tmp_path: Path) -> None:
    reader, own = Reader(tmp_path / "reader"), make_certificate()
    options = replace(PLAIN, certificate_pem=own.pem, key_pem=own.key_pem)
    with trio.fail_after(30):
        async with open_byte_server(options) as server:
            await server.scope(SCOPE, {NAME: blob, b"second": blob})
            await server.scope(b"gone", {b"third": blob})
            await server.trust([reader.certificate.der])
            with pytest.raises(LocalFault, match="not a certificate"):
                await server.trust([b"junk"])
            await server.drop([b"second"])
            await server.drop_scope(b"gone")
            await server.distrust([reader.certificate.fingerprint])
            kill(server)
            await server.ban([b"liar"])
            found = await server.statistics()
            assert (found["scopes"], found["names"]) == (1, 1)
            messages = server._mirror.messages()
            assert [each[0] for each in messages] == ["banned", "add"]


async def test_ten_thousand_names_are_told_and_told_again(blob: Entry) -> None:
    names = {b"name %d" % number: blob for number in range(10_000)}
    assert len(names) > 2 * MAX_ENTRIES
    with trio.fail_after(30):
        async with open_byte_server(PLAIN) as server:
            await server.scope(SCOPE, names)
            assert (await server.statistics())["names"] == len(names)
            kill(server)
            await server.ban([])
            assert (await server.statistics())["names"] == len(names)


async def test_a_running_download_meets_the_restart_as_a_cut_and_goes_on(
    blob: Entry, tmp_path: Path
) -> None:
    options = replace(PLAIN, limit_up_bytes_per_s=2e6)
    with trio.fail_after(30):
        async with open_byte_server(options) as server:
            await server.scope(SCOPE, {NAME: blob})
            location = location_of(server)
            reports: list[FetchReport] = []

            async def read() -> None:
                reports.append(await pull(location, tmp_path / "a"))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                await trio.sleep(0.3)
                kill(server)
                await server.ban([])
            assert reports[0].fault is not None
            assert reports[0].fault.kind is FaultKind.UNAVAILABLE
            assert (await pull(location, tmp_path / "b")).fault is None


async def test_a_port_that_is_taken_is_a_local_fault() -> None:
    with trio.fail_after(30), socket.create_server(("127.0.0.1", 0)) as other:
        options = replace(PLAIN, port=other.getsockname()[1])
        with pytest.raises(LocalFault, match="in use"):
            async with open_byte_server(options):
                pass


async def test_a_frozen_server_does_not_hold_up_the_agents_end() -> None:
    with trio.fail_after(20):
        async with open_byte_server(PLAIN) as server:
            pid = kill(server, signal.SIGSTOP)
        assert not is_alive(pid)


async def test_an_error_inside_the_scope_comes_out_as_it_is() -> None:
    with trio.fail_after(20), pytest.raises(KeyError, match="mine"):
        async with open_byte_server(PLAIN):
            raise KeyError("mine")


async def test_the_agent_hears_of_a_file_that_is_not_what_it_was(
    blob: Entry, tmp_path: Path
) -> None:
    with trio.fail_after(20):
        async with open_byte_server(PLAIN) as server:
            await server.scope(SCOPE, {NAME: replace(blob, size=5)})
            report = await pull(location_of(server), tmp_path / "a")
            assert report.fault is not None
            assert report.fault.kind is FaultKind.NOT_FOUND
            assert await server.stale.receive() == NAME


def test_a_killed_agent_leaves_no_byte_server_behind() -> None:
    """Its end of the control socket is closed by the kernel, however the agent ended."""
    with LaneServer() as server:
        process = server.process
    assert process.wait(5) == 0


def test_it_imports_little_and_starts_in_a_fraction_of_a_second() -> None:
    code = "import sys, p2pcache.lanes.serve.__main__; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    heavy = {"libp2p", "trio", "cryptography", "urllib3", "sqlite3", "asyncio", "multiprocessing"}
    assert heavy.isdisjoint(found.stdout.split())
    best = min(map(partial(_seconds_to_start), range(3)))
    assert best < 1.0


def _seconds_to_start(_attempt: int) -> float:
    began = time.monotonic()
    with LaneServer():
        return time.monotonic() - began
