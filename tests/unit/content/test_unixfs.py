"""UnixFS roots: the vectors that Kubo made, and what needs no oracle."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pcache.content.cid import format_cid, parse_cid
from p2pcache.content.unixfs import (
    LEAF_BYTES,
    MAX_LINKS,
    FileImporter,
    Root,
    file_dag_size,
    file_root,
    tree,
)
from p2pcache.errors import UsageError

VECTORS = json.loads(
    (Path(__file__).parents[2] / "data" / "unixfs_dir_vectors.json").read_text(encoding="utf-8")
)["vectors"]
ZERO_BLOCK = hashlib.sha256(bytes(LEAF_BYTES)).digest()


def file_root_of(content: bytes) -> Root:
    blocks = (content[i : i + LEAF_BYTES] for i in range(0, len(content), LEAF_BYTES))
    return file_root((hashlib.sha256(block).digest() for block in blocks), len(content))


def flat(count: int, pad_last: int = 0) -> dict[str, bytes]:
    names = [f"f{i:05d}" for i in range(count)]
    names[-1:] = [name + "x" * pad_last for name in names[-1:]]
    return {name: b"file %d\n" % i for i, name in enumerate(names)}


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_a_folder_has_the_root_of_the_vector(vector: dict) -> None:
    files = {path: text.encode() for path, text in vector.get("files", {}).items()}
    for path, length in vector.get("shake_256_of_vec", {}).items():
        files[path] = hashlib.shake_256(b"vec").digest(length)
    files |= flat(vector.get("flat", 0), vector.get("pad_last", 0))

    root = tree(
        {path: file_root_of(content) for path, content in files.items()},
        vector.get("empty_dirs", []),
    )

    assert format_cid(root.cid) == vector["root"]
    assert root.dag_size == vector["dag_size"]


def test_the_order_in_which_entries_come_does_not_count() -> None:
    roots = {name: file_root_of(name.encode()) for name in ("b", "a/z", "é", "a/y", "B")}

    assert tree(roots) == tree(dict(reversed(roots.items())))


def test_a_name_that_is_a_file_and_a_folder_is_refused() -> None:
    leaf = file_root_of(b"")
    for paths in (["a", "a/b"], ["a/b", "a/b/c"]):
        with pytest.raises(UsageError, match="a file and a folder"):
            tree(dict.fromkeys(paths, leaf))


# Roots that Kubo 0.43 gives (`ipfs add --only-hash -Q` under the profile); tests/real asks it.
@pytest.mark.parametrize(
    ("size", "root"),
    [
        (0, "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"),
        (1025 * LEAF_BYTES, "bafybeigt7wofv4vnxbg3titijasuw4ptg5kfztec4smsk7opdt7z6djoxq"),
    ],
)
def test_zeros_have_the_root_that_kubo_gives_them(size: int, root: str) -> None:
    assert file_root([ZERO_BLOCK] * (size // LEAF_BYTES), size).cid == parse_cid(root)


@pytest.mark.parametrize(
    "size",
    [
        0, 1, LEAF_BYTES - 1, LEAF_BYTES, LEAF_BYTES + 1,
        MAX_LINKS * LEAF_BYTES, MAX_LINKS * LEAF_BYTES + 1,  # one level of nodes, two levels
        (2 * MAX_LINKS + 1) * LEAF_BYTES - 1,
        pytest.param(MAX_LINKS**2 * LEAF_BYTES + 9, marks=pytest.mark.slow),  # three levels, 5 s
    ],
)  # fmt: skip
def test_the_dag_size_follows_from_the_size_alone(size: int) -> None:
    blocks = -(-size // LEAF_BYTES)

    root = file_root((ZERO_BLOCK for _ in range(blocks)), size)

    assert (root.size, root.dag_size) == (size, file_dag_size(size))


def test_the_importer_keeps_one_short_list_a_level() -> None:
    importer = FileImporter()
    for _ in range(3 * MAX_LINKS + 5):
        importer.add_leaf(ZERO_BLOCK, LEAF_BYTES)

    assert [len(row) for row in importer._layout._levels] == [5, 3]


@given(blocks=st.integers(0, 8), given_=st.integers(0, 8), tail=st.integers(1, LEAF_BYTES))
def test_a_count_of_hashes_that_does_not_fit_the_size_is_refused(
    blocks: int, given_: int, tail: int
) -> None:
    size = 0 if not blocks else (blocks - 1) * LEAF_BYTES + tail
    if given_ == blocks:
        assert file_root([ZERO_BLOCK] * given_, size).size == size
    else:
        with pytest.raises(ValueError, match="block hashes than blocks"):
            file_root([ZERO_BLOCK] * given_, size)
