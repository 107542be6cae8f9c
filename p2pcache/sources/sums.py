"""Read a SHA256SUMS file, as `sha256sum` and BSD's `sha256` write it: strict and bounded.

One line a file: 64 hex digits, a space, a space (text) or `*` (binary), the name; or with `--tag`
and on BSD `SHA256 (name) = ` and the digits. The mark says nothing on any system that we run on. A
line that begins with `#` is a comment. Names are relative to the list's own folder; a leading `./`
is dropped, as `find . -exec sha256sum` writes it.
"""

from __future__ import annotations

import re

from p2pcache.content.names import safe_path
from p2pcache.errors import Untrusted

MAX_SUMS_BYTES = 16 << 20  # about 150,000 files with names of 40 characters

_LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)|SHA256 \((.+)\) = ([0-9a-fA-F]{64})")
_OTHER = re.compile(r"([0-9a-fA-F]{32,128}) [ *].+|([A-Z0-9-]+) ?\(.+\) = [0-9a-fA-F]+")
_BY_DIGITS = {32: "MD5", 40: "SHA1", 56: "SHA224", 96: "SHA384", 128: "SHA512"}


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
        if not line or line.startswith("#"):
            continue
        found = _LINE.fullmatch(line)
        if found is None:
            raise _no_sum(number, line)
        path = safe_path((found[2] or found[3]).removeprefix("./"))
        digest = bytes.fromhex(found[1] or found[4])
        if sums.setdefault(path, digest) != digest:
            raise Untrusted(f"line {number} of the list of sums contradicts another: {path!r}")
    if not sums:
        raise Untrusted("the list of sums names no file")
    return sums


def _no_sum(number: int, line: str) -> Untrusted:
    other = _OTHER.fullmatch(line)
    kind = None if other is None else other[2] or _BY_DIGITS.get(len(other[1]))
    if kind is not None and kind != "SHA256":
        return Untrusted(
            f"line {number} of the list of sums is {kind[:20]}, and only SHA256 is read",
            hint="look for a SHA256SUMS file beside it",
        )
    return Untrusted(f"line {number} of the list of sums is no sum: {line[:80]!r}")
