"""Names from outside: what is accepted stays inside its folder and can be written."""

from __future__ import annotations

import contextlib
import os
import tempfile
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pcache.content.names import (
    MAX_COMPONENT_BYTES,
    MAX_PATH_BYTES,
    case_collisions,
    safe_path,
)
from p2pcache.errors import Untrusted

REFUSED = {
    "empty": "",
    "absolute": "/etc/passwd",
    "two slashes first": "//host/share",
    "a drive": "C:/x",
    "a drive, relative to its folder": "c:x",
    "a drive in a later component": "a/C:x",
    "a drive as a later component": "a/C:/x",
    "a backslash": "a\\b",
    "a backslash first": "\\\\host\\share",
    "up with a backslash": "..\\x",
    "here": ".",
    "up": "..",
    "up first": "../x",
    "up inside": "a/../../x",
    "up last": "a/..",
    "here inside": "a/./b",
    "an empty component": "a//b",
    "a slash last": "a/",
    "NUL": "a\0b",
    "newline": "a\nb",
    "carriage return": "a\rb",
    "tab": "a\tb",
    "escape": "\x1b[2Jb",
    "delete": "a\x7f",
    "C1 control": "a\x85b",
    "line separator": "a\u2028b",
    "paragraph separator": "a\u2029b",
    "a lone surrogate": "a\ud800b",
    "a component of 256 bytes": "n" * (MAX_COMPONENT_BYTES + 1),
    "a component of 256 bytes, fewer letters": "ü" * 128,
    "a long component below": "a/" + "n" * 300 + "/b",
    "a path of 3073 bytes": "a/" * 1535 + "bbb",
}
ACCEPTED = [
    "a", "config.json", "a/b/c", "...", "a/..b", "..a/b", ".hidden", "a b", " ", "ab:c", "1:x",
    "a/:", "~", "~root/x", "-rf", "emoji-🎉", "日本語/é", "e\u0301", "con", "a*?[x]", "$HOME",
    "%2e%2e", "n" * MAX_COMPONENT_BYTES, "ü" * 127, "a/" * 1535 + "bb",
]  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_name_is_refused_with_a_hint_and_on_one_line(name: str) -> None:
    with pytest.raises(Untrusted) as caught:
        safe_path(REFUSED[name])

    assert caught.value.hint
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 600


@pytest.mark.parametrize("name", ACCEPTED, ids=lambda name: ascii(name[:20]))
def test_a_good_name_comes_back_as_it_is(name: str) -> None:
    assert len(name.encode()) <= MAX_PATH_BYTES
    assert safe_path(name) == name


# Mostly the characters that matter, so that components, dots and drives really come up.
hostile = st.lists(
    st.sampled_from(
        ["..", ".", "/", "\\", "C:", ":", "\0", "\n", "~", "a", "é", "\ud800", "🎉", ""]
    ),
    max_size=12,
).map("".join)
names = st.one_of(hostile, st.text(max_size=40), st.text("aü🎉/.", max_size=400))


@given(names)
def test_whatever_is_accepted_stays_inside_its_folder_and_can_be_written(name: str) -> None:
    try:
        path = safe_path(name)
    except Untrusted:
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as top:
        target = Path(top, "inside", path)
        assert os.path.normpath(target) == str(target)
        assert target.resolve().is_relative_to(Path(top, "inside").resolve())
        target.parent.mkdir(parents=True)
        target.write_bytes(b"x")
        written = [p for p in Path(top).rglob("*") if p.is_file()]
        assert [p.relative_to(top).as_posix() for p in written] == [f"inside/{path}"]


def test_exactly_the_control_characters_and_line_breaks_of_unicode_are_refused() -> None:
    for letter in map(chr, {*range(0x3000), 0xE0001, 0xFFFE, 0x10FFFF} - {ord("/"), ord("\\")}):
        refused = unicodedata.category(letter) in ("Cc", "Zl", "Zp")
        with pytest.raises(Untrusted) if refused else contextlib.nullcontext():
            safe_path(f"1{letter}b")


def test_the_longest_name_can_be_written_below_a_deep_folder() -> None:
    name = "/".join(["n" * MAX_COMPONENT_BYTES] * 12)
    assert safe_path(name) == name
    with tempfile.TemporaryDirectory() as top:
        folder = Path(top, *["f" * 100] * 9)
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes(b"x")


@given(st.lists(names, min_size=1, max_size=4))
def test_a_path_is_accepted_only_if_each_of_its_components_is(parts: list[str]) -> None:
    def accepted(name: str) -> bool:
        try:
            safe_path(name)
        except Untrusted:
            return False
        return True

    assert accepted("/".join(parts)) == all(accepted(part) for part in parts)


def test_names_that_are_one_file_elsewhere_are_found() -> None:
    paths = ["README.md", "a/x", "readme.MD", "A/x", "é", "e\u0301", "straße", "STRASSE", "b"]

    assert case_collisions(paths) == [
        ("README.md", "readme.MD"), ("a/x", "A/x"), ("é", "e\u0301"), ("straße", "STRASSE"),
    ]  # fmt: skip


def test_letters_that_folding_takes_apart_are_found() -> None:
    """U+0390 folds to three letters, U+03AA U+0301 to two that mean the same."""
    assert case_collisions(["\u0390", "\u03aa\u0301"]) == [("\u0390", "\u03aa\u0301")]


@pytest.mark.parametrize(
    ("listed", "found"),
    [
        (["A", "a/x"], [("A", "a/x")]),
        (["a/x", "A"], [("a/x", "A")]),
        (["b/A", "B/a/x/y"], [("b/A", "B/a/x/y")]),
        (["A", "a-b", "a.txt", "a/x", "a/y"], [("A", "a/x"), ("A", "a/y")]),
        (["\u00e9", "E\u0301/x"], [("\u00e9", "E\u0301/x")]),
        (["A", "a-/x", "ab/x", "b/a"], []),
        (["a", "a"], []),  # one path
    ],
)
def test_a_file_and_a_folder_that_are_one_name_elsewhere_are_found(
    listed: list[str], found: list[tuple[str, str]]
) -> None:
    assert case_collisions(listed) == found


components = st.sampled_from(["a", "A", "b", "a-", "A.", "\u00e9", "e\u0301"])


@given(
    st.lists(st.lists(components, min_size=1, max_size=3).map("/".join), max_size=6, unique=True)
)
def test_every_path_that_another_excludes_is_in_a_pair(listed: list[str]) -> None:
    def excludes(one: str, other: str) -> bool:
        one, other = (unicodedata.normalize("NFD", p).casefold() for p in (one, other))
        return one == other or one.startswith(other + "/") or other.startswith(one + "/")

    pairs = case_collisions(listed)

    assert {p for pair in pairs for p in pair} == {
        p for p in listed if any(p != other and excludes(p, other) for other in listed)
    }
    for one, other in pairs:
        assert excludes(one, other)
        assert listed.index(one) < listed.index(other)


def test_folders_that_differ_in_case_alone_collide_through_their_files() -> None:
    assert case_collisions(["a/x", "A/y"]) == []  # both files can be written
    assert case_collisions([]) == []
