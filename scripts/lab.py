"""Agents on a LAN of network namespaces: a bridge, real addresses, no default route.

    sudo scripts/lab                 all acts
    sudo scripts/lab share           three find each other by mDNS and share a model while it
                                     arrives; the origin is cut off; a fourth joins by token
    sudo scripts/lab cable           a cable is out for 10 s in the middle of a pull
    sudo scripts/lab interface       the same, with the node's own interface taken down
    sudo scripts/lab networks        two networks on one bridge never exchange a byte
    sudo scripts/lab preload         eight bring a model ahead of its use; one is killed meanwhile
                                     and started again, another gets something else

Every claim is checked; the status is 1 when one does not hold. Namespaces, processes and files are
removed at the end, also after a failure or Ctrl-C; what a killed run left, the next one removes.
Nothing outside the namespaces is touched: no route, no firewall, no service of this machine.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support import lab, preload_run
from tests.support.namespaces import can_make_namespaces, namespaces, remove_namespace

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.hub_repo import HubRepo

    Act = Callable[[Path, str], object]  # given a folder, and what the namespaces' names begin with

PREFIX = "p2plab"  # of our namespaces' names; the process id follows


def say(text: str) -> None:
    print(text, flush=True)


def of_five(act: Callable[[lab.Lab, HubRepo], dict[str, Any]]) -> Act:
    """An act on a LAN of five machines that share one model."""

    def run(folder: Path, tag: str) -> object:
        repo = lab.model(folder / "repo")
        say(f"demo/model: {len(repo.files)} files, {repo.total_bytes / lab.MB:.0f} MB of random "
            "bytes")  # fmt: skip
        with lab.lab(folder, say, tag=tag) as made:
            return act(made, repo)

    return run


def preload(folder: Path, tag: str) -> object:
    """Eight machines and two origins."""
    return preload_run.act(folder, say, tag=tag)


ACTS: dict[str, tuple[str, Act]] = {
    "share": ("One key, no address: they find each other and share", of_five(lab.share)),
    "cable": ("A cable is pulled in the middle of a pull", of_five(lab.outage)),
    "interface": (
        "A node's interface goes down in the middle of a pull",
        of_five(lambda made, repo: lab.outage(made, repo, how="interface")),
    ),
    "networks": ("Two networks on one bridge", of_five(lab.two_networks)),
    "preload": ("A preload, a kill, and somebody who waits", preload),
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/lab",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("act", nargs="*", help=f"{', '.join(ACTS)}; default: all of them")
    parser.add_argument("--keep", metavar="DIR", help="keep the agents' homes and logs there")
    args = parser.parse_args()
    if unknown := [act for act in args.act if act not in ACTS]:
        parser.error(f"no such act: {', '.join(unknown)} (there are {', '.join(ACTS)})")
    if os.geteuid() != 0:
        return failed("scripts/lab makes network namespaces, which only root may do",
                      "run it as root: sudo scripts/lab")  # fmt: skip
    if not can_make_namespaces():
        return failed("this kernel lets not even root make network namespaces here",
                      "in a container it needs CAP_SYS_ADMIN and CAP_NET_ADMIN")  # fmt: skip
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sweep()
    try:
        with contextlib.ExitStack() as stack:
            folder = Path(args.keep or tempfile.mkdtemp(prefix="p2plab-"))
            if args.keep is None:
                stack.callback(shutil.rmtree, folder, ignore_errors=True)
            return perform(args.act or list(ACTS), folder)
    except KeyboardInterrupt:
        print("interrupted; everything is removed", file=sys.stderr)
        return 130


def perform(names: list[str], folder: Path) -> int:
    """The acts, one after the other, each on a LAN of its own."""
    began = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    broken = []
    for name in names:
        title, act = ACTS[name]
        say(f"\n=== {title}")
        try:
            tag = f"{PREFIX}{os.getpid()}"
            shutil.rmtree(folder / name, ignore_errors=True)
            act(folder / name, tag)
        except (AssertionError, OSError, RuntimeError) as exc:
            broken.append(name)
            print(f"FAILED: {name}: {exc}", file=sys.stderr, flush=True)
    seconds = time.monotonic() - began
    say(f"\n{len(names) - len(broken)} of {len(names)} acts hold; {seconds:.0f} s; "
        "everything that was made is removed")  # fmt: skip
    return 1 if broken else 0


def sweep() -> None:
    """Remove the namespaces of runs whose process is gone."""
    for name in namespaces(PREFIX):
        pid = name.removeprefix(PREFIX).partition("h")[0].partition("s")[0]
        if pid.isdecimal() and not Path(f"/proc/{pid}").exists():
            say(f"removing {name}, which a run that was killed left")
            remove_namespace(name)


def failed(what: str, hint: str) -> int:
    print(f"error: {what}\nhint: {hint}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
