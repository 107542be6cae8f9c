"""`p2pcache` and `python -m p2pcache`: the command line.

Its imports take a tenth of a second, in which a Ctrl-C has to be answered too: they are in `main`.
"""

from __future__ import annotations

import sys

from p2pcache.agent.localapi.startup import (
    INTERRUPTED,
    leave_on_interrupt,
    open_missing_streams,
)


def main() -> int:
    """Run the command line and return its exit code."""
    open_missing_streams()
    ours = leave_on_interrupt()
    from p2pcache.cli.main import main as run

    if not ours:
        return run()
    import signal

    early = signal.getsignal(signal.SIGINT)
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # from here on it is an exception
        return run()
    except KeyboardInterrupt:  # the second one, while the first was being answered
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGINT, early)


if __name__ == "__main__":
    sys.exit(main())
