"""Five agents start one pull at the same moment, and nobody has it: one copy leaves the origin.

A network of its own with empty stores. What is claimed is counted in the origin's own log.
"""

from __future__ import annotations

import contextlib
import shutil
import statistics
import threading
import time
from typing import TYPE_CHECKING

from p2pcache import Client
from p2pcache.transfer.simulate import Sample, svg
from scripts.demo_network import claim, form, from_peers, pulling, receipt, stage_act
from scripts.demo_stage import MB, agents, headline, run, say
from tests.support.nginx import nginx, static_hub

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Self

    from scripts.demo_stage import Act
    from tests.support.hub_repo import HubRepo
    from tests.support.nginx import Nginx

NAMES = ("red", "blue", "green", "white", "black")
MOST_COPIES = 1.2  # about 1.01; on a machine that is busy with other things some pieces go twice
# All of a pull: about 15 s. Without it five agents at loopback's speed fight for two cores, and who
# waits for a core looks to the others as if it had stopped.
LIMIT_BYTES_PER_S = 20 << 20
LIMIT = ("--limit-rate", str(LIMIT_BYTES_PER_S))
SAMPLE_S = 0.25
PULL_S = 240.0  # for all five, on a busy machine


def swarm_act(folder: Path, repo: HubRepo) -> None:
    """The whole act. Raises SystemExit when something that is claimed does not hold."""
    headline("A swarm: five agents start together on an empty network, the origin sends one copy")
    shutil.rmtree(folder, ignore_errors=True)
    site = folder / "site"
    with nginx(site, folder / "server", extra=static_hub(repo, site)) as origin:
        acts = [stage_act(folder, name, repo, origin.url) for name in NAMES]
        with agents(acts):
            form(acts)
            headline("All five ask for it at the same moment")
            began = time.monotonic()
            with _Watch(acts, origin, repo) as watch, contextlib.ExitStack() as stack:
                pulls = [stack.enter_context(pulling(act, *LIMIT)) for act in acts]
                for act, pull in zip(acts, pulls, strict=True):
                    if pull.wait(max(1.0, began + PULL_S - time.monotonic())) != 0:
                        raise SystemExit(f"error: [{act.agent}] get failed: {pull.returncode}")
            say(f"all five have it after {time.monotonic() - began:.1f} s")
            for act in acts:
                got = receipt(act)
                others = from_peers(got)
                say(
                    f"[{act.agent:5}] {(got['fetched_bytes'] - others) / MB:6.1f} MB from the "
                    f"origin, {others / MB:6.1f} MB from the other four"
                )
            _count(origin, repo)
            print(run(acts[-1], "why", "last"), end="", flush=True)
            picture = folder / "swarm.svg"
            title = f"{len(acts)} agents, {repo.total_bytes / MB:.0f} MB, one origin"
            picture.write_text(svg(watch.samples, repo.total_bytes / LIMIT_BYTES_PER_S, title))
            say(f"the plot of the swarm, for a browser: {picture}")
    for act in acts:  # it all held: five more copies are worth nothing to a second run
        shutil.rmtree(act.folder)


class _Watch(threading.Thread):
    """Looks at all agents and at the origin's log while the block runs; `samples`: what it saw."""

    def __init__(self, acts: Sequence[Act], origin: Nginx, repo: HubRepo) -> None:
        super().__init__(daemon=True)
        self.samples: list[Sample] = []
        self._homes = [act.home for act in acts]
        self._origin = origin
        self._total = repo.total_bytes
        self._end = threading.Event()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self.join()

    def run(self) -> None:
        """Until the block ends, and once more."""
        began, shares = time.monotonic(), [0.0] * len(self._homes)
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(Client(home)) for home in self._homes]
            while True:
                over = self._end.wait(SAMPLE_S)
                for number, client in enumerate(clients):
                    for pull in client.status()["pulls"]:
                        done, total = pull.get("done_bytes", 0), pull.get("total_bytes")
                        shares[number] = max(shares[number], done / (total or self._total))
                if over:  # a pull that ended is not listed any more
                    shares = [1.0] * len(shares)
                sent = min(1.0, self._origin.body_bytes() / self._total)
                self.samples.append(
                    Sample(
                        time.monotonic() - began,
                        max(sent, *shares),
                        min(shares),
                        statistics.mean(shares),
                        sum(share >= 1.0 for share in shares) / len(shares),
                    )
                )
                if over:
                    return


def _count(origin: Nginx, repo: HubRepo) -> None:
    headline("What the origin's own log says (nginx access.log)")
    sent = origin.body_bytes()
    copies = sent / repo.total_bytes
    say(
        f"sent in all: {sent / MB:.1f} MB; the repository: {repo.total_bytes / MB:.1f} MB; "
        f"five copies would be {5 * repo.total_bytes / MB:.1f} MB"
    )
    claim(copies <= MOST_COPIES, f"{copies:.2f} copies left the origin for five agents")
