"""Whether a bucket can be used as its settings say: one check a line, each by itself.

A login that may only read is good for whoever only reads: that is said, and is a fault only where
the caller wants to write.
"""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING, Any

import trio

from p2pcache.agent.bucket.place import cache_of, opened, place_of
from p2pcache.destinations.objects.port import Absent
from p2pcache.errors import Denied, P2PCacheError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from p2pcache.agent.args import Args
    from p2pcache.agent.bucket.place import BucketPlace
    from p2pcache.agent.parts import Emit, Parts

PROBES = "_p2pcache/doctor/"  # beside what hf-cache-sync looks at


async def bucket_doctor(parts: Parts, args: Args, emit: Emit) -> dict[str, Any]:
    """Each check as an item. `write`: a bucket that cannot be written to is a fault."""
    ok = True
    async for check in _checks(parts, args):
        ok = ok and check["ok"]
        await emit({"type": "item", "value": check})
    return {"ok": ok}


def _row(check: str, ok: bool, detail: str, hint: str | None = None) -> dict[str, Any]:
    return {"check": check, "ok": ok, "detail": detail, "hint": hint}


async def _checks(parts: Parts, args: Args) -> AsyncIterator[dict[str, Any]]:
    yield await trio.to_thread.run_sync(_cache, cache_of(args))
    try:
        place = place_of(args)
    except P2PCacheError as exc:
        yield _row("bucket", False, exc.message, exc.hint)
        return
    yield _row("bucket", True, place.text)
    yield _login(place, args)
    try:
        async with opened(parts, place) as store:
            yield _row("endpoint", True, store.endpoint)
            objects = await store.list()
            yield _row("read", True, f"{len(objects)} objects are listed")
    except P2PCacheError as exc:
        yield _row("read", False, exc.message, exc.hint)
        return
    yield await _write(parts, place, wanted=args.flag("write"))


def _cache(cache: Path) -> dict[str, Any]:
    """Blocking."""
    if not cache.is_dir():
        hint = "it is made by the first pull; HF_HUB_CACHE, HF_HOME or cache.hf_cache_dir name it"
        return _row("Hugging Face cache", True, f"there is no {cache} yet", hint)
    if not os.access(cache, os.R_OK | os.W_OK | os.X_OK):
        hint = "make it writable for this user"
        return _row("Hugging Face cache", False, f"{cache} is not writable", hint)
    return _row("Hugging Face cache", True, str(cache))


def _login(place: BucketPlace, args: Args) -> dict[str, Any]:
    source = args.optional_text("login")
    if source is not None:
        return _row("login", True, f"of {source}")
    aws = place.credentials.aws
    if aws is not None and (aws.keys is not None or aws.profile is not None):
        return _row("login", True, "of the AWS_* variables")
    hint = (
        "storage.access_key and secret_key, or B2_APPLICATION_KEY_ID and B2_APPLICATION_KEY, or "
        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    )
    return _row("login", True, "none is set: what boto3 finds where the agent runs, or none", hint)


async def _write(parts: Parts, place: BucketPlace, *, wanted: bool) -> dict[str, Any]:
    """Write and remove an object beside all others."""
    key = f"{PROBES}{secrets.token_hex(8)}"
    try:
        async with opened(parts, place) as store:
            await store.put_small(key, b"p2pcache bucket doctor", Absent())
            try:
                await store.delete(key)
            except P2PCacheError as exc:
                detail = f"{key} was written and cannot be removed: {exc.message}"
                return _row("write", True, detail, "remove it by hand")
            detail = "an object was written and removed"
            if not store.conditional:
                detail += "; the store knows no conditions: push from one machine at a time"
            return _row("write", True, detail)
    except Denied as exc:
        hint = "the login needs s3:PutObject to push; pulls do not"
        return _row("write", not wanted, f"read only: {exc.message}", hint)
    except P2PCacheError as exc:
        return _row("write", not wanted, exc.message, exc.hint)
