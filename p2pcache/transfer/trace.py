"""Events and actions of a pull as JSON lines, and back. Pure. The format is docs/explain.md's.

No credential is in any event. What an origin's message may quote is cut all the same: the query and
the user of a URL, and what looks like a token.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, fields, is_dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, get_args

from p2pcache.content.ranges import RangeSet
from p2pcache.errors import UsageError
from p2pcache.lanes.orders import Fault, FaultKind
from p2pcache.sources.port import SourceKind
from p2pcache.transfer import events as ev
from p2pcache.transfer.machine.owners import OwnerOptions
from p2pcache.transfer.policy import TransferOptions
from p2pcache.transfer.steps import Setup

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from p2pcache.transfer.account import Tally

FORMAT = 1  # changes only when a reader of the old one would misread the new one
BLOBS_A_LINE = 500  # a pull of 100,000 small files begins with 200 lines

_URL = re.compile(r"(\b[A-Za-z][A-Za-z0-9+.-]*://)(?:[^/\s@]*@)?([^\s?#`'\"<>]*)(\?[^\s`'\"<>#]*)?")
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{20,}|\b(?:Bearer|Ticket|Basic)\s+[^\s`'\"]+")


def cleaned(text: str) -> str:
    """Without the query and the user of any URL, and without tokens."""
    if "://" in text:
        text = _URL.sub(lambda m: m[1] + m[2] + ("?..." if m[3] else ""), text)
    return _TOKEN.sub("...", text)


# -- to lines -------------------------------------------------------------------------------------


def line(record: Mapping[str, Any]) -> str:
    """One line of JSON, without its end."""
    return json.dumps(record, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def began_records(
    pull: int, ref: str, setup: Setup, paths: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """What a pull starts from: one `pull` record, then its `blobs`."""
    yield {
        "type": "pull",
        "format": FORMAT,
        "pull": pull,
        "t": 0.0,
        "ref": cleaned(ref),
        "blob_count": len(setup.blobs),
        "total_bytes": sum(b.size_bytes for b in setup.blobs),
        "piece_bytes": setup.piece_bytes,
        "streams": setup.streams,
        "seed": setup.seed,
        "hopeful": setup.hopeful,
        "origins": list(setup.origins),
        "me": setup.me,
        "members": list(setup.members),
        "options": asdict(setup.options),
        "owners": asdict(setup.owners),
    }
    for at in range(0, len(setup.blobs), BLOBS_A_LINE):
        rows = zip(setup.blobs, setup.names, paths, strict=True)
        yield {
            "type": "blobs",
            "pull": pull,
            "blobs": [
                {
                    **asdict(blob),
                    "name": None if name is None else name.hex(),
                    "path": cleaned(path),
                }
                for blob, name, path in list(rows)[at : at + BLOBS_A_LINE]
            ],
        }


def step_records(
    pull: int, step: int, now: float, events: Sequence[ev.Event], actions: Sequence[ev.Action]
) -> Iterator[dict[str, Any]]:
    """What happened together, then what was asked for; `step` and `t` say what belongs together."""
    for kind, values in (("event", events), ("action", actions)):
        for value in values:
            yield {
                "type": kind,
                "pull": pull,
                "step": step,
                "t": now,
                kind: _snake(type(value)),
                **_fields(value),
            }


def end_record(pull: int, now: float, tally: Tally) -> dict[str, Any]:
    """The last one of a pull, with where its time went."""
    return {"type": "end", "pull": pull, "t": now, "where": dict(tally.spent)}


def encoded(values: Sequence[ev.Action]) -> list[dict[str, Any]]:
    """Actions as a trace has them, to be compared with one."""
    made = [{"action": _snake(type(value)), **_fields(value)} for value in values]
    found: list[dict[str, Any]] = json.loads(json.dumps(made))
    return found


def _snake(kind: type) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()


def _fields(value: object) -> dict[str, Any]:
    return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}  # type: ignore[arg-type]


def _plain(value: object) -> Any:  # noqa: ANN401 - JSON
    match value:
        case RangeSet():
            return [list(span) for span in value.spans]
        case SourceKind():  # before int
            return value.name.lower()
        case Enum():
            return value.value
        case float() if not math.isfinite(value):
            return str(value)  # JSON has none; `float` reads it again
        case None | bool() | int() | float():
            return value
        case str():
            return cleaned(value)
        case bytes():
            return value.hex()
        case frozenset():
            return sorted(value)
        case tuple():
            return [_plain(inner) for inner in value]
    assert is_dataclass(value), value
    return _fields(value)


# -- back -----------------------------------------------------------------------------------------

EVENTS: dict[str, type] = {_snake(kind): kind for kind in get_args(ev.Event)}
ACTIONS: dict[str, type] = {_snake(kind): kind for kind in get_args(ev.Action)}


def _ranges(value: Any) -> RangeSet:  # noqa: ANN401
    return RangeSet(tuple((int(start), int(end)) for start, end in value))


def _fault(value: Any) -> Fault:  # noqa: ANN401
    arrived = value["arrived"]
    return Fault(
        FaultKind(value["kind"]),
        value["message"],
        value["retry_after_s"],
        value["http_status"],
        None if arrived is None else bytes.fromhex(arrived),
        tuple(value.get("instead", ())),  # older recordings have none
    )


def _job(value: Any) -> ev.Job:  # noqa: ANN401
    return ev.Job(**value)


def _batch(value: Any) -> ev.Batch:  # noqa: ANN401
    return ev.Batch(value["id"], tuple(value["blobs"]), value["source"])


def _optional(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else read(value)


# By how a field of an event or an action is declared.
READERS: dict[str, Callable[[Any], Any]] = {
    "str": str,
    "int": int,
    "bool": bool,
    "float": float,
    "float | None": _optional(float),
    "bytes": bytes.fromhex,
    "SourceKind": lambda value: SourceKind[value.upper()],
    "Cause": ev.Cause,
    "Job": _job,
    "Batch": _batch,
    "Job | Batch": lambda value: _batch(value) if "blobs" in value else _job(value),
    "RangeSet": _ranges,
    "RangeSet | None": _optional(_ranges),
    "Fault | None": _optional(_fault),
    "frozenset[int] | None": _optional(frozenset),
    "tuple[int, ...]": tuple,
    "tuple[Fault | None, ...]": lambda value: tuple(map(_optional(_fault), value)),
    "tuple[tuple[int, RangeSet], ...]": lambda value: tuple((i, _ranges(r)) for i, r in value),
    "tuple[tuple[str, Fault], ...]": lambda value: tuple((n, _fault(f)) for n, f in value),
    "tuple[tuple[str, float], ...]": lambda value: tuple((n, float(s)) for n, s in value),
}


def _read(kind: type, record: Mapping[str, Any]) -> Any:  # noqa: ANN401
    return kind(**{f.name: READERS[str(f.type)](record[f.name]) for f in fields(kind)})


def read_event(record: Mapping[str, Any]) -> ev.Event:
    """The event of an `event` record. Raises KeyError, TypeError, ValueError for what is none."""
    made: ev.Event = _read(EVENTS[record["event"]], record)
    return made


def read_action(record: Mapping[str, Any]) -> ev.Action:
    """The action of an `action` record; raises as `read_event`."""
    made: ev.Action = _read(ACTIONS[record["action"]], record)
    return made


def read_setup(record: Mapping[str, Any], blobs: Sequence[Mapping[str, Any]]) -> Setup:
    """The start of a pull, from its `pull` record and the rows of its `blobs` records."""
    if record["format"] != FORMAT:
        raise UsageError(f"a trace of format {record['format']}; this p2pcache reads {FORMAT}")
    keys = ("index", "size_bytes", "small", "whole")
    return Setup(
        blobs=tuple(ev.BlobSpec(**{key: blob[key] for key in keys}) for blob in blobs),
        names=tuple(None if b["name"] is None else bytes.fromhex(b["name"]) for b in blobs),
        piece_bytes=record["piece_bytes"],
        streams=record["streams"],
        options=TransferOptions(**record["options"]),
        seed=record["seed"],
        hopeful=record["hopeful"],
        origins=tuple(record.get("origins", ())),
        me=record["me"],
        members=tuple(record["members"]),
        owners=OwnerOptions(**record["owners"]),
    )
