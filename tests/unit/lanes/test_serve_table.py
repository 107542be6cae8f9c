"""What scopes hold, and what an agent tells a byte server that was started anew."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pcache.errors import LocalFault
from p2pcache.lanes.serve.control import MAX_ENTRIES
from p2pcache.lanes.serve.mirror import Mirror
from p2pcache.lanes.serve.options import ServeOptions
from p2pcache.lanes.serve.table import Entry, Guard, Table

ONE, TWO = Entry("/one", 1), Entry("/two", 2, Guard(1, 2, 3, 4), "/live")
NAMES = st.sampled_from([b"a", b"b", b"c"])
SCOPES = st.sampled_from([b"s", b"t"])


def test_a_name_is_found_only_in_scopes_that_hold_it() -> None:
    table = Table()
    table.add(b"s", {b"a": ONE})
    table.add(b"t", {b"b": TWO})
    assert table.find(b"s", b"a") == ONE
    assert table.find(b"s", b"b") is None
    assert table.find(b"u", b"a") is None


def test_a_blob_of_two_scopes_is_one_blob() -> None:
    table = Table()
    table.add(b"s", {b"a": ONE})
    table.add(b"t", {b"a": ONE})
    table.update(b"a", TWO)
    assert table.find(b"s", b"a") == table.find(b"t", b"a") == TWO
    table.drop_scope(b"s")
    assert (table.find(b"s", b"a"), table.find(b"t", b"a")) == (None, TWO)
    table.drop([b"a"])
    assert table.find(b"t", b"a") is None
    table.update(b"a", ONE)  # too late: nobody may read it
    assert table.counts() == (1, 0)


def test_readers_are_cut_once_and_those_who_left_are_not() -> None:
    table, cut = Table(), []
    table.add(b"s", {b"a": ONE})
    with table.reading(b"s", b"a", lambda: cut.append("stays")):
        with table.reading(b"s", b"a", lambda: cut.append("left")):
            pass
        with table.reading(b"s", b"other", lambda: cut.append("none")) as entry:
            assert entry is None
        table.drop([b"a"])
        table.drop([b"a"])
    assert cut == ["stays"]


@given(st.lists(st.one_of(
    st.tuples(st.just("add"), SCOPES, NAMES),
    st.tuples(st.just("drop"), NAMES), st.tuples(st.just("drop-scope"), SCOPES),
    st.tuples(st.just("trust"), NAMES), st.tuples(st.just("banned"), NAMES),
    st.tuples(st.just("limit-up"), st.none() | st.floats(1, 1e9)),
), max_size=20))  # fmt: skip
def test_a_replay_leads_to_the_same_state(steps: list[tuple[Any, ...]]) -> None:
    mirror = Mirror()
    for kind, *rest in steps:
        match kind:
            case "add":
                mirror.note("add", (rest[0], [[rest[1], ONE.to_wire()]]))
            case "drop-scope" | "limit-up":
                mirror.note(kind, (rest[0],))
            case _:
                mirror.note(kind, ([rest[0]],))
    again = Mirror()
    for kind, *rest in mirror.messages():
        again.note(kind, tuple(rest))
    assert again.messages() == mirror.messages()
    limits = [rest[0] for kind, *rest in steps if kind == "limit-up"]
    assert [m[1:] for m in mirror.messages() if m[0] == "limit-up"] == [[r] for r in limits[-1:]]


def test_a_replay_is_told_in_messages_of_bounded_length() -> None:
    mirror = Mirror()
    entries = [[b"%d" % number, ONE.to_wire()] for number in range(2 * MAX_ENTRIES + 1)]
    mirror.note("add", (b"s", entries))
    sizes = [len(each[2]) for each in mirror.messages() if each[0] == "add"]
    assert sizes == [MAX_ENTRIES, MAX_ENTRIES, 1]


def test_entries_and_options_survive_the_wire() -> None:
    for entry in (ONE, TWO):
        assert Entry.from_wire(entry.to_wire()) == entry
    for junk in ([], ["/x", 1], ["/x", 1, [1], None], 5):
        with pytest.raises(LocalFault):
            Entry.from_wire(junk)  # type: ignore[arg-type]
    options = ServeOptions(b"secret", ("::", "10.0.0.1"), 5, b"cert", b"key")
    assert ServeOptions.from_wire(options.to_wire()) == options
    assert "secret" not in repr(options).replace("secret=", "")
    with pytest.raises(LocalFault, match="versions"):
        ServeOptions.from_wire({**options.to_wire(), "new": 1})
