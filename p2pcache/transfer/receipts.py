"""The receipt of a pull: what `p2pcache why` shows. Plain values, fit for JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from p2pcache.sources.port import SourceKind
from p2pcache.transfer.account import binding, bound_terms

if TYPE_CHECKING:
    from p2pcache.errors import P2PCacheError
    from p2pcache.transfer.account import Tally
    from p2pcache.transfer.machine import SourceStatistics
    from p2pcache.transfer.resolve import Resolution
    from p2pcache.transfer.want import PullReport


def receipt(
    *,
    pull: str,
    ref: str,
    started_at: float,
    seconds: float,
    times: dict[str, float],
    resolution: Resolution | None,
    total_bytes: int,
    report: PullReport | None,
    error: P2PCacheError | None,
) -> dict[str, Any]:
    """Everything there is to say about a pull, complete or failed. Times in seconds."""
    statistics = None if report is None else report.statistics
    tally = None if report is None else report.tally
    fetched = 0 if statistics is None else statistics.fetched_bytes
    manifest = None if resolution is None else resolution.manifest
    return {
        "id": pull,
        "ref": ref,
        "manifest": None if manifest is None else manifest.cid(),
        "immutable": None if resolution is None else resolution.listing.immutable,
        "started_at": started_at,
        "seconds": seconds,
        "outcome": "complete" if error is None else f"failed: {error.message}",
        "total_bytes": total_bytes,
        "fetched_bytes": fetched,
        "reused_bytes": 0 if report is None else report.reused_bytes,
        "adopted_bytes": 0 if report is None else report.adopted_bytes,
        "resumed_bytes": 0
        if report is None or error is not None
        else resumed_bytes(report, total_bytes),
        "duplicate_bytes": 0 if statistics is None else statistics.duplicate_bytes,
        "duplicates": {} if statistics is None else dict(statistics.duplicates),
        "retries": 0 if statistics is None else statistics.retries,
        "sources": []
        if statistics is None
        else [_source(s, resolution, report) for s in statistics.sources],
        "times": times,
        "where": {} if tally is None else dict(tally.spent),
        "origin_copies": None if tally is None else _origin_copies(tally, report),
        "incidents": [] if tally is None else [i.to_wire() for i in tally.incidents],
        "more_incidents": 0 if tally is None else tally.more_incidents,
        "bound": _bound(fetched, seconds, report),
        "notes": [] if resolution is None else list(resolution.notes),
    }


def resumed_bytes(report: PullReport, total_bytes: int) -> int:
    """Of a complete pull: what was neither fetched nor a blob here.

    Verified blocks that an earlier pull left, and files whose bytes came once for another path.
    """
    brought = report.statistics.fetched_bytes + report.reused_bytes + report.adopted_bytes
    return max(total_bytes - brought, 0)


def _source(
    source: SourceStatistics, resolution: Resolution | None, report: PullReport | None
) -> dict[str, Any]:
    listing = None if resolution is None else resolution.listing
    endpoint = listing.endpoint if listing is not None and listing.source == source.name else ""
    hosts = {} if report is None else report.hosts
    outcome = (
        "left" if source.left else "used" if source.requests or source.kept_bytes else "not needed"
    )
    troubles = {} if report is None or report.tally is None else report.tally.troubles
    return {
        "name": source.name,
        "host": urlsplit(endpoint).netloc or hosts.get(source.name),
        "kind": source.kind.name.lower(),
        "bytes": source.kept_bytes,
        "wire_bytes": source.wire_bytes,
        "seconds": source.seconds,
        "requests": source.requests,
        "retries": source.retries,
        "outcome": outcome,
        "reason": source.left or troubles.get(source.name),
    }


def _origin_copies(tally: Tally, report: PullReport | None) -> dict[str, Any] | None:
    """How many times what was missing here left an origin: to this node ("own"), and to all of the
    swarm as far as this node heard ("heard"; None when it heard of nobody).
    """
    if not tally.missing_bytes or report is None:
        return None
    sources = report.statistics.sources
    own = sum(s.wire_bytes for s in sources if s.kind is SourceKind.ORIGIN)
    together = own + tally.heard_origin_bytes
    return {
        "own": own / tally.missing_bytes,
        "heard": together / tally.missing_bytes if tally.nodes > 1 else None,
    }


def _bound(fetched: int, seconds: float, report: PullReport | None) -> dict[str, Any] | None:
    """How far the pull was from what its links allow: `account.bound_terms` among others.

    Alone, a node knows neither the rate of its link nor of the origin: the best sustained second
    that it saw, kept up for all of the pull, is a lower bound of both, so the ratio is a lower
    bound of the distance.
    """
    best = 0.0 if report is None else report.best_bytes_per_s
    if not fetched or not best or report is None:
        return None
    tally = report.tally
    if tally is None or tally.nodes == 1:
        ideal_s = fetched / best
        return {
            "name": "best second of this pull",
            "bytes_per_s": best,
            "seconds": ideal_s,
            "ratio": seconds / ideal_s,
        }
    from_origins = tally.origin_bytes + tally.heard_origin_bytes
    terms = bound_terms(
        fetched_bytes=fetched,
        from_origins_bytes=from_origins,
        nodes=tally.nodes,
        origin_bytes_per_s=tally.origin_bytes_per_s,
        link_bytes_per_s=best,
    )
    term = binding(terms)
    assert term is not None, "the link was measured"
    ideal_s = terms[term]
    return {
        "name": f"a swarm of {tally.nodes} nodes",
        "bytes_per_s": fetched / ideal_s,
        "seconds": ideal_s,
        "ratio": seconds / ideal_s,
        "term": term,
        "terms": terms,
        "missing_bytes": fetched,
        "from_origins_bytes": min(fetched, from_origins),
        "nodes": tally.nodes,
        "origin_bytes_per_s": tally.origin_bytes_per_s,
        "link_bytes_per_s": best,
    }
