"""Pure formatting: the progress line, errors, receipts."""

import io
import pty
import termios

from hypothesis import given
from hypothesis import strategies as st

from p2pcache.cli.output import (
    CELL_CHARS,
    Mode,
    Printer,
    aligned,
    error_lines,
    fitted,
    printable,
)
from p2pcache.cli.progress import LINE_S, REDRAW_S, ProgressDisplay, forward, progress_line
from p2pcache.cli.receipt import receipt_lines
from tests.support.scripted_service import RECEIPT

GIB = 2**30
FULL = {
    "phase": "fetching", "file": "model-00002.safetensors", "done_bytes": int(3.1 * GIB),
    "total_bytes": int(4.9 * GIB), "bytes_per_s": 812 * 2**20,
    "sources": {"hf": 9, "peers": 91}, "eta_s": 3.0,
}  # fmt: skip
LINE = "model-00002.safetensors  3.1/4.9 GiB  812 MiB/s  peers 91%  hf 9%  ETA 3s"


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_the_line_shows_name_amount_rate_shares_and_the_rest():
    assert progress_line(FULL, 100) == LINE


def test_a_narrow_terminal_loses_the_middle_of_the_name_first():
    line = progress_line(FULL, 70)
    assert line == "model-000…afetensors  3.1/4.9 GiB  812 MiB/s  peers 91%  hf 9%  ETA 3s"
    assert len(progress_line(FULL, 20)) == 20


def test_who_is_waited_for_is_shown_with_how_far_they_are():
    waiting = {
        "phase": "waiting", "waiting_for": "another agent", "done_bytes": 3 << 20,
        "total_bytes": 9 << 20,
    }  # fmt: skip
    assert progress_line(waiting, 80) == "waiting for another agent  3.0/9.0 MiB"


def test_before_anything_is_known_the_phase_is_shown():
    assert progress_line({"phase": "resolving"}, 80) == "resolving"
    assert progress_line({}, 80) == "working"
    unknown_total = {"phase": "fetching", "done_bytes": 5 * GIB, "total_bytes": 0}
    assert progress_line(unknown_total, 80) == "fetching  5.0 GiB"


def test_a_hostile_name_stays_on_the_line():
    assert "\n" not in progress_line({"file": "a\n\x1b[2Jb"}, 80)
    assert "\x1b" not in progress_line({"file": "a\n\x1b[2Jb"}, 80)


STATES = st.fixed_dictionaries(
    {},
    optional={
        "phase": st.sampled_from(["resolving", "fetching", "verifying"]),
        "done_bytes": st.integers(0, 2**50),
        "total_bytes": st.integers(0, 2**50),
        "files_done": st.integers(0, 100),
        "bytes_per_s": st.floats(0, 1e12),
        "sources": st.dictionaries(st.sampled_from(["hf", "peers"]), st.integers(0, 2**50)),
        "eta_s": st.none() | st.floats(0, 1e6),
    },
)


@given(st.lists(STATES, max_size=8), st.integers(1, 200))
def test_progress_never_goes_backwards_nor_past_the_end_nor_past_the_width(states, width):
    shown = {}
    for state in states:
        later = forward(shown, state)
        assert later.get("done_bytes", 0) >= shown.get("done_bytes", 0) or not shown.get(
            "total_bytes"
        )
        assert not later.get("total_bytes") or later.get("done_bytes", 0) <= later["total_bytes"]
        assert later.get("files_done", 0) >= shown.get("files_done", 0)
        assert len(progress_line(later, width)) <= width
        shown = later


def test_a_terminal_is_redrawn_at_most_ten_times_a_second_and_left_clean():
    clock, terminal = Clock(), Terminal()
    printer = Printer(Mode.HUMAN, stderr=terminal)
    with ProgressDisplay(printer, now=clock, width=lambda: 100) as display:
        for step in range(100):
            display.update({"file": "a", "done_bytes": step, "total_bytes": 100})
            clock.now += REDRAW_S / 10
    text = terminal.getvalue()
    assert text.count("\ra") == 10
    assert text.endswith("\r\x1b[K")


