"""Read a SHA256SUMS file, as `sha256sum` writes it: strict and bounded.

One line a file: 64 hex digits, a space, a space (text) or `*` (binary), the name. The mark says
nothing on any system that we run on. Names are relative to the list's own folder; a leading `./`
is dropped, as `find . -exec sha256sum` writes it.
"""

from __future__ import annotations

import re

from p2pcache.content.names import safe_path
from p2pcache.errors import Untrusted

MAX_SUMS_BYTES = 16 << 20  # about 150,000 files with names of 40 characters

_LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)")


def parse_sums(data: bytes) -> dict[str, bytes]:
    """Path to sha2-256 (raw), in the list's order. Raises Untrusted on the first doubtful line.

    Escaped names (a leading backslash) are refused: they hold a newline or a backslash, and no
    manifest does. The same name twice is refused unless both lines agree.
    """
    if len(data) > MAX_SUMS_BYTES:
        raise Untrusted(f"the list of sums is longer than {MAX_SUMS_BYTES} bytes")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise Untrusted("the list of sums is not UTF-8") from exc
    sums: dict[str, bytes] = {}
    for number, line in enumerate(text.split("\n"), 1):
        line = line.removesuffix("\r")
        if not line:
            continue
        found = _LINE.fullmatch(line)
        if found is None:
            raise Untrusted(f"line {number} of the list of sums is no sum: {line[:80]!r}")
        path = safe_path(found[2].removeprefix("./"))
        digest = bytes.fromhex(found[1])
        if sums.setdefault(path, digest) != digest:
            raise Untrusted(f"line {number} of the list of sums contradicts another: {path!r}")
    if not sums:
        raise Untrusted("the list of sums names no file")
    return sums
