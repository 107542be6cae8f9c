"""All tests: `python -m scripts.suite [--quick] MARKS [pytest arguments]`.

First what has to be built is begun (tests/support/builds.py), at a low priority. Beside it the
checks are made; then the tests run in STREAMS beside each other, each one run of pytest. A priority
of its own keeps from the others' load what is judged by how long it took: `timed`, where everything
is that is not named here. What needs a build comes last in its stream, once the builds have ended:
no deadline of a test contains a build. Arguments of pytest make it one run, without streams.
`--quick` runs tests/unit beside a few that start servers, QUICK: some 90 s of a core each.
What fails is run once more, alone: a machine that is busy with something else breaks deadlines.
All results are printed; what fails twice fails. SIGTERM ends all as Ctrl-C does: with what they
started.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

REPO = Path(__file__).parents[1]
# They start servers or agents, and nothing in them is judged by seconds: nearly all of their time
# is waiting. Three streams, of about the same length.
AGENTS = [
    "tests/faults/test_airgap.py", "tests/faults/test_changing_origins.py",
    "tests/faults/test_lane_bundle.py", "tests/faults/test_leases_lost.py",
    "tests/faults/test_local_faults.py", "tests/faults/test_peers_gated.py",
    "tests/faults/test_peers_names.py", "tests/faults/test_push_faults.py",
    "tests/faults/test_sizes.py", "tests/real/test_agents_network.py",
    "tests/real/test_agents_public.py", "tests/real/test_agents_s3.py",
    "tests/real/test_bitswap_hosts.py", "tests/real/test_dag_round_trip.py",
    "tests/real/test_dht_client.py", "tests/real/test_get_blocks.py",
    "tests/real/test_hash_once.py", "tests/real/test_kubo_folders.py",
    "tests/real/test_kubo_rpc_peers.py", "tests/real/test_last_copies.py",
    "tests/real/test_origin_budgets.py", "tests/real/test_origin_costs.py",
    "tests/real/test_preload.py", "tests/real/test_public_host.py", "tests/real/test_push_kubo.py",
    "tests/real/test_push_peers.py",
]  # fmt: skip
PROGRAMS = [
    "tests/cli/test_bptr.py", "tests/cli/test_commands.py", "tests/cli/test_damage.py",
    "tests/cli/test_docs.py", "tests/cli/test_one_agent.py", "tests/cli/test_output.py",
    "tests/cli/test_preload.py", "tests/cli/test_preload_reasons.py", "tests/cli/test_program.py",
    "tests/cli/test_real_agent.py", "tests/cli/test_streams.py", "tests/contract",
    "tests/faults/test_budget.py", "tests/faults/test_disk_faults.py",
    "tests/faults/test_proxies.py", "tests/faults/test_redirects.py",
    "tests/faults/test_store_crash.py", "tests/faults/test_store_disk_full.py",
    "tests/real/bptr", "tests/real/test_airgap_kubo.py", "tests/real/test_dag_kubo.py",
    "tests/real/test_get.py", "tests/real/test_hf_cache.py", "tests/real/test_hf_source.py",
    "tests/real/test_http_source.py", "tests/real/test_ipfs_backend.py",
    "tests/real/test_ipfs_gateway_agent.py", "tests/real/test_ipfs_gateway_helia.py",
    "tests/real/test_ipfs_gateway_kubo.py", "tests/real/test_kubo_rpc_add.py",
    "tests/real/test_kubo_rpc_agent.py", "tests/real/test_kubo_rpc_blocks.py",
    "tests/real/test_kubo_rpc_clients.py", "tests/real/test_kubo_rpc_files.py",
    "tests/real/test_kubo_rpc_read.py", "tests/real/test_lanes_nginx.py",
    "tests/real/test_lean_libp2p.py", "tests/real/test_origins.py",
    "tests/real/test_py_libp2p_fixes.py", "tests/real/test_python_api.py",
    "tests/real/test_unixfs_kubo.py",
]  # fmt: skip
CLOUDS = [
    "tests/faults/test_cloud_pulls.py", "tests/faults/test_push_changes.py",
    "tests/faults/test_push_logins.py", "tests/faults/test_push_registries.py",
    "tests/faults/test_push_silence.py",
    "tests/faults/test_registries.py", "tests/faults/test_s3_pulls.py",
    "tests/faults/test_s3_pushes.py", "tests/faults/test_secrets.py",
    "tests/faults/test_signed_urls.py", "tests/real/bucket", "tests/real/test_300_mb.py",
    "tests/real/test_cloud_sources.py", "tests/real/test_http_folders.py",
    "tests/real/test_ollama.py", "tests/real/test_ollama_store.py",
    "tests/real/test_push_clouds.py", "tests/real/test_push_ollama.py",
    "tests/real/test_push_registries.py", "tests/real/test_push_s3.py",
    "tests/real/test_push_s3_together.py", "tests/real/test_registries.py",
    "tests/real/test_s3_source.py", "tests/real/test_swift.py",
]  # fmt: skip
PLAIN = ["tests/unit", "tests/sim"]
# One act of each kind: the command line, an agent, its sources, pulls and their faults, a network.
# They need nginx, and none of the servers that take minutes to build.
QUICK = [
    "tests/cli/test_docs.py", "tests/cli/test_program.py",
    "tests/real/test_get.py::test_a_file_comes_from_nginx_plain_and_over_a_private_authority",
    "tests/real/test_http_source.py",
    "tests/faults/test_fetch_faults.py", "tests/faults/test_peer_pulls.py",
    "tests/faults/test_shared_pulls.py", "tests/faults/test_small_blobs.py",
    "tests/sim/test_brings.py", "tests/sim/test_members.py",
    "tests/real/test_agents_network.py::"
    "test_three_agents_that_joined_one_after_the_other_all_know_each_other",
]  # fmt: skip
STREAMS: dict[str, tuple[int, list[str]]] = {  # niceness and tests; the first has what is not named
    "timed": (0, []),
    "agents": (10, AGENTS),
    "programs": (10, PROGRAMS),
    "clouds": (10, CLOUDS),
    "plain": (19, PLAIN),
}
BUILDS_NICENESS = 15  # what needs them waits for them, and nothing waits for `plain`
ENDS_S = 30.0
FAILED = 1  # of pytest: some tests did
CHECK = ["scripts/check"]
BUILDS = [sys.executable, "-m", "tests.support.builds"]
AGAIN = ["--last-failed", "--last-failed-no-failures", "none"]
running: list[subprocess.Popen[bytes]] = []
Results = dict[str, tuple[list[str], int]]  # of a stream: its command, its exit status


@dataclass(frozen=True)
class Stream:
    """One run of pytest among others. `log`: its output, where it is not ours."""

    name: str
    command: list[str]
    process: subprocess.Popen[bytes]
    log: IO[bytes] | None = None

    def ended(self) -> int:
        """Its exit status, once it has one; what it said is printed."""
        status = self.process.wait()
        if self.log is not None:
            show(f"{self.name}, which ran beside the others", self.log)
        return status


def pytest(marks: str, *arguments: str, cache: str) -> list[str]:
    """The command of one run, which remembers what failed in a folder of its own."""
    return [
        sys.executable, "-m", "pytest", "-m", marks, "--durations=25",
        "-o", f"cache_dir=.pytest_cache/{cache}", *arguments,
    ]  # fmt: skip


def start(
    command: Sequence[str],
    out: IO[bytes] | None = None,
    err: IO[bytes] | None = None,
    *,
    nice: int = 0,
    passed: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """One run, which inherits the descriptors of `passed`. What it says goes to ours, or files."""
    process = subprocess.Popen(
        ["nice", "-n", str(nice), *command], cwd=REPO, stdin=subprocess.DEVNULL,
        stdout=out, stderr=err, pass_fds=passed,
    )  # fmt: skip
    running.append(process)
    return process


def run(command: Sequence[str]) -> int:
    """Its exit status."""
    process = start(command)
    try:
        return process.wait()
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Where the run is interrupted, it is too: it has servers to end."""
    if process.poll() is None:
        try:
            process.wait(ENDS_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def end(number: int, _frame: object) -> None:
    """A terminal's Ctrl-C reaches all; what is sent to us alone has to be passed on."""
    signal.signal(number, signal.SIG_IGN)
    interrupt()
    sys.exit(128 + number)


def interrupt() -> None:
    """End what runs, as Ctrl-C does."""
    for process in running:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)


