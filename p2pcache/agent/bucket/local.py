"""The Hugging Face cache of this machine, as `p2pcache bucket` shows it, and room made in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from p2pcache.agent.bucket.place import cache_of, opened, place_of
from p2pcache.agent.bucket.remote import read_remote
from p2pcache.errors import UsageError
from p2pcache.store.hfcache.prune import plan_prune, prune
from p2pcache.store.hfcache.scan import scan
from p2pcache.units import format_bytes

if TYPE_CHECKING:
    from p2pcache.agent.args import Args
    from p2pcache.agent.parts import Emit, Parts
    from p2pcache.store.hfcache.prune import PrunePlan
    from p2pcache.store.hfcache.scan import CachedRevision


async def bucket_list(parts: Parts, args: Args, emit: Emit) -> dict[str, Any]:
    """The revisions of the cache, as items; the answer counts them."""
    cached = await trio.to_thread.run_sync(scan, cache_of(args))
    for one in cached.revisions:
        await emit({"type": "item", "value": _shown(one)})
    return {
        "cache": str(cache_of(args)),
        "revisions": len(cached.revisions),
        "repos": len({one.repo for one in cached.revisions}),
        "total_bytes": cached.total_bytes,
        "loose_bytes": sum(blob.payload.size for blob in cached.loose),
        "partial_bytes": cached.partial_bytes,
    }


def _shown(one: CachedRevision) -> dict[str, Any]:
    return {
        "repo": one.repo.repo_id,
        "repo_type": one.repo.repo_type,
        "commit": one.commit,
        "refs": list(one.refs),
        "files": len(one.files),
        "size": one.size,
        "unusable": list(one.unusable)[:20],
        "used_at": one.used_at,
    }


async def bucket_remote(parts: Parts, args: Args, emit: Emit) -> dict[str, Any]:
    """The revisions of the bucket, as items."""
    place = place_of(args)
    async with opened(parts, place) as store:
        remote = await read_remote(store)
    for (repo, commit), one in sorted(remote.revisions.items(), key=lambda item: _order(item[0])):
        value = {
            "repo": repo.repo_id,
            "repo_type": repo.repo_type,
            "commit": commit,
            "refs": list(one.refs),
            "files": len(one.manifest.files),
            "size": one.manifest.size,
            "missing_blobs": len(one.missing),
        }
        await emit({"type": "item", "value": value})
    return {
        "where": store.where,
        "revisions": len(remote.revisions),
        "blobs": sum(key.startswith("blobs/") for key in remote.objects),
        "total_bytes": sum(one.size for one in remote.objects.values()),
        "notes": remote.notes,
    }


def _order(key: tuple[Any, str]) -> tuple[str, str, str]:
    return key[0].repo_id, key[0].repo_type, key[1]


async def bucket_diff(parts: Parts, args: Args, emit: Emit) -> dict[str, Any]:
    """Each revision as an item: `in-sync`, `local-only`, `remote-only`, or `differs`, where one of
    the two has files that the other has not.
    """
    place = place_of(args)
    cached = await trio.to_thread.run_sync(scan, place.cache)
    async with opened(parts, place) as store:
        remote = await read_remote(store)
    local = {(one.repo, one.commit): one for one in cached.revisions}
    counts: dict[str, int] = {}
    for key in sorted({*local, *remote.revisions}, key=_order):
        ours, theirs = local.get(key), remote.revisions.get(key)
        if theirs is None:
            status = "local-only"
        elif ours is None:
            status = "remote-only"
        else:
            same = {f.path for f in ours.files} == {f.path for f in theirs.manifest.files}
            status = "in-sync" if same and not theirs.missing else "differs"
        counts[status] = counts.get(status, 0) + 1
        repo, commit = key
        value = {"repo": repo.repo_id, "repo_type": repo.repo_type, "commit": commit}
        await emit({"type": "item", "value": {**value, "status": status}})
    return {"where": store.where, "counts": counts, "notes": remote.notes}


async def bucket_prune(parts: Parts, args: Args, emit: Emit) -> dict[str, Any]:
    """Remove what was used longest ago and has no ref, until the cache is within `max_bytes`; each
    revision that goes is an item. `over_budget` says why that is not enough, where it is not.
    """
    cache, budget, dry_run = cache_of(args), args.size("max_bytes"), args.flag("dry_run")
    if budget is None:
        raise UsageError("`max_bytes` is missing")
    cached = await trio.to_thread.run_sync(scan, cache)
    plan = plan_prune(cached, budget, parts.now())
    for one in plan.revisions:
        await emit({"type": "item", "value": _shown(one)})
    answer: dict[str, Any] = {
        "cache": str(cache),
        "dry_run": dry_run,
        "budget_bytes": budget,
        "total_bytes": plan.total_bytes,
        "left_bytes": plan.left_bytes,
        "freed_bytes": plan.freed_bytes,
        "elsewhere_bytes": 0,
        "revisions": len(plan.revisions),
        "loose_blobs": len(plan.loose),
        "partial_bytes": cached.partial_bytes,
        "over_budget": _over(plan, budget),
        "notes": [],
    }
    if not dry_run:
        done = await trio.to_thread.run_sync(
            prune, cache, plan, parts.now(), trio.from_thread.check_cancelled
        )
        answer |= {
            "freed_bytes": done.freed_bytes,
            "left_bytes": plan.total_bytes - done.freed_bytes,
            "elsewhere_bytes": done.elsewhere_bytes,
            "notes": done.notes,
        }
    return answer


def _over(plan: PrunePlan, budget: int) -> str | None:
    """Why the budget cannot be met."""
    if plan.left_bytes <= budget:
        return None
    return (
        f"{format_bytes(plan.left_bytes)} are left, {format_bytes(budget)} were allowed: "
        f"{format_bytes(plan.named_bytes)} have a ref (a branch or tag of the cache), and "
        f"{format_bytes(plan.recent_bytes)} changed within the last hour"
    )
