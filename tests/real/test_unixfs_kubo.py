"""UnixFS roots, against the real Kubo as the oracle."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from p2pcache.content.cid import format_cid
from p2pcache.content.unixfs import (
    LEAF_BYTES,
    FileImporter,
    Root,
    file_dag_size,
    file_root,
    tree,
)
from tests.support.kubo import Kubo

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB = 1 << 20
INTERESTING_SIZES = [
    0,  # a raw leaf without bytes
    1,
    2,
    1023,
    MIB - 1,  # the longest short leaf
    MIB,  # one full leaf is still the root itself
    MIB + 1,  # the first node
    2 * MIB,
    5 * MIB + 3,
    100 * MIB,  # lengths of three and four varint bytes
    # 4 to 6 s each, Kubo's time:
    pytest.param(1024 * MIB, marks=pytest.mark.slow),  # one full node
    pytest.param(1025 * MIB, marks=pytest.mark.slow),  # a second level, its last node has one child
    pytest.param(1025 * MIB + 5, marks=pytest.mark.slow),
]
MARKED = (0, 1, 1022, 1023, 1024, 1025)  # blocks with bytes of their own: order must count
ZERO_BLOCK = hashlib.sha256(bytes(LEAF_BYTES)).digest()


@pytest.fixture(scope="module")
def kubo(tmp_path_factory) -> Kubo:
    return Kubo.init(tmp_path_factory.mktemp("kubo") / "repo")


def sparse_file(path: Path, size: int) -> Path:
    """Zeros but for a mark in some blocks, the last among them; takes next to no disk."""
    with path.open("wb") as file:
        file.truncate(size)
        for block in (*MARKED, size // LEAF_BYTES):
            mark = b"%08d" % block
            if block * LEAF_BYTES + len(mark) <= size:
                file.seek(block * LEAF_BYTES)
                file.write(mark)
    return path


def block_hashes(path: Path, size: int) -> Iterator[tuple[bytes, int]]:
    """Hash and length of every block; whole blocks of zeros are not read."""
    with path.open("rb") as file:
        for start in range(0, size, LEAF_BYTES):
            length = min(LEAF_BYTES, size - start)
            if length == LEAF_BYTES and start // LEAF_BYTES not in (*MARKED, size // LEAF_BYTES):
                yield ZERO_BLOCK, length
                continue
            file.seek(start)
            yield hashlib.sha256(file.read(length)).digest(), length


def file_root_of(content: bytes) -> Root:
    blocks = (content[i : i + LEAF_BYTES] for i in range(0, len(content), LEAF_BYTES))
    return file_root((hashlib.sha256(block).digest() for block in blocks), len(content))


@pytest.mark.parametrize("size", INTERESTING_SIZES)
def test_a_file_has_the_root_and_the_size_that_kubo_stores_also_leaf_by_leaf(
    kubo: Kubo, tmp_path: Path, size: int
) -> None:
    path = sparse_file(tmp_path / "file", size)
    blocks = list(block_hashes(path, size))
    importer = FileImporter()
    for block, length in blocks:
        importer.add_leaf(block, length)

    root = file_root((block for block, _ in blocks), size)
    by_leaf = importer.finish()

    stored = kubo.add(path)
    assert format_cid(root.cid) == format_cid(by_leaf.cid) == stored
    assert root.size == size
    assert by_leaf.dag_size == file_dag_size(size) == kubo.dag_size(stored)


def test_bytes_on_stdin_have_the_same_root_as_the_file(kubo: Kubo) -> None:
    content = hashlib.shake_256(b"stdin").digest(3 * MIB + 7)

    assert format_cid(file_root_of(content).cid) == kubo.only_hash(content)


FOLDERS = {
    "nothing": {},
    "nested": {"a/b/c/d.txt": b"deep", "a/b.txt": b"", "top": b"top", "a/b/c.txt": b"c"},
    "unicode": {"é.txt": b"1", "e\u0301.txt": b"2", "日本/語": b"3", "emoji-🎉": b"4", "ß": b"5"},
    # UTF-8 sorts by code point; UTF-16, as JavaScript and Java sort, puts U+1F389 before U+FF5E.
    "beyond the basic plane": {"\uff5e": b"1", "🎉": b"2", "\u07ff": b"3", "\x7e": b"4"},
    "prefixes": {"a": b"1", "aa": b"2", "a.b": b"3", "a-b": b"4", "a b": b"5", "a0": b"6"},
    # Compared as whole paths `a.x` and `a-x` stand before `a/x`; as names the folder `a` is first.
    "a folder between files": {"a/x": b"1", "a.x": b"2", "a-x": b"3", "a0": b"4"},
    "case and digits": {"B": b"1", "a": b"2", "A": b"3", "b": b"4", "10": b"5", "9": b"6"},
    "hidden": {".gitattributes": b"*", ".cache/x": b"1", "x": b"2"},
    "a long name": {"n" * 255: b"1", "ü" * 127: b"2"},
    "a large file": {"model.safetensors": hashlib.shake_256(b"m").digest(3_000_000), "c": b"{}"},
}
EMPTY_FOLDERS = {"nested": ["a/empty", "hollow/in/hollow"], "hidden": [".empty"]}


def make_folder(path: Path, files: dict[str, bytes], empty: list[str]) -> Path:
    path.mkdir()
    for name in empty:
        (path / name).mkdir(parents=True)
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_has_the_root_and_the_size_that_kubo_gives_it(
    kubo: Kubo, tmp_path: Path, name: str
) -> None:
    files, empty = FOLDERS[name], EMPTY_FOLDERS.get(name, [])
    folder = make_folder(tmp_path / "folder", files, empty)

    root = tree({path: file_root_of(content) for path, content in files.items()}, empty)

    stored = kubo.add_folder(folder)
    assert format_cid(root.cid) == stored
    assert root.dag_size == kubo.dag_size(stored)
    assert root.size == sum(len(content) for content in files.values())


def flat_names(count: int, pad_last: int = 0) -> list[str]:
    return [f"f{i:05d}" + "x" * (pad_last if i == count - 1 else 0) for i in range(count)]


@pytest.mark.parametrize(
    ("count", "pad_last"),
    # a block of 262144 bytes to the byte, and one more, which makes it a HAMT
    [(5000, 0), (5242, 40), (5242, 41)],
)
def test_a_large_flat_folder_has_the_root_that_kubo_gives_it(
    kubo: Kubo, tmp_path: Path, count: int, pad_last: int
) -> None:
    files = {name: b"%d\n" % i for i, name in enumerate(flat_names(count, pad_last))}
    folder = make_folder(tmp_path / "folder", files, [])

    root = tree({path: file_root_of(content) for path, content in files.items()})

    assert format_cid(root.cid) == kubo.only_hash_folder(folder)
