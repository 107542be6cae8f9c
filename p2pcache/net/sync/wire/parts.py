"""Fields that several frames have, and how a frame's fields are described."""

from __future__ import annotations

import operator
from dataclasses import fields
from typing import Any, TypeAlias

from p2pcache.content import signed
from p2pcache.content.peerid import PEER_ID_BYTES
from p2pcache.net.sync.fields import Field, Many, Raw, Record, Text, Whole

MAX_ID = (1 << 53) - 1
MAX_ADDRESSES = 8  # of one peer
MAX_ADDRESS_BYTES = 256
MAX_REASON_BYTES = 256
MAX_RATE = 1e15  # bytes/s

ID = Whole(1, MAX_ID)
NAME = Raw(1, signed.MAX_NAME_BYTES)
PEER = Raw(PEER_ID_BYTES, PEER_ID_BYTES)
SIZE = Whole(0, signed.MAX_BLOB_BYTES)
SIGNATURE = Raw(signed.SIGNATURE_BYTES, signed.SIGNATURE_BYTES)
REF = Text(signed.MAX_TEXT_BYTES)
ADDRESSES = Many(Text(MAX_ADDRESS_BYTES), MAX_ADDRESSES)

Codecs: TypeAlias = dict[int, tuple[Any, Record[Any]]]
"""By number: the class of a frame (of announcements: what is said), and its fields in order."""


def record(kind: type, *codecs: Field[Any], later: int = 0) -> Record[Any]:
    """The fields of a dataclass, in order. `later`: see Record."""
    names = [field.name for field in fields(kind)]
    if len(names) != len(codecs):
        raise TypeError(f"{kind.__name__} has {len(names)} fields, {len(codecs)} are described")
    get = operator.attrgetter(*names)
    return Record(kind, codecs, (lambda value: (get(value),)) if len(names) == 1 else get, later)


def plain_tuple(*codecs: Field[Any]) -> Record[tuple[Any, ...]]:
    """Fields that come out as they are: a signed statement, for whoever checks it."""
    return Record(lambda *values: values, codecs, tuple)
