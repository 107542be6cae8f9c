"""DAGs that the real Kubo made are read, and what we make has the roots that Kubo gives."""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING

import pytest

from p2pcache.content import cid as cids
from p2pcache.content.carstream import encode_car
from p2pcache.content.cid import format_cid, parse_cid_as_written
from p2pcache.content.dag import build, files, folders, path, traverse
from p2pcache.content.dag.build import PROFILES, FileBuilder, Profile, Root
from p2pcache.content.dag.walk import Found, arun, astream, run, stream
from p2pcache.errors import NotFound
from tests.support.dags import Blocks, pieces, read_car
from tests.support.kubo import Kubo

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20
DATA = hashlib.shake_256(b"dag").digest(3 * MIB + 7)


@pytest.fixture(scope="module")
def kubo(tmp_path_factory) -> Kubo:
    return Kubo.init(tmp_path_factory.mktemp("kubo") / "repo")


@pytest.fixture(scope="module")
def old_kubo(tmp_path_factory) -> Kubo:
    repo = tmp_path_factory.mktemp("kubo-v0") / "repo"
    return Kubo.init(repo, profile="unixfs-v0-2015")


def exported(kubo: Kubo, root: str, tmp_path: Path) -> tuple[bytes, Blocks]:
    """The root and all its blocks; what we write of them is Kubo's CAR to the byte."""
    car = kubo.export_car(root, tmp_path / "kubo.car").read_bytes()
    roots, blocks = read_car(car)
    assert [format_cid(one) for one in roots] == [root]
    ours = stream(traverse.blocks(roots[0], inlined=True), blocks.get_block)
    assert b"".join(encode_car(roots, ours)) == car
    blocks.asked.clear()
    return roots[0], blocks


# -- reading -------------------------------------------------------------------------------------

