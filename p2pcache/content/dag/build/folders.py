"""Directories: plain while they are small, else sharded by the hashes of the names (HAMT)."""

from __future__ import annotations

from heapq import merge
from typing import TYPE_CHECKING

from p2pcache.content.dag import fsdata
from p2pcache.content.dag.build.profile import Root, forget, make_node
from p2pcache.content.dag.folders import HASH_BITS, name_hash
from p2pcache.content.dag.fsdata import FsData, Kind
from p2pcache.content.dag.node import link_field
from p2pcache.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from p2pcache.content.dag.build.profile import Keep, Profile

SORTED_AT_ONCE = 1 << 15  # names: some 20 ms
DIRECTORY = fsdata.encode(FsData(Kind.DIRECTORY))

_Named = tuple[int, bytes, Root]  # hash of the name, name, child


def directory(profile: Profile, entries: Mapping[str, Root], keep: Keep = forget) -> Root:
    """A directory of what `entries` names; sharded when it is larger than the profile allows."""
    named = [(name.encode(), entries[name]) for name in by_bytes(entries)]
    if _is_large(profile, named):
        return _shard(profile, [(name_hash(name), name, child) for name, child in named], 0, keep)
    size = sum(child.size for _, child in named)
    return make_node(profile, named, DIRECTORY, size, keep)[0]


def by_bytes(names: Iterable[str]) -> list[str]:
    """Names in the order of their bytes. Very many are sorted in parts: one sort of a million would
    hold up every thread for a second.
    """
    found = list(names)
    parts = [
        sorted(found[at : at + SORTED_AT_ONCE], key=str.encode)
        for at in range(0, len(found), SORTED_AT_ONCE)
    ]
    return parts[0] if len(parts) == 1 else list(merge(*parts, key=str.encode))


def _is_large(profile: Profile, named: list[tuple[bytes, Root]]) -> bool:
    """Whether a plain directory is over the limit: exact at the edge, as boxo counts."""
    if profile.shard_by == "links":
        return sum(len(name) + len(child.cid) for name, child in named) > profile.shard_bytes
    block = len(DIRECTORY) + 2  # the data with their key and length
    for name, child in named:
        block += len(link_field(child.cid, name, child.dag_size))
    return block > profile.shard_bytes


def _shard(profile: Profile, named: list[_Named], depth: int, keep: Keep) -> Root:
    """One node of a HAMT; at most as deep as the hash is long."""
    width = profile.fanout.bit_length() - 1
    digits = len(f"{profile.fanout - 1:X}")
    shift = HASH_BITS - width * (depth + 1)
    if shift < 0:
        raise UsageError("two names of a large folder have one and the same hash: not possible")
    slots: dict[int, list[_Named]] = {}
    for one in named:
        slots.setdefault(one[0] >> shift & profile.fanout - 1, []).append(one)
    links = []
    bits = 0
    for slot in sorted(slots):
        bits |= 1 << slot
        prefix = f"{slot:0{digits}X}".encode()
        if len(slots[slot]) == 1:
            _, name, child = slots[slot][0]
            links.append((prefix + name, child))
        else:
            links.append((prefix, _shard(profile, slots[slot], depth + 1, keep)))
    field = bits.to_bytes(profile.fanout // 8, "big").lstrip(b"\0")
    data = fsdata.encode(FsData(Kind.SHARD, field, hash_type=fsdata.MURMUR3, fanout=profile.fanout))
    return make_node(profile, links, data, sum(child.size for _, child in links), keep)[0]


def symlink(profile: Profile, target: str, keep: Keep = forget) -> Root:
    """A symlink; of a file it has no bytes, so that its `size` is 0."""
    data = fsdata.encode(FsData(Kind.SYMLINK, target.encode()))
    return make_node(profile, (), data, 0, keep)[0]


def tree(
    profile: Profile,
    entries: Mapping[str, Root],
    empty_directories: Iterable[str] = (),
    keep: Keep = forget,
) -> Root:
    """A whole folder from `path -> root` of its files and symlinks. Raises UsageError for a path
    that is a file and a folder.
    """
    below: dict[str, dict[str, Root]] = {"": {}}
    for path in empty_directories:
        _make(below, path)
    for path, root in entries.items():
        above, _, name = path.rpartition("/")
        _make(below, above)
        below[above][name] = root
    for path in sorted(below, key=lambda path: (-path.count("/"), path)):
        if path == "":
            continue
        above, _, name = path.rpartition("/")
        if name in below[above]:
            raise UsageError(f"`{path}` is a file and a folder")
        below[above][name] = directory(profile, below.pop(path), keep)
    return directory(profile, below[""], keep)


def _make(below: dict[str, dict[str, Root]], path: str) -> None:
    """A folder and those above it."""
    while path not in below:
        below[path] = {}
        path = path.rpartition("/")[0]
