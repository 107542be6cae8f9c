"""What a process of ours settles before its own imports: its standard streams and Ctrl-C.

Both programs call this first, the command line and the agent. Until then a Ctrl-C is a traceback:
what is imported before, here and in the packages above, is loaded already when Python starts.
`signal` and `typing` would take 12 ms; `_signal` is what `signal` makes its enumerations of.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import NoReturn

INTERRUPTED = 130
_SAID = "error: interrupted; what was verified is kept\n"
_SAID_JSON = (
    '{"type": "error", "code": "interrupted", "hint": null, "exit_code": 130, '
    '"message": "interrupted; what was verified is kept"}\n'
)


def open_missing_streams() -> None:
    """Where the caller closed standard input, output or error (`>&-`), put /dev/null.

    Otherwise the next file or socket gets that number, and is read or written as if it were it.
    """
    for number, flags in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, flags)  # the lowest free number
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
    # Python gives None for a stream that was closed when it started.
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def leave_on_interrupt() -> bool:
    """Until something else handles it, Ctrl-C says one line and leaves with 130: no traceback.

    False, and nothing changes, where the caller had it ignored (a job in the background).
    """
    if _signal.getsignal(_signal.SIGINT) is not _signal.default_int_handler:
        return False
    _signal.signal(_signal.SIGINT, _leave)
    return True


def _leave(_number: int, _frame: FrameType | None) -> NoReturn:
    text = _SAID_JSON if "--json" in sys.argv else _SAID
    try:
        os.write(2, text.encode())
    finally:
        os._exit(INTERRUPTED)  # half-imported modules have nothing to clean up