# Options of `ipfs add`, and how many blocks a read of three bytes may touch: the way from the root.
WRITERS = {
    "the default": ([], 2),
    "trickle": (["--trickle", "--chunker=size-5000"], 2),  # 630 leaves below the root
    "deep trickle": (["--trickle", "--chunker=size-1000", "--max-file-links=3"], 6),
    "rabin": (["--chunker=rabin-16384-32768-65536"], 2),
    "buzhash": (["--chunker=buzhash"], 2),
    "dag-pb leaves": (["--raw-leaves=false"], 2),
    "CIDv0": (["--cid-version=0", "--raw-leaves=false", "--chunker=size-262144"], 2),
    "CIDv0 above raw leaves": (["--cid-version=0"], 2),
    "dag-pb trickle": (["--trickle", "--raw-leaves=false", "--chunker=size-5000"], 2),
    "three levels": (["--chunker=size-1000", "--max-file-links=50"], 4),
    "blake3": (["--hash=blake3"], 2),
    "sha2-512": (["--hash=sha2-512"], 2),
    "inlined leaves": (["--inline", "--chunker=size-30000", "--inline-limit=100"], 2),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_is_read_whole_and_in_part_and_no_other_block_is_touched(
    kubo: Kubo, tmp_path: Path, name: str
) -> None:
    options, way = WRITERS[name]
    root, blocks = exported(kubo, kubo.add_with(DATA, *options), tmp_path)

    assert run(files.stat(root), blocks.get_block).size == len(DATA)
    assert b"".join(stream(files.read(root), blocks.get_block)) == DATA

    for start, end in [(0, 3), (1_500_000, 1_500_003), (len(DATA) - 3, len(DATA) + 9)]:
        blocks.asked.clear()
        got = b"".join(stream(files.read(root, start, end), blocks.get_block))
        assert got == DATA[start:end]
        assert len(blocks.asked) == len(set(blocks.asked)) <= way + 1  # +1: over an edge of leaves
    blocks.asked.clear()
    assert list(stream(files.read(root, len(DATA)), blocks.get_block)) == []
    assert len(blocks.asked) == 1


@pytest.mark.parametrize("name", WRITERS)
def test_the_leaves_of_a_file_are_told_without_their_bytes(
    kubo: Kubo, tmp_path: Path, name: str
) -> None:
    root, blocks = exported(kubo, kubo.add_with(DATA, *WRITERS[name][0]), tmp_path)

    found = list(stream(files.leaves(root), blocks.get_block))

    assert [leaf.start for leaf in found] == [0, *(leaf.end for leaf in found[:-1])]
    assert found[-1].end == len(DATA)
    assert cids.RAW not in {cids.codec(cid) for cid in blocks.asked}
    for leaf in found:
        data = blocks[leaf.cid] if leaf.data is None else leaf.data
        assert data == DATA[leaf.start : leaf.end]


def make_folder(path: Path, entries: dict[str, bytes | str | None]) -> Path:
    """bytes: a file; text: a symlink; None: an empty folder."""
    path.mkdir()
    for name, content in entries.items():
        place = path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            place.write_bytes(content)
        elif content is None:
            place.mkdir()
        else:
            place.symlink_to(content)
    return path


FOLDER: dict[str, bytes | str | None] = {
    "a/b/c.txt": b"deep", "a/b.txt": b"", "top": b"top", "link": "a/b/c.txt", "away": "../../etc",
    "empty": None, "日本/🎉": DATA[: 2 * MIB], "a/tiny": b"t",
}  # fmt: skip
SHARDED: dict[str, bytes | str | None] = {f"f{n:04}": b"%d" % n for n in range(1500)}
FOLDERS = {
    "the default": (FOLDER, []),
    "CIDv0": (FOLDER, ["--cid-version=0", "--raw-leaves=false"]),
    "inlined": (FOLDER, ["--inline", "--inline-limit=64"]),
    "trickle": (FOLDER, ["--trickle", "--chunker=size-1000"]),
    "modes": (FOLDER, ["--preserve-mode", "--preserve-mtime", "--raw-leaves=false"]),
    "wrapped": (FOLDER, ["-w"]),
    "limited links": (SHARDED, ["--max-directory-links=100"]),
    "another fanout": (SHARDED, ["--max-directory-links=100", "--max-hamt-fanout=16"]),
    "the widest fanout": (SHARDED, ["--max-directory-links=100", "--max-hamt-fanout=1024"]),
}


def walked(root: bytes, blocks: Blocks, at: str = "") -> dict[str, bytes | str | None]:
    """What a folder holds, read through `entries`."""
    found: dict[str, bytes | str | None] = {}
    listed = list(stream(folders.entries(root), blocks.get_block))
    if at and not listed:
        return {at.rstrip("/"): None}
    for entry in listed:
        stat = run(files.stat(entry.cid), blocks.get_block)
        if stat.kind == "directory":
            found |= walked(entry.cid, blocks, f"{at}{entry.name}/")
        elif stat.kind == "symlink":
            found[at + entry.name] = stat.target
        else:
            found[at + entry.name] = b"".join(stream(files.read(entry.cid), blocks.get_block))
    return found


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_is_listed_and_each_path_in_it_leads_to_its_file(
    kubo: Kubo, tmp_path: Path, name: str
) -> None:
    entries, options = FOLDERS[name]
    folder = make_folder(tmp_path / "folder", entries)
    root, blocks = exported(kubo, kubo.add_with(folder, *options), tmp_path)

    below = "folder/" if name == "wrapped" else ""
    assert walked(root, blocks) == {below + path: content for path, content in entries.items()}
    for at, content in list(entries.items())[:50]:
        blocks.asked.clear()
        found = run(path.resolve(root, (below + at).split("/")), blocks.get_block)
        most = 1 + at.count("/") + bool(below) if entries is FOLDER else 6  # a shard a level
        assert len(blocks.asked) <= most  # and not the file itself
        if isinstance(content, bytes):
            assert b"".join(stream(files.read(found.cid), blocks.get_block)) == content
    with pytest.raises(NotFound):
        run(path.resolve(root, ["not", "there"]), blocks.get_block)


def test_modes_and_times_are_told(kubo: Kubo, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "folder", {"f": b"x"})
    (folder / "f").chmod(0o640)
    os.utime(folder / "f", ns=(0, 1_700_000_000_000_000_007))
    options = ["--preserve-mode", "--preserve-mtime", "--raw-leaves=false"]
    root, blocks = exported(kubo, kubo.add_with(folder, *options), tmp_path)

    (entry,) = stream(folders.entries(root), blocks.get_block)
    stat = run(files.stat(entry.cid), blocks.get_block)

    assert (stat.mode or 0) & 0o777 == 0o640
    assert stat.mtime == (1_700_000_000, 7)


async def test_the_async_drivers_give_the_same_and_tell_what_comes(
    kubo: Kubo, tmp_path: Path
) -> None:
    root, blocks = exported(kubo, kubo.add_with(DATA, "--chunker=size-100000"), tmp_path)
    told: list[tuple[bytes, ...]] = []

    stat = await arun(files.stat(root), blocks.aget)
    blocks.asked.clear()
    parts = [part async for part in astream(files.read(root), blocks.aget, told.append)]

    assert b"".join(parts) == DATA
    assert stat.size == len(DATA)
    assert list(told[0]) == blocks.asked[2:]  # all that is left, before the first leaf


# -- CARs ----------------------------------------------------------------------------------------


def test_what_we_write_kubo_imports_and_exports_again_to_the_byte(
    kubo: Kubo, old_kubo: Kubo, tmp_path: Path
) -> None:
    for profile, reader in [("unixfs-v1-2025", kubo), ("unixfs-v0-2015", old_kubo)]:
        blocks = Blocks()
        root = built_folder(PROFILES[profile], {**FOLDER, **SHARDED}, blocks)
        flow = stream(traverse.blocks(root.cid), blocks.get_block)
        ours = tmp_path / f"{profile}.car"
        ours.write_bytes(b"".join(encode_car([root.cid], flow)))

        assert reader.import_car(ours) == {format_cid(root.cid): ""}
        again = reader.export_car(format_cid(root.cid), tmp_path / "again.car")
        assert again.read_bytes() == ours.read_bytes()


@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_a_car_is_read_whatever_the_pieces_are(kubo: Kubo, tmp_path: Path, step: int) -> None:
    root = kubo.add_with(DATA[:100_000], "--chunker=size-9000")
    car = kubo.export_car(root, tmp_path / "kubo.car").read_bytes()

    roots, blocks = read_car(car, step)

    assert b"".join(stream(files.read(roots[0]), blocks.get_block)) == DATA[:100_000]


# -- roots ---------------------------------------------------------------------------------------


def built(profile: Profile, content: bytes, blocks: Blocks | None = None) -> Root:
    builder = FileBuilder(profile, Blocks().keep if blocks is None else blocks.keep)
    for part in pieces(content, 70_001):
        builder.write(part)
    return builder.finish()


def built_folder(profile: Profile, entries: dict[str, bytes | str | None], blocks: Blocks) -> Root:
    roots = {}
    for name, content in entries.items():
        if isinstance(content, bytes):
            roots[name] = built(profile, content, blocks)
        elif content is not None:
            roots[name] = build.symlink(profile, content, blocks.keep)
    empty = [name for name, content in entries.items() if content is None]
    return build.tree(profile, roots, empty, blocks.keep)


SMALL = {"chunk_bytes": 100, "max_links": 3}
SMALL_OPTIONS = ["--chunker=size-100", "--max-file-links=3"]
PROFILE_OPTIONS: dict[str, tuple[Profile, list[str]]] = {
    "v1": (PROFILES["unixfs-v1-2025"], []),
    "v0": (
        PROFILES["unixfs-v0-2015"],
        [
            "--cid-version=0", "--raw-leaves=false", "--chunker=size-262144",
            "--max-file-links=174",
        ],
    ),
    "v0 above raw leaves": (Profile(cid_version=0), ["--cid-version=0", "--raw-leaves=true"]),
    "small": (Profile(**SMALL), SMALL_OPTIONS),
    "small of dag-pb": (Profile(**SMALL, raw_leaves=False), [*SMALL_OPTIONS, "--raw-leaves=false"]),
    "trickle": (Profile(**SMALL, trickle=True), [*SMALL_OPTIONS, "--trickle"]),
    "trickle of dag-pb": (
        Profile(**SMALL, trickle=True, raw_leaves=False, cid_version=0),
        [*SMALL_OPTIONS, "--trickle", "--raw-leaves=false", "--cid-version=0"],
    ),
}  # fmt: skip
SIZES = [
    0, 1, 100, 101,  # an empty leaf, one leaf, the edge of a small one
    300, 301, 900, 901,  # a full node of small ones, one more
    6000, 30_000, 100_000,  # levels of small ones; subtrees of each depth in a trickle
    262_144, 262_145, MIB, MIB + 1,
]  # fmt: skip


@pytest.mark.parametrize("name", PROFILE_OPTIONS)
def test_files_of_every_size_have_the_roots_that_kubo_gives_them(
    kubo: Kubo, tmp_path: Path, name: str
) -> None:
    profile, options = PROFILE_OPTIONS[name]
    folder = tmp_path / "files"
    folder.mkdir()
    sizes = [size for size in SIZES if size <= 1000 * profile.chunk_bytes]
    for size in sizes:
        (folder / f"{size:07}").write_bytes(DATA[:size])

    blocks = Blocks()
    ours = {f"{size:07}": built(profile, DATA[:size], blocks) for size in sizes}

    _, theirs = exported(kubo, kubo.add_with(folder, *options), tmp_path)
    root = cids.parse_cid_as_written(kubo.add_with(folder, *options))
    listed = list(stream(folders.entries(root), theirs.get_block))
    assert {entry.name: format_cid(entry.cid) for entry in listed} == {
        size: format_cid(root.cid) for size, root in ours.items()
    }
    assert {entry.name: entry.size for entry in listed} == {
        size: root.dag_size for size, root in ours.items()
    }
    for size, made in ours.items():
        got = b"".join(stream(files.read(made.cid), blocks.get_block))
        assert got == DATA[: int(size)]


def flat(count: int, pad_last: int = 0) -> dict[str, bytes | str | None]:
    names = [f"f{i:05d}" for i in range(count)]
    names[-1:] = [name + "x" * pad_last for name in names[-1:]]
    return {name: b"file %d\n" % i for i, name in enumerate(names)}


ROOTS: dict[str, dict[str, bytes | str | None]] = {
    "nothing": {},
    "nested": {"a/b/c/d.txt": b"deep", "a/b.txt": b"", "top": b"top", "a/empty": None},
    "unicode": {"é.txt": b"1", "e\u0301.txt": b"2", "日本/語": b"3", "emoji-🎉": b"4", "ß": b"5"},
    "symlinks": {"to a file": "x", "to nothing": "no/such", "absolute": "/etc/passwd", "x": b"x",
                 "to the folder": ".", "unicode-é": "日本/語"},
    "all of it": FOLDER,
    "a thousand": flat(1000),
    "5,000": flat(5000),
    "20,000": flat(20_000),
}  # fmt: skip


@pytest.mark.parametrize("name", ROOTS)
def test_folders_have_the_roots_that_kubo_gives_them(
    kubo: Kubo, old_kubo: Kubo, tmp_path: Path, name: str
) -> None:
    folder = make_folder(tmp_path / "folder", ROOTS[name])
    for profile, theirs in [("unixfs-v1-2025", kubo), ("unixfs-v0-2015", old_kubo)]:
        root = built_folder(PROFILES[profile], ROOTS[name], Blocks())
        assert format_cid(root.cid) == theirs.only_hash_folder(folder)


# Entries, and how much longer the last name is: the block (v1) or the names and CIDs (v0) have the
# 262144 bytes that a plain folder may have, and one more.
EDGES = {
    "v1 under": ("unixfs-v1-2025", 5242, 40, False),
    "v1 over": ("unixfs-v1-2025", 5242, 41, True),
    "v0 under": ("unixfs-v0-2015", 6553, 24, False),  # 40 bytes each, and 24
    "v0 over": ("unixfs-v0-2015", 6553, 25, True),
}


@pytest.mark.parametrize("name", EDGES)
def test_a_folder_just_under_and_just_over_the_threshold(
    kubo: Kubo, old_kubo: Kubo, tmp_path: Path, name: str
) -> None:
    profile, count, pad, sharded = EDGES[name]
    entries = flat(count, pad)
    folder = make_folder(tmp_path / "folder", entries)
    blocks = Blocks()

    root = built_folder(PROFILES[profile], entries, blocks)

    theirs = old_kubo if PROFILES[profile].cid_version == 0 else kubo
    assert format_cid(root.cid) == theirs.only_hash_folder(folder)
    assert run(files.stat(root.cid), blocks.get_block).sharded is sharded


def test_a_large_folder_is_listed_and_looked_up_in_few_blocks(kubo: Kubo, tmp_path: Path) -> None:
    entries = flat(20_000)
    folder = make_folder(tmp_path / "folder", entries)
    root, blocks = exported(kubo, kubo.add_folder(folder), tmp_path)

    names = {entry.name for entry in stream(folders.entries(root), blocks.get_block)}
    blocks.asked.clear()
    found = run(folders.find(root, "f12345"), blocks.get_block)

    assert names == set(entries)
    assert found is not None
    assert found.cid == built(PROFILES["unixfs-v1-2025"], b"file 12345\n").cid
    assert len(blocks.asked) <= 3
    assert run(folders.find(root, "f99999"), blocks.get_block) is None


# -- scopes of the trustless gateway -------------------------------------------------------------


def test_an_entity_is_the_file_or_the_nodes_of_the_folder(kubo: Kubo, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "folder", {**SHARDED, "big": DATA, "in/file": b"x"})
    options = ["--max-directory-links=100", "--chunker=size-100000"]
    root, blocks = exported(kubo, kubo.add_with(folder, *options), tmp_path)

    def cut(at: list[str], **wanted: object) -> list[Found]:
        return list(stream(traverse.blocks(root, at, **wanted), blocks.get_block))

    way = run(path.resolve(root, ["big"]), blocks.get_block)
    entity = cut([], scope="entity")
    assert [one.cid for one in cut([], scope="block")] == [root]
    assert len(entity) > 100
    assert {cids.codec(one.cid) for one in entity} == {cids.DAG_PB}
    above = [*way.blocks, way.cid]
    assert [one.cid for one in cut(["big"], scope="block")] == above
    leaves = [leaf.cid for leaf in stream(files.leaves(way.cid), blocks.get_block)]
    assert [one.cid for one in cut(["big"], scope="entity")] == above + leaves
    assert [one.cid for one in cut(["big"])] == above + leaves
    for asked, want in [((0, 0), leaves[:1]), ((99_999, 100_000), leaves[:2]),
                        ((-1, None), leaves[-1:]), ((0, -1), leaves), ((0, None), leaves),
                        ((10**9, None), []), ((5, 4), [])]:  # fmt: skip
        got = [one.cid for one in cut(["big"], scope="entity", entity_bytes=asked)]
        assert got == above + want


def test_blocks_that_come_twice_are_written_once_unless_they_are_wanted(
    kubo: Kubo, tmp_path: Path
) -> None:
    zeros = bytes(5 * 100_000)
    root, blocks = exported(kubo, kubo.add_with(zeros, "--chunker=size-100000"), tmp_path)
    once = list(stream(traverse.blocks(root), blocks.get_block))
    each = list(stream(traverse.blocks(root, duplicates=True), blocks.get_block))
    assert (len(once), len(each)) == (2, 6)


def test_paths_through_dag_cbor_lead_on(kubo: Kubo, tmp_path: Path) -> None:
    file = kubo.add_with(b"hello")
    value = {"a": {"list": [1, {"/": file}]}, "n": {"/": {"bytes": "AQI"}}}
    for codec in ("dag-cbor", "dag-json"):
        root = kubo._run("dag", "put", f"--store-codec={codec}", stdin=json.dumps(value).encode())
        cid, blocks = exported(kubo, root, tmp_path)
        found = run(path.resolve(cid, ["a", "list", "1"]), blocks.get_block)
        assert (found.cid, found.remainder) == (parse_cid_as_written(file), ())
        assert found.blocks == (cid,)
        inside = run(path.resolve(cid, ["a", "list"]), blocks.get_block)
        assert (inside.cid, inside.remainder) == (cid, ("a", "list"))
        with pytest.raises(NotFound):
            run(path.resolve(cid, ["a", "list", "7"]), blocks.get_block)
