"""An agent of the product that speaks an older minor version of sync, as one that was not upgraded.

`python -m tests.support.old_agent` is `python -m p2pcache.agent` with OLD_MINOR in its Hello: it
says nothing that came later, and passes over what it is told of it.
"""

from __future__ import annotations

import os
import sys


def main() -> int:
    """Run it. Returns the exit code."""
    from p2pcache.agent import __main__ as product
    from p2pcache.net import members
    from p2pcache.net.sync import driver, machine, preloads, spending
    from p2pcache.net.sync.wire import Brings, frames, link

    minor = int(os.environ["OLD_MINOR"])
    for module in (link, frames, machine, members):
        module.VERSION = (1, minor)
    later = [kind for kind in preloads.CODECS if minor < preloads.MINOR]
    later += [kind for kind in spending.CODECS if minor < spending.MINOR]
    if minor < 1:
        later += [kind for kind, (made, _) in frames.CODECS.items() if made is Brings]
        driver.Link.brings = lambda *_: None
    for kind in later:
        del frames.CODECS[kind]
    return product.main()


if __name__ == "__main__":
    sys.exit(main())
