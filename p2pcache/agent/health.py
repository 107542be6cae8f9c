"""The operations that look: status, why, doctor and config."""

from __future__ import annotations

import os
import shutil
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from p2pcache.agent.adoption.operations import shown
from p2pcache.agent.network_health import network_checks, network_status, row
from p2pcache.content import refs
from p2pcache.errors import NotFound
from p2pcache.transfer.budgets import parse_month
from p2pcache.units import format_bytes
from p2pcache.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator

    from p2pcache.agent.args import Args
    from p2pcache.agent.parts import Emit, Parts

LOW_SPACE = 0.05  # of the file system: below it pulls of models will soon fail


def _rss_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def status(parts: Parts, args: Args, emit: Emit) -> dict[str, Any]:
    """How the agent is, and what it is doing."""
    usage = await trio.to_thread.run_sync(parts.store.usage)
    return {
        "version": __version__,
        "pid": os.getpid(),
        "uptime_s": parts.now() - parts.started_at,
        "home": str(parts.config.home),
        "rss_bytes": _rss_bytes(),
        "store": {
            "path": str(parts.config.store_path),
            "used_bytes": usage.used_bytes,
            "capacity_bytes": parts.config.store.capacity_bytes,
            "blobs": usage.blobs,
            "partials": usage.partials,
            "index_lost": parts.store.index_lost,
        },
        "pulls": [
            {"ref": p.ref, "started_at": p.started_at, "waiters": p.waiters, **p.progress.to_wire()}
            for p in parts.pulls.running()
        ],
        "network": await network_status(parts),
        "ipfs": parts.ipfs.status(),
        "limits": parts.rates.status(),
        "adopted": [shown(parts, state) for state in parts.adopter.states.values()],
    }


async def origins(parts: Parts, args: Args, emit: Emit) -> dict[str, Any]:
    """What the network fetched of each origin in a month (this one), what it may, and the cost."""
    text = args.optional_text("month")
    month = None if text is None else parse_month(text)
    for origin in await parts.origins.of_month(month):
        await emit({"type": "item", "value": origin})
    return {}


async def why(parts: Parts, args: Args, emit: Emit) -> dict[str, Any]:
    """The receipt of a pull."""
    ref = refs.shown_ref(args.optional_text("ref") or "last")
    found = parts.store.receipt(ref)
    if found is None:
        raise NotFound(f"there is no receipt of `{ref}`", hint="`p2pcache why last` is the newest")
    return found


async def config(parts: Parts, args: Args, emit: Emit) -> dict[str, Any]:
    """Every setting, its value, and where the value came from."""
    return parts.config.show()


async def doctor(parts: Parts, args: Args, emit: Emit) -> dict[str, Any]:
    """Checks, one hint each."""
    await parts.names.network_with_somebody()
    checks = await trio.to_thread.run_sync(lambda: list(_checks(parts)))
    checks += network_checks(parts)
    checks += [row(*check) for check in parts.ipfs.checks()]
    kubo = await parts.kubos.check()
    checks += [] if kubo is None else [row(*kubo)]
    for check in checks:
        await emit({"type": "item", "value": check})
    return {"ok": all(check["ok"] for check in checks)}


def _checks(parts: Parts) -> Iterator[dict[str, Any]]:
    yield _writable(parts.config.store_path)
    disk = shutil.disk_usage(parts.config.store_path)
    reserve = parts.config.store.reserve_bytes
    yield row(
        "disk space",
        disk.free > LOW_SPACE * disk.total and disk.free > reserve,
        f"{format_bytes(disk.free)} free of {format_bytes(disk.total)}, of which "
        f"{format_bytes(reserve)} are left to others",
        "free space, set `store.capacity` and run `p2pcache gc`, or lower `store.reserve`",
    )
    lost = parts.store.index_lost
    yield row(
        "index",
        lost is None,
        lost or "as it was left",
        "what is still listed is in `p2pcache ls`; get and pin again what is not",
    )
    ca_file = parts.config.ca_file
    if ca_file is not None:
        yield _ca_file(ca_file)
    yield row(
        "SHA instructions",
        _has_sha_ni(),
        "the CPU hashes about 1.8 GB/s a core with them, 0.4 without",
        "pulls are bound by hashing on this CPU",
    )


def _writable(path: Path) -> dict[str, Any]:
    probe = path / f".doctor-{os.getpid()}"
    try:
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as exc:
        return row("store", False, f"{path}: {exc.strerror}", "make it writable for this user")
    return row("store", True, f"{path} is writable", "")


def _ca_file(path: str) -> dict[str, Any]:
    try:
        ssl.create_default_context(cafile=path)
    except (OSError, ssl.SSLError) as exc:
        return row("certificate authorities", False, f"{path}: {exc}", "set `tls.ca_file` right")
    return row("certificate authorities", True, path, "")


def _has_sha_ni() -> bool:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return True
    return " sha_ni" in text or " sha2" in text