def test_a_log_gets_a_line_every_ten_seconds_and_none_for_what_is_quick():
    clock, log = Clock(), io.StringIO()
    with ProgressDisplay(Printer(Mode.HUMAN, stderr=log), now=clock) as display:
        for step in range(61):
            display.update({"file": "a", "done_bytes": step, "total_bytes": 100})
            clock.now += LINE_S / 20
    assert log.getvalue() == "a  20/100 B\na  40/100 B\na  60/100 B\n"
    quiet = io.StringIO()
    with ProgressDisplay(Printer(Mode.JSON, stderr=quiet), now=clock) as display:
        clock.now += LINE_S
        display.update(FULL)
    assert quiet.getvalue() == ""


def test_an_error_is_what_happened_its_context_and_what_to_do():
    assert error_lines("a\n b\n\nc", "d") == ["error: a", "  b", "  c", "hint: d"]
    assert error_lines("", None) == ["error: failed"]
    assert error_lines("evil \x1b[2J", None) == ["error: evil \\x1b[2J"]


@given(st.text(max_size=30))
def test_nothing_printable_changes_and_nothing_else_passes(text):
    assert printable(text).isprintable()
    if text.isprintable():
        assert printable(text) == text


def test_columns_are_aligned():
    assert aligned([("a", "b"), ("long", "c")]) == ["a     b", "long  c"]


def test_a_receipt_names_every_source_its_bytes_and_why_it_was_left():
    text = "\n".join(receipt_lines(RECEIPT))
    assert "hf://org/model  complete" in text
    assert "4.9 GiB fetched" in text
    assert "fetch 6.1s" in text
    assert "this pull took 1.21 times that" in text
    assert "left: wrong Content-Range" in text
    assert "318" in text
    assert "note: the manifest was recorded 3 days ago" in text


def test_a_receipt_of_another_agents_version_is_still_shown():
    assert receipt_lines({})[0] == "?  ?"
    assert receipt_lines({**RECEIPT, "bound": None, "sources": [], "times": {}})


def test_a_pull_that_failed_before_it_had_a_manifest_shows_none():
    lines = receipt_lines({**RECEIPT, "manifest": None})
    assert "  manifest  -" in lines


def test_an_outcome_of_several_lines_is_shown_as_lines():
    lines = receipt_lines({**RECEIPT, "outcome": "failed: no source has it\n  tried: hf"})
    assert lines[:2] == ["hf://org/model  failed: no source has it", "  tried: hf"]


def test_on_a_narrow_terminal_the_longest_cells_keep_their_ends():
    rows = [("ref", "here"), ("hf://organisation/a-long-name@main", "100%"), ("a", "0%")]
    assert fitted(rows, None) == rows
    assert aligned(fitted(rows, 80)) == aligned(rows)
    narrow = [tuple(row) for row in fitted(rows, 30)]
    assert max(map(len, aligned(narrow))) == 30
    assert narrow[1][0] == "…sation/a-long-name@main"
    assert narrow[2] == ("a", "0%")
    assert len(fitted(rows, 5)[1][0]) == CELL_CHARS, "and some of it stays in any case"


def test_a_table_knows_its_terminal_and_a_pipe_gets_all(capsys):
    rows = [("ref", "here"), ("hf://organisation/a-long-name@main", "100%")]
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 30))
    with open(theirs, "w", encoding="utf-8") as terminal, open(ours, "rb", buffering=0) as screen:
        Printer(Mode.HUMAN, stdout=terminal).show_table("x", [], rows)
        terminal.flush()
        shown = b""
        while "100%" not in (said := shown.decode(errors="ignore")):
            shown += screen.read(1000)  # a kernel that is busy hands lines over one by one
        assert "…sation/a-long-name@main  100%" in said
        Printer(Mode.HUMAN).show_table("x", [], rows)
    assert rows[1][0] in capsys.readouterr().out
