"""A worker process ends with the agent that started it, whatever ended the agent.

A killed agent cannot stop its workers, and one in the middle of a slow request would not look at
its pipe for minutes: it would go on fetching for nobody, beside the agent that came after.
"""

from __future__ import annotations

import multiprocessing
import os
import threading

AGENT_IS_GONE = 1  # exit status; nobody is left to read it


def end_with_parent() -> None:
    """Leave this process as soon as its parent is gone. Called once, before the first order.

    At once and without cleaning up, like the kill that a cancelled order gets: the order of writes
    (`sink`) makes any moment a safe one. Not prctl(PR_SET_PDEATHSIG): that follows the *thread*
    that started us, and an agent starts workers from threads that come and go.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None, "only a worker process has an agent"

    def leave() -> None:
        parent.join()  # sleeps on a pipe whose other end is the parent's alone
        os._exit(AGENT_IS_GONE)

    threading.Thread(target=leave, name="end-with-parent", daemon=True).start()
