"""Lists of sums: those that `sha256sum` and BSD write are read, everything else is refused."""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pcache.errors import Untrusted
from p2pcache.sources.sums import MAX_SUMS_BYTES, parse_sums

if TYPE_CHECKING:
    from pathlib import Path

A, B = "a" * 64, "b" * 64


def test_what_sha256sum_writes_is_read(tmp_path: Path) -> None:
    bodies = {"a.bin": b"a", "sub dir/ü 🎉.txt": b"", "two  spaces *.x": b"x"}
    for name, body in bodies.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(body)
    expected = {name: hashlib.sha256(body).digest() for name, body in bodies.items()}
    for mode in ("--text", "--binary"):
        done = subprocess.run(
            ["sha256sum", mode, *bodies], cwd=tmp_path, check=True, capture_output=True
        )
        assert parse_sums(done.stdout) == expected


@pytest.mark.parametrize(
    "data",
    [
        f"{A}  x",
        f"{A}  x\n",
        f"{A} *./x\r\n",
        f"{A.upper()}  x\n\n",
        f"{A}  x\n{A} *x\n",
        f"# a comment\n{A}  x",
        f"SHA256 (x) = {A}\n",
        f"SHA256 (./x) = {A}\r\n{A}  x",
    ],
)
def test_harmless_variants_are_read(data: str) -> None:
    assert parse_sums(data.encode()) == {"x": bytes.fromhex(A)}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n\n",
        f"{A} x".encode(),  # one space: no mark
        f"{A[:-1]}  x".encode(),
        f"{A}a  x".encode(),
        f"{A}\t x".encode(),
        f"{A}  ".encode(),
        f" # no comment\n{A}  x".encode(),
        f"SHA256 (x) = {A[:-1]}".encode(),
        f"SHA256 (../x) = {A}".encode(),
        f"SHA1 (x) = {A}".encode(),
        f"\\{A}  a\\nb".encode(),  # an escaped name
        f"{A}  ../x".encode(),
        f"{A}  /etc/passwd".encode(),
        f"{A}  a\\b".encode(),
        f"{A}  x\n{B}  x".encode(),  # one name, two sums
        f"{A}  ".encode() + b"\xff",
        f"{A}  ".encode() + b"x" * 300,
        b" " * (MAX_SUMS_BYTES + 1),
    ],
    ids=lambda data: repr(data[-30:]),
)
def test_doubtful_lists_are_refused(data: bytes) -> None:
    with pytest.raises(Untrusted):
        parse_sums(data)


@pytest.mark.parametrize(
    ("line", "kind"),
    [("d" * 32 + "  x", "MD5"), ("MD5 (x) = " + "d" * 32, "MD5"), ("d" * 128 + " *x", "SHA512")],
)
def test_a_list_of_other_sums_is_refused_by_its_name(line: str, kind: str) -> None:
    with pytest.raises(Untrusted, match=f"is {kind}, and only SHA256 is read"):
        parse_sums(line.encode())


@given(st.binary(max_size=200))
def test_only_untrusted_comes_out(data: bytes) -> None:
    with contextlib.suppress(Untrusted):
        parse_sums(data)
