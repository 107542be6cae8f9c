"""What a byte server was told, on the agent's side: enough to tell it all again. Pure."""

from __future__ import annotations

from typing import Any

from p2pcache.lanes.certificate import fingerprint
from p2pcache.lanes.serve.control import MAX_ENTRIES, Message
from p2pcache.lanes.serve.table import Entry, Table


class Mirror:
    """Takes the same messages as the server, and gives the fewest that lead to the same state."""

    def __init__(self) -> None:
        self._table = Table()
        self._trusted: dict[bytes, bytes] = {}
        self._banned: list[bytes] = []
        self._limit_up: list[float | None] = []  # empty: as the options say

    def note(self, kind: str, fields: tuple[Any, ...]) -> None:
        """One message (control) was sent, or will be."""
        match kind, fields:
            case "add", (scope, entries):
                self._table.add(scope, {name: Entry.from_wire(wire) for name, wire in entries})
            case "update", (name, wire):
                self._table.update(name, Entry.from_wire(wire))
            case "drop", (names,):
                self._table.drop(names)
            case "drop-scope", (scope,):
                self._table.drop_scope(scope)
            case "trust", (certificates,):
                self._trusted |= {fingerprint(der): der for der in certificates}
            case "distrust", (fingerprints,):
                for each in fingerprints:
                    self._trusted.pop(each, None)
            case "limit-up", (bytes_per_s,):
                self._limit_up = [bytes_per_s]
            case "others", _:
                pass  # old by the time it would be told again
            case "banned", (readers,):
                self._banned = list(readers)
            case _:
                raise ValueError(f"{kind!r} is not a message that changes something")

    def refused(self, kind: str, fields: tuple[Any, ...]) -> None:
        """The server did not take a message: it must not hear it again with every restart."""
        if kind == "trust":
            self.note("distrust", ([fingerprint(der) for der in fields[0]],))

    def messages(self) -> list[Message]:
        """(kind, *fields) of everything, in an order that leaves no gap: who first, then what."""
        found: list[Message] = [["trust", [der]] for der in self._trusted.values()]
        found.append(["banned", self._banned])
        found += [["limit-up", rate] for rate in self._limit_up]
        for scope, entries in self._table.contents():
            wires = [[name, entry.to_wire()] for name, entry in sorted(entries, key=_by_name)]
            for at in range(0, max(len(wires), 1), MAX_ENTRIES):
                found.append(["add", scope, wires[at : at + MAX_ENTRIES]])
        return found


def _by_name(item: tuple[bytes, Entry]) -> bytes:
    return item[0]
