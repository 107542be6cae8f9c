"""The product's agent, that also writes down when each block was asked for and when it came.

`python -m scripts.traced_agent` is `python -m p2pcache.agent`; to the file of BENCH_TRACE it adds a
line of JSON an order: `[asked at, over at, first block, end block, end of what is verified]`, times
on the monotonic clock, which all processes of a machine share. Imports are inside `main`: workers
import this module again.
"""

from __future__ import annotations

import sys


def main() -> int:
    """Run it. Returns the exit code."""
    import json
    import os
    import time
    from typing import TYPE_CHECKING

    from p2pcache.agent import __main__ as product
    from p2pcache.lanes.orders import BLOCK_BYTES
    from p2pcache.transfer.workers import Workers

    if TYPE_CHECKING:
        from p2pcache.lanes.orders import FetchOrder, FetchReport

    fetch = Workers.fetch
    trace = open(os.environ["BENCH_TRACE"], "a", buffering=1)  # noqa: SIM115 - as long as we live

    async def traced(self: Workers, order: FetchOrder) -> FetchReport:
        asked, done = time.monotonic(), order.start
        try:
            report = await fetch(self, order)
            done = report.done
            return report
        finally:
            blocks = [-(-at // BLOCK_BYTES) for at in (order.start, order.end, done)]
            trace.write(json.dumps([asked, time.monotonic(), *blocks]) + "\n")

    Workers.fetch = traced  # type: ignore[method-assign]
    return product.main()


if __name__ == "__main__":
    sys.exit(main())
