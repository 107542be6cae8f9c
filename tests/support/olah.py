"""olah, a Hugging Face mirror that other people wrote, as an offline origin (contracts.md C).

It serves git repositories from disk: no Range (whole bodies), a redirect on /tree, no X-Linked-*
headers, unquoted ETags. It lives in a virtual environment of its own outside the checkout, which
`scripts/setup` makes on first use.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.support.building import tool
from tests.support.processes import free_port, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.hub_repo import HubRepo

_CONFIG = """\
[basic]
host = "127.0.0.1"
port = {port}
hf-scheme = "http"
hf-netloc = "127.0.0.1:9"
hf-lfs-netloc = "127.0.0.1:9"
repos-path = "{data}/repos"
mirrors-path = ["{mirrors}"]

[accessibility]
offline = true
"""  # port 9 (discard): offline mode asks nothing upstream, and if it did nobody would answer


@dataclass(frozen=True)
class Olah:
    url: str
    pid: int
    log: Path


@contextlib.contextmanager
def olah(repo: HubRepo, data: Path, *, port: int | None = None) -> Iterator[Olah]:
    """Serve a repository until the block ends. `port` is for a restart at the same place."""
    command = tool("olah-cli")
    data.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    config = data / "olah.toml"
    config.write_text(_CONFIG.format(port=port, data=data, mirrors=repo.mirrors))
    log = data / "olah.log"
    argv = [str(command), "--config", str(config)]
    with running(argv, port=port, log=log, cwd=data, env={"HOME": str(data)}) as process:
        yield Olah(f"http://127.0.0.1:{port}", process.pid, log)
