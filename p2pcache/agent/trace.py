"""The operation that lets a client listen to running pulls; see `transfer.tracing`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from p2pcache.content import refs
from p2pcache.transfer import trace as lines
from p2pcache.version import __version__

if TYPE_CHECKING:
    from p2pcache.agent.args import Args
    from p2pcache.agent.parts import Emit, Parts


async def trace(parts: Parts, args: Args, emit: Emit) -> dict[str, Any]:
    """Lines of JSON as items, until the agent stops, or (`once`) one pull has ended."""
    text, once = args.optional_text("ref"), args.flag("once")
    ref = None if text is None else refs.canonical(refs.parse_ref(text))
    with parts.context.traces.listen(ref) as listener:
        about = {"type": "trace", "format": lines.FORMAT, "agent": f"p2pcache/{__version__}"}
        await emit({"type": "item", "value": {"line": lines.line(about)}})
        while not (once and listener.ended) and (more := await listener.wait_lines()):
            for line in more:
                await emit({"type": "item", "value": {"line": line}})
    return {"ended": listener.ended}
