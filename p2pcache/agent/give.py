"""Give content to a destination: the second half of `push`."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import trio

from p2pcache.agent.args import credentials_of
from p2pcache.agent.bptr_logins import caller_login
from p2pcache.content import refs
from p2pcache.content.s3_refs import STORES
from p2pcache.destinations.port import Place, Waiting
from p2pcache.errors import UsageError, plain_errors
from p2pcache.transfer.progress import Progress

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from p2pcache.agent.args import Args
    from p2pcache.agent.parts import Emit, Parts
    from p2pcache.destinations.port import Content, Destination
    from p2pcache.sources.port import Credentials

CLOSE_S = 2.0  # for connections to be closed politely


@asynccontextmanager
async def opened(parts: Parts, to: str, args: Args) -> AsyncIterator[Destination[Any]]:
    """The destination that `to` means, closed at the end. Raises UsageError."""
    place = Place(
        to,
        _login(to, args),
        kubo=args.optional_text("kubo"),
        replicas=args.size("replicas"),
        rate_bytes_per_s=args.positive("limit_rate"),
    )
    opener = parts.destinations.get(place.scheme)
    if opener is None:
        hint = "known: " + ", ".join(sorted(parts.destinations))
        if place.scheme in STORES:
            hint = "push to s3://BUCKET, with its endpoint in AWS_ENDPOINT_URL or `s3.buckets`"
        raise UsageError(f"`{place.scheme[:100]}` is no destination", hint=hint)
    destination = await opener(place)
    try:
        yield destination
    finally:
        with trio.move_on_after(CLOSE_S, shield=True):
            await destination.aclose()


def _login(to: str, args: Args) -> Credentials:
    """The caller's for a place, which is named as what lies there."""
    if args.optional_text("to_secret") is None:
        return credentials_of(args.text_map("to_credentials"))
    return caller_login(args, refs.parse_ref(to), "to_")


async def give(
    destination: Destination[Any], content: Content, emit: Emit, *, dry_run: bool
) -> dict[str, Any]:
    """Ask what is missing there, send it, and tell both."""
    await emit({"type": "progress", **Progress("planning").to_wire()})
    plan = await destination.plan(content)
    missing = destination.missing(plan)
    answer: dict[str, Any] = {
        "destination": destination.name,
        "where": destination.where,
        "dry_run": dry_run,
        "missing_blocks": missing.blocks,
        "missing_objects": missing.objects,
        "missing_bytes": missing.bytes,
        "sent_blocks": 0,
        "sent_objects": 0,
        "sent_bytes": 0,
        "skipped_bytes": max(0, content.total_bytes - missing.bytes),
        "resumed_bytes": 0,
        "pinned": False,
        "provided": False,
        "ref": None,
        "notes": [],
    }
    if dry_run:
        return answer
    send, receive = trio.open_memory_channel[int | Waiting](1)

    def watch(news: int | Waiting) -> None:
        with suppress(trio.WouldBlock):  # the next one is as good
            send.send_nowait(news)

    async def tell() -> None:
        async for news in receive:
            await emit({"type": "progress", **_progress(news, missing.bytes).to_wire()})

    with plain_errors():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tell)
            with send:
                pushed = await destination.send(content, plan, watch)
    return answer | {
        "sent_blocks": pushed.sent.blocks,
        "sent_objects": pushed.sent.objects,
        "sent_bytes": pushed.sent.bytes,
        "resumed_bytes": pushed.resumed_bytes,
        "pinned": pushed.pinned,
        "provided": pushed.provided,
        "ref": pushed.ref,
        "notes": list(pushed.notes),
    }


def _progress(news: int | Waiting, total_bytes: int) -> Progress:
    match news:
        case Waiting(who, done, total):
            return Progress("waiting", None, done, total, waiting_for=who)
        case done:
            return Progress("sending", None, min(done, total_bytes), total_bytes)
