"""A real implementation of the local API's Service with fixed answers, for tests of both ends.

As a program (`python -m tests.support.scripted_service`) it is an embedded agent: it serves until
its standard input closes and nobody is connected.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from p2pcache import config, errors
from p2pcache.agent.localapi.embedded import STAYS
from p2pcache.agent.localapi.server import ServerOptions, serve

if TYPE_CHECKING:
    from p2pcache.agent.localapi.answers import BadBlob, UnreadBlob

MANIFEST = "bafyreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"
RECEIPT = {
    "id": "p7", "ref": "hf://org/model", "manifest": MANIFEST, "started_at": 1_760_000_000.0,
    "seconds": 6.4, "outcome": "complete", "total_bytes": 5_261_334_937,
    "fetched_bytes": 5_260_000_000, "reused_bytes": 1_334_937, "duplicate_bytes": 0, "retries": 2,
    "sources": [
        {"name": "hf", "kind": "origin", "host": "huggingface.co", "bytes": 5_260_000_000,
         "seconds": 6.1, "requests": 318, "outcome": "used", "reason": None},
        {"name": "mirror", "kind": "origin", "host": "mirror.example", "bytes": 0,
         "seconds": 0.0, "requests": 1, "outcome": "left", "reason": "wrong Content-Range"},
    ],
    "times": {"resolve_s": 0.2, "adopt_s": 0.0, "fetch_s": 6.1, "verify_s": 0.1,
              "materialise_s": 0.01},
    "bound": {"name": "link", "bytes_per_s": 1.0e9, "seconds": 5.3, "ratio": 1.21},
    "notes": ["the manifest was recorded 3 days ago"],
}  # fmt: skip
PEER = "12D3KooWFTGUTqiLGmhuTnVxRqVXY17w222kPm5ezCZGSpPCiq5t"
OTHER_PEER = "12D3KooWPcfGdBCrdxX9nqGAdPAdkPMqfKEDjbZWGA4UFBJuY4rP"
ADDRESS = f"/ip4/192.0.2.7/tcp/4801/p2p/{PEER}"
NETWORK = {
    "network": "2f5996096c987138a1f4f8c4a1edb038", "peer": PEER, "admin": PEER,
    "addresses": [ADDRESS], "made": True,
}  # fmt: skip
NETWORK_STATUS = {
    "state": "on", "why": None, "network": NETWORK["network"], "peer": PEER,
    "addresses": [ADDRESS], "members": 2, "dht": {"servers": 2, "provided": 7},
    "lanes": {"port": 4802, "tls": True, "limit_up_bytes_per_s": 10 << 20, "connections": 3,
              "sent_bytes": 5 << 30},
}  # fmt: skip
ADOPTED = {
    "folder": "/data/mo\ndels", "kind": "hub", "private": False, "public": False, "files": 2,
    "bytes": 5 << 20, "kept_files": 1, "waiting_files": 1, "waiting_bytes": 3 << 20,
    "settling": 1, "left_out": {"link": 2}, "problem": None, "manifest": None, "paused": True,
}  # fmt: skip
FAILURES = {kind.code: kind for kind in errors.ALL_ERRORS}
LAST_ITEM_COUNT = 50


class ScriptedService:
    """Answers like an agent with one model, and remembers what it was asked.

    Refs with a meaning: `fail:<code>` raises that error, `hang` waits until it is cancelled,
    `slow` makes progress for 0.3 s, `bug` raises KeyError, `huge` returns more than a frame.
    """

    def __init__(self):
        self.calls = []
        self.cancelled = []
        self.network = NETWORK_STATUS
        self.stop = trio.Event()
        self.began = trio.Event()

    async def call(self, op, args, emit):
        self.calls.append((op, args))
        self.began.set()
        await self._act(str(args.get("ref")), emit)
        answer = getattr(self, f"op_{op}", None)
        if answer is None:
            raise errors.UsageError(f"no operation {op!r}")
        return await answer(args, emit)

    async def _hang(self, ref):
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            self.cancelled.append(ref)
            raise

    async def _act(self, ref, emit):
        if ref.startswith("fail:"):
            raise FAILURES[ref.removeprefix("fail:")]("what happened\nmore of it", hint="do this")
        if ref == "bug":
            raise KeyError("planted")
        if ref == "hang":
            await emit({"type": "progress", "phase": "fetching", "done_bytes": 1})
            await self._hang(ref)
        if ref == "slow":
            for step in range(4):
                await emit(
                    {"type": "progress", "phase": "fetching", "file": "a.bin",
                     "done_bytes": step * 100, "total_bytes": 400, "sources": {"hf": step * 100}}
                )  # fmt: skip
                await trio.sleep(0.1)

    async def op_get(self, args, emit):
        answer = {
            "ref": args["ref"], "manifest": MANIFEST, "immutable": "a" * 40,
            "path": args["to"] or args["hf_cache"] or "/folder", "files": 2, "total_bytes": 400,
            "fetched_bytes": 400, "reused_bytes": 0, "seconds": 0.01, "link_kind": "hard link",
            "pull": "p7", "notes": ["named by what arrived"],
        }  # fmt: skip
        if args["dry_run"]:
            for name in ("config.json", "model.bin"):
                await emit({"type": "item", "value": {"path": name, "size": 200}})
            answer |= {"path": None, "dry_run": {"missing_bytes": 400}}
        return answer

    async def op_resolve(self, args, emit):
        for name in ("config.json", "new\nline"):
            await emit(
                {"type": "item", "value": {"path": name, "size": 200, "sha256": "0" * 64,
                 "git_sha1": None, "root": None, "present": name == "config.json"}}
            )  # fmt: skip
        return {
            "ref": args["ref"], "canonical": "hf://org/model@main", "manifest": MANIFEST,
            "immutable": "a" * 40, "mutable": True, "source": "hf",
            "endpoint": "https://huggingface.co", "resolved_at": 1_760_000_000.0,
            "from_record": True, "gated": False, "total_bytes": 400, "file_count": 2, "notes": [],
        }  # fmt: skip

    async def op_bptr_pull(self, args, emit):
        return {"folders": [args["folders"][""]], "files": 1, "total_bytes": 4,
                "fetched_bytes": 3, "reused_bytes": 1, "seconds": 0.1, "made": {"copy": 1},
                "pulls": ["p7"], "notes": ["named by what arrived"]}  # fmt: skip

    async def op_push(self, args, emit):
        return {"manifest": MANIFEST, "root": "bafybeiroot", "sha256": "0" * 64, "files": 1,
                "total_bytes": 4}  # fmt: skip

    async def op_export(self, args, emit):
        ref = {"ref": args["refs"][0], "manifest": MANIFEST, "root": "bafybeiroot", "files": 2,
               "names": ["hf://org/model@main"], "restricted": args["gated"]}  # fmt: skip
        return {"format": "bundle", "path": args["path"], "index": args["path"] + ".idx",
                "size_bytes": 500, "blocks": 5, "total_bytes": 400, "refs": [ref]}  # fmt: skip

    async def op_import(self, args, emit):
        name = {"ref": "hf://org/model@main", "signer": PEER, "resolved_at": 1_760_000_000.0,
                "counts": True}  # fmt: skip
        ref = {"manifest": MANIFEST, "root": "bafybeiroot", "sha256": None, "files": 2,
               "total_bytes": 400, "names": [name], "restricted": False,
               "pinned": False}  # fmt: skip
        return {"refs": [ref], "total_bytes": 400, "new_bytes": 300, "new_block_bytes": 0,
                "notes": []}  # fmt: skip

    async def op_ls(self, args, emit):
        for number in range(LAST_ITEM_COUNT):
            await emit(
                {"type": "item", "value": {"ref": f"hf://org/m{number}", "manifest": MANIFEST,
                 "immutable": "a" * 40, "files": 2, "total_bytes": 400, "present_bytes": 200,
                 "pinned": number == 0, "kept": "pinned" if number == 0 else None,
                 "last_used": 1_760_000_000.0, "resolved_at": None, "source": "hf"}}
            )  # fmt: skip
        return {}

    async def op_pin(self, args, emit):
        return {"manifest": MANIFEST}

    op_unpin = op_pin

    async def op_publish(self, args, emit):
        return {"root": "bafybeiroot", "blocks": 3, "notes": ["nobody gets it yet"]}

    async def op_unpublish(self, args, emit):
        return {"root": "bafybeiroot"}

    async def op_published(self, args, emit):
        value = {"root": "bafybeiroot", "refs": ["hf://org/model@main"], "shared": True}
        await emit({"type": "item", "value": value})
        return {}

    async def op_adopt(self, args, emit):
        await emit({"type": "progress", "phase": "hashing", "done_bytes": 5, "total_bytes": 9})
        return ADOPTED | {"folder": args["path"], "private": args["private"],
                          "notes": ["it is\nopen"]}  # fmt: skip

    async def op_adopted(self, args, emit):
        await emit({"type": "item", "value": ADOPTED})
        return {}

    async def op_unadopt(self, args, emit):
        return {"folder": args["path"], "files": 2}

    async def op_rm(self, args, emit):
        return {"freed_bytes": 1 << 20}

    async def op_gc(self, args, emit):
        return {"freed_bytes": 3 << 30, "evicted": 4, "kept": {"pinned": 2 << 30}}

    async def op_verify(self, args, emit):
        await emit({"type": "progress", "phase": "verifying", "done_bytes": 5, "total_bytes": 9})
        if args["ref"] == "bad":
            bad: BadBlob = {
                "sha256": "0" * 64, "path": "/blobs/0", "problem": "its bytes hash to sha256:11",
                "bad_blocks": 2, "linked": 3, "repaired": args["repair"], "reason": None,
            }  # fmt: skip
            await emit({"type": "item", "value": {"bad": bad}})
        if args["ref"] == "unread":
            unread: UnreadBlob = {"sha256": "1" * 64, "path": "/blobs/1", "problem": "no memory"}
            await emit({"type": "item", "value": {"unread": unread}})
        repaired = int(args["ref"] == "bad" and args["repair"])
        return {"checked": 9, "checked_bytes": 9, "repaired": repaired}

    async def op_status(self, args, emit):
        return {
            "version": "0.1.0", "pid": os.getpid(), "uptime_s": 3725.0, "home": "/home/x",
            "store": {"used_bytes": 5 << 30, "capacity_bytes": None, "blobs": 12, "partials": 1},
            "pulls": [{"ref": "hf://org/model", "done_bytes": 100, "total_bytes": 400}],
            "clients": 1, "rss_bytes": 80 << 20, "network": self.network,
        }  # fmt: skip

    async def op_init(self, args, emit):
        return NETWORK | {"made": True}

    async def op_join(self, args, emit):
        if args["token"] == "hang":
            await self._hang("hang")
        return NETWORK | {"made": args["token"] != "again"}

    async def op_invite(self, args, emit):
        return {"token": "p2pcache1-token", "expires_at": 1_760_000_000.0 + args["expires_s"],
                "addresses": [ADDRESS]}  # fmt: skip

    async def op_peers(self, args, emit):
        await emit(
            {"type": "item", "value": {"peer": PEER, "address": "/ip4/192.0.2.7/tcp/4801",
             "addresses": ["/ip4/192.0.2.7/tcp/4801"], "connection": None,
             "agent": "p2pcache/0.1.0", "zone": "eu-1a", "rack": "",
             "connected_s": 61.0, "lane": "tls:4802", "round_trip_s": 0.0012,
             "queue_s": 0.0, "up_bytes_per_s": 0.0, "intake_bytes_per_s": 0.0,
             "sent_bytes": 3 << 20, "received_bytes": 0, "holds": 2}}
        )  # fmt: skip
        return {}

    async def op_origins(self, args, emit):
        members = [
            {"peer": PEER, "ours": True, "bytes": 1 << 40, "requests": 9, "asks_now": True,
             "running": 4, "heard": True},
            {"peer": OTHER_PEER, "ours": False, "bytes": 5 << 20, "requests": 1, "asks_now": False,
             "running": 0, "heard": False},
        ]  # fmt: skip
        await emit(
            {"type": "item", "value": {
                "host": "huggingface.co", "month": "2026-11", "renews_at": 1_796_083_200.0,
                "limits": {"requests_per_s": 50.0, "concurrent": 8,
                           "bytes_per_s": 100.0 * (1 << 20), "month_bytes": 1 << 40},
                "bytes": 1 << 40, "requests": 10, "used_up": True, "members": members,
                "errors": 3, "sent_bytes": 1 << 20, "sent_objects": 2, "sent_requests": 2,
                "content_bytes": 2 << 20,
                "copies": 1.05, "cost": {"amount": 98.956, "currency": "USD"},
                "parked": [{"peer": PEER, "ours": True, "until": time.time() + 90.0}]}}
        )  # fmt: skip
        return {}

    async def op_bans(self, args, emit):
        reason = "sent\nwrong bytes"
        await emit(
            {"type": "item", "value": {"peer": PEER, "reason": reason,
             "banned_at": 1_760_000_000.0}}
        )  # fmt: skip
        return {}

    async def op_unban(self, args, emit):
        return {"peer": args["peer"]}

    async def op_grant(self, args, emit):
        return {"repo": args["repo"], "peer": args["peer"],
                "expires_at": 1_760_000_000.0 + args["expires_s"],
                "connected": args["repo"] == "hf://org/gated"}  # fmt: skip

    async def op_revoke(self, args, emit):
        return {"repo": args["repo"], "peer": args["peer"], "expires_at": 1_760_000_000.0}

    async def op_grants(self, args, emit):
        for revoked in (False, True):
            await emit(
                {"type": "item", "value": {"repo": f"hf://org/gated{revoked:d}", "peer": PEER,
                 "expires_at": 1_760_000_000.0, "revoked": revoked}}
            )  # fmt: skip
        return {}

    async def op_why(self, args, emit):
        return RECEIPT | {"ref": args["ref"]}

    async def op_doctor(self, args, emit):
        for name, ok, hint in (("store", True, None), ("clock", False, "set the clock")):
            await emit(
                {"type": "item", "value": {"check": name, "ok": ok, "detail": "seen", "hint": hint}}
            )
        return {}

    async def op_config(self, args, emit):
        return {"home": {"value": "/home/x", "text": "/home/x", "source": "environment"},
                "store.capacity": {"value": 1 << 30, "text": "1 GiB", "source": "default"},
                "names.trust": {"value": "any", "source": "default"},  # of an older agent
                "network.hosts": {"value": ["0.0.0.0", "::"], "text": "0.0.0.0, ::",
                                  "source": "default"},
                "network.dns": {"value": [], "text": "none", "source": "default"}}  # fmt: skip

    async def op_shutdown(self, args, emit):
        self.stop.set()
        return {}

    async def op_huge(self, args, emit):
        return {"text": "x" * (2 << 20)}

    async def op_flood(self, args, emit):
        """As many 4 KiB items and progress frames as asked for."""
        for number in range(args["count"]):
            await emit({"type": "progress", "step": number})
            await emit({"type": "item", "value": {"n": number, "pad": b"x" * 4096}})
        return {"count": args["count"]}

    async def op_progress_only(self, args, emit):
        for number in range(args["count"]):
            await emit({"type": "progress", "step": number})
            if number % 100 == 0:
                await trio.lowlevel.checkpoint()
        return {}


async def serve_until_stopped(path, service, options=None):
    """An agent that `shutdown` ends."""
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: serve(
            path, service, options=options, task_status=task_status))  # fmt: skip
        await service.stop.wait()
        nursery.cancel_scope.cancel()


async def _embedded():
    path = config.socket_path(Path(os.environ["P2PCACHE_HOME"]))
    async with trio.open_nursery() as nursery:
        clients = await nursery.start(lambda task_status: serve(
            path, ScriptedService(), options=ServerOptions(), task_status=task_status))  # fmt: skip
        while await trio.to_thread.run_sync(sys.stdin.buffer.read, 4096, abandon_on_cancel=True):
            pass
        with trio.move_on_after(0.2):
            await clients.wait_none()
        if clients.connected:
            os.write(1, STAYS)
        await clients.wait_none()
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(_embedded)
