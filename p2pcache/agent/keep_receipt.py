"""The receipt of a pull into the store, where `why` finds it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from p2pcache.content import cid as cids
from p2pcache.errors import LocalFault

if TYPE_CHECKING:
    from p2pcache.store.store import Store


async def keep_receipt(store: Store, made: dict[str, Any]) -> str | None:
    """Write what `transfer.receipts` made. Returns why it could not be written, if so.

    A full or read-only disk must neither fail a pull that is done nor hide why one failed. Is done
    also when the caller is gone; `StoreOptions.busy_timeout_s` bounds it.
    """
    if made["manifest"] is not None:
        made = made | {"manifest": cids.format_cid(made["manifest"])}
    try:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(store.save_receipt, made)
    except LocalFault as exc:
        return f"no receipt was kept: {exc.message}"
    return None
