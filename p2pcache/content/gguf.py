"""The header of a GGUF file, as far as it says what model that is: pure, bounded, suspicious.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md: magic, version, two counts, then keys
with values, then the tensors' shapes. Arrays (a tokenizer's words) are walked over and not kept.
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from p2pcache.errors import UsageError

if TYPE_CHECKING:
    from typing import BinaryIO

MAX_HEADER_BYTES = 64 << 20  # a tokenizer of 256,000 words with its merges has 20 MiB
MAX_ITEMS = 1 << 21  # words of one array: half a second of a core
MAX_NAMED = 1 << 16  # keys, and tensors: models have some dozens, and some thousands
MAX_TEXT_BYTES = 1 << 20  # of a key or a value that is kept; chat templates have some 10 KB
MAX_DIMENSIONS = 8  # ggml has 4
_STEP_BYTES = 1 << 20  # of one read

_STRING, _ARRAY = 8, 9
_NUMBERS = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
_UINT32 = 4
_SPLIT = re.compile(r"-[0-9]{5}-of-[0-9]{5}\.gguf$", re.IGNORECASE)

# llama.cpp's numbers of how most tensors are stored, by the names that Ollama shows.
_FILE_TYPES = {
    1: "F16", 2: "Q4_0", 3: "Q4_1", 4: "MXFP4", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K",
    11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S",
    17: "Q5_K_M", 18: "Q6_K", 21: "Q2_K_S", 32: "BF16",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Gguf:
    """What a header says. `texts`, `counts`: its values of type string and uint32, by key;
    `parameters`: elements of all tensors.
    """

    texts: dict[str, str]
    counts: dict[str, int]
    parameters: int

    @property
    def architecture(self) -> str:
        """Such as `llama`."""
        return self.texts.get("general.architecture") or "unknown"

    @property
    def file_type(self) -> str:
        """How it is quantized, as Ollama calls it (its `fs/ggml/type.go`: F32 is `unknown`)."""
        return _FILE_TYPES.get(self.counts.get("general.file_type", 0), "unknown")

    @property
    def parameter_size(self) -> str:
        """The number of parameters as Ollama shows it: `7.2B`."""
        return _human(self.parameters)

    @property
    def kind(self) -> str:
        """`model`, `adapter` or `projector`, by Ollama's own rule (its `server/create.go`)."""
        said = self.texts.get("general.type", "")
        if said == "adapter":
            return "adapter"
        sees = self._own("vision.block_count") > 0 and self._own("block_count") == 0
        return "projector" if sees or said == "projector" else "model"

    @property
    def parts(self) -> int:
        """Of how many files it says that it is one."""
        return max(self.counts.get("split.count", 1), 1)

    def _own(self, key: str) -> int:
        return self.counts.get(f"{self.architecture}.{key}", 0)


def is_gguf_name(path: str) -> bool:
    """Whether a file goes by a name of GGUF."""
    return path.lower().endswith(".gguf")


def is_split_name(path: str) -> bool:
    """Whether it is called a part of a split one: `-00001-of-00003.gguf`."""
    return _SPLIT.search(path) is not None


def read_gguf(stream: BinaryIO, who: str) -> Gguf:
    """Read a header from its first byte. Raises UsageError, naming `who`, for what is none; what
    `stream` raises.
    """
    try:
        return _read(_Reader(stream))
    except _Bad as exc:
        raise UsageError(
            f"`{who}` cannot be read as a GGUF: {exc}",
            hint="Ollama takes models as GGUF files, little-endian, of version 2 or 3",
        ) from exc


class _Bad(ValueError):
    pass


class _Reader:
    """Numbers and texts one after the other, out of large reads."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._data = b""
        self._at = 0
        self._left = MAX_HEADER_BYTES

    def take(self, count: int) -> bytes:
        """The next bytes."""
        while len(self._data) - self._at < count:
            self._more()
        found = self._data[self._at : self._at + count]
        self._at += count
        return found

    def skip(self, count: int) -> None:
        """Pass over bytes, whatever their number."""
        while len(self._data) - self._at < count:
            count -= len(self._data) - self._at
            self._at = len(self._data)
            self._more()
        self._at += count

    def number(self, kind: str) -> int:
        """One integer, as `struct` calls its type."""
        found: int = struct.unpack("<" + kind, self.take(struct.calcsize("<" + kind)))[0]
        return found

    def length(self) -> int:
        """What a text or an array says of its own size: no more than may come."""
        count = self.number("Q")
        if count > self._left + len(self._data):
            raise _Bad("a size in it is more than the header may have")
        return count

    def items(self, most: int = MAX_ITEMS) -> int:
        """How many things follow that are read one by one."""
        count = self.length()
        if count > most:
            raise _Bad(f"a list of {count} items")
        return count

    def text(self) -> str:
        """A text that is kept."""
        count = self.length()
        if count > MAX_TEXT_BYTES:
            raise _Bad(f"a text of {count} bytes")
        return self.take(count).decode(errors="replace")

    def _more(self) -> None:
        data = self._stream.read(min(_STEP_BYTES, self._left))
        if not data:
            raise _Bad("it ends within its header" if self._left else "its header has no end")
        self._left -= len(data)
        self._data = self._data[self._at :] + data
        self._at = 0


def _read(reader: _Reader) -> Gguf:
    if reader.take(4) != b"GGUF":
        raise _Bad("it does not begin like one")
    version = reader.number("I")
    if version not in (2, 3):
        raise _Bad(f"version {version}" if version < 1 << 16 else "it is big-endian")
    tensors, keys = reader.items(MAX_NAMED), reader.items(MAX_NAMED)
    texts: dict[str, str] = {}
    counts: dict[str, int] = {}
    for _ in range(keys):
        key, kind = reader.text(), reader.number("I")
        texts.pop(key, None)
        counts.pop(key, None)
        if kind == _STRING:
            texts[key] = reader.text()
        elif kind == _UINT32:
            counts[key] = reader.number("I")
        else:
            _pass_over(reader, kind)
    return Gguf(texts, counts, sum(_elements(reader) for _ in range(tensors)))


def _pass_over(reader: _Reader, kind: int) -> None:
    if kind in _NUMBERS:
        reader.skip(struct.calcsize(_NUMBERS[kind]))
        return
    if kind != _ARRAY:
        raise _Bad(f"a value of type {kind}")
    of = reader.number("I")
    if of in _NUMBERS:
        reader.skip(reader.length() * struct.calcsize(_NUMBERS[of]))
    elif of == _STRING:
        for _ in range(reader.items()):
            reader.skip(reader.length())
    else:
        raise _Bad(f"an array of type {of}")


def _elements(reader: _Reader) -> int:
    """Of one tensor."""
    reader.skip(reader.length())
    dimensions = reader.number("I")
    if dimensions > MAX_DIMENSIONS:
        raise _Bad(f"a tensor of {dimensions} dimensions")
    count = math.prod(reader.number("Q") for _ in range(dimensions))
    reader.skip(4 + 8)  # its type, its offset
    return count


def _human(count: int) -> str:
    """As Ollama's `format.HumanNumber`."""
    for unit, sign, digits in ((10**9, "B", 1), (10**6, "M", 2)):
        if count >= unit:
            whole = count % unit == 0
            return f"{count / unit:.{0 if whole else digits}f}{sign}"
    return f"{count / 1000:.0f}K" if count >= 1000 else str(count)
