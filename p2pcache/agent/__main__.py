"""`python -m p2pcache.agent [--embedded]`: what `p2pcache agent run` and systemd start.

Apart from the CLI, so that the CLI never imports trio and an agent never imports click. Its own
imports are inside `main`: every worker process imports this module again (multiprocessing's spawn
does that with the main module), and would carry the whole agent.
"""

from __future__ import annotations

import sys

from p2pcache.agent.localapi.startup import leave_on_interrupt, open_missing_streams


def main() -> int:
    """Run an agent in the foreground. Returns the exit code."""
    open_missing_streams()
    leave_on_interrupt()  # until the daemon takes signals
    import argparse
    import os

    from p2pcache import config
    from p2pcache.agent import daemon
    from p2pcache.agent.localapi.home_lock import held
    from p2pcache.config import settings
    from p2pcache.errors import P2PCacheError

    parser = argparse.ArgumentParser(prog="p2pcache agent run", description="Run the agent.")
    parser.add_argument(
        "--embedded", action="store_true", help="end with standard input (used by `p2pcache get`)"
    )
    parser.add_argument("--limit-up", metavar="RATE", help="upload limit (lanes.limit_up)")
    options = parser.parse_args()
    environment = dict(os.environ)
    if options.limit_up is not None:
        environment["P2PCACHE_LANES_LIMIT_UP"] = options.limit_up
    home = config.home()
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        loaded = settings.load(home, environment)
        socket_path, hub_cache = config.socket_path(home), config.hub_cache_dir()
        os.chdir("/")  # the caller's folder may be gone, or be wanted gone while we run
        with held(home, socket_path, embedded=options.embedded, say=daemon.print_err):
            models = config.ollama_models_dir(True)
            daemon.run(loaded, socket_path, hub_cache, models, embedded=options.embedded)
    except P2PCacheError as exc:
        daemon.print_err(f"error: {exc.message}" + (f"\nhint: {exc.hint}" if exc.hint else ""))
        return exc.exit_code
    except OSError as exc:
        daemon.print_err(
            f"error: {exc.filename or home}: {exc.strerror}\n"
            "hint: set P2PCACHE_HOME to a folder that this user can write to"
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
