"""Writing a file again whose write was not answered."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from p2pcache.destinations.objects.port import ObjectStore, Upload
    from p2pcache.destinations.uploads import Count


def putting(store: ObjectStore, upload: Upload, count: Count) -> Callable[[], Awaitable[str]]:
    """`store.put`, to be called until it answers; its version. From the second time on it looks
    first: maybe only the answer was lost, and all of the file is there.
    """
    tried = False

    async def put() -> str:
        nonlocal tried
        if tried and (there := await same(store, upload)) is not None:
            return there
        tried = True
        return await store.put(upload, count)

    return put


async def same(store: ObjectStore, upload: Upload) -> str | None:
    """The version of an object that has just these bytes; None: there is none."""
    one = (await store.look([upload.key])).get(upload.key)
    return None if one is None or one.sha256 != upload.sha256 else one.version