def streams(quick: bool) -> dict[str, tuple[int, list[str]]]:
    """What to run: by name, niceness and arguments of pytest."""
    if quick:
        return {"timed": (0, QUICK), "plain": (STREAMS["plain"][0], ["tests/unit"])}
    named = [path for _, tests in STREAMS.values() for path in tests]
    the_rest = ["tests", *(f"--ignore={path}" for path in named)]
    return {name: (nice, tests or the_rest) for name, (nice, tests) in STREAMS.items()}


def all_streams(marks: str, builds: int | None, *, quick: bool) -> Results:
    """Run everything, or little of it. `builds`: a pipe that ends when everything is built."""
    pipe = [] if builds is None else [builds]
    waits = ["-p", "tests.support.after_builds", f"--builds={builds}"] if pipe else []
    with contextlib.ExitStack() as stack:
        started = []
        for name, (nice, tests) in streams(quick).items():
            command = pytest(marks, *tests, cache=name)
            log = None if nice == 0 else stack.enter_context(tempfile.TemporaryFile())
            process = start([*command, *waits], log, log, nice=nice, passed=pipe)
            stack.callback(stop, process)
            started.append(Stream(name, command, process, log))
        return {one.name: (one.command, one.ended()) for one in started}


def everything(marks: str) -> tuple[Results, int]:
    """Builds, checks and all streams: the results of the streams, and the status of the rest. What
    could not be built is said, and tried once more, alone.
    """
    with tempfile.TemporaryFile() as log, contextlib.ExitStack() as stack:
        ended, ends = os.pipe()
        stack.callback(os.close, ended)
        try:
            builds = start(BUILDS, err=log, nice=BUILDS_NICENESS, passed=[ends])
        finally:
            os.close(ends)
        stack.callback(stop, builds)
        status = run(CHECK)
        if status != 0:
            interrupt()
            return {}, status
        results = all_streams(marks, ended, quick=False)
        status = builds.wait()
        if status != 0:
            show("what could not be built", log)
            status = run(BUILDS)
        return results, status


def show(title: str, log: IO[bytes]) -> None:
    """What a run said that had no place of its own on the screen."""
    print(f"\nscripts/test: {title}:", flush=True)
    log.seek(0)
    sys.stdout.buffer.write(log.read())
    sys.stdout.flush()


def main(*arguments: str) -> int:
    """0 when all passed, at the second time at last."""
    quick = arguments[:1] == ("--quick",)
    marks, *arguments_of_pytest = arguments[quick:]
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` has it ignored
    worst = 0
    if quick or arguments_of_pytest:
        status = run(CHECK) or (0 if quick else run(BUILDS))
        if status != 0:
            return status
    if arguments_of_pytest:
        command = pytest(marks, *arguments_of_pytest, cache="chosen")
        runs = {"chosen": (command, run(command))}
    elif quick:
        runs = all_streams(marks, None, quick=True)
    else:
        runs, worst = everything(marks)
    for command, status in runs.values():
        if status == FAILED:
            print("scripts/test: what failed is run once more, alone", flush=True)
            status = run([*command, *AGAIN])
        worst = max(worst, abs(status))
    return worst


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
