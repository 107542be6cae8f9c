"""`python -m p2pcache.lanes.serve --control-fd N`: started by an agent, for an agent."""

from __future__ import annotations

import argparse
import logging
import signal

from p2pcache.lanes.serve.server import serve


def main() -> None:
    """Serve until the control socket closes."""
    parser = argparse.ArgumentParser(prog="p2pcache.lanes.serve", description=__doc__)
    parser.add_argument("--control-fd", type=int, required=True)
    logging.basicConfig(level=logging.WARNING, format="p2pcache lanes: %(levelname)s %(message)s")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the agent's; it tells us by leaving
    serve(parser.parse_args().control_fd)


if __name__ == "__main__":
    main()
